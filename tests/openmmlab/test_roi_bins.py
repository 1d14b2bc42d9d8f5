import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from internimage.openmmlab.cli import draw_bins
from internimage.openmmlab.inference import load_model
from internimage.openmmlab.roi_bins import draw_roi_bins, roi_bins

ROOT = Path(__file__).resolve().parents[2]
KINDS = ['faster_rcnn_internimage_small_dpool', 'faster_rcnn_internimage_small_mdpool', 'deform_rfcn_internimage_small']


def shift_all_bins(model, x, y):
    """Every bin, of every class, by (x, y) of the width and height of the box."""
    shift = torch.tensor([x, y]) / 0.1  # gamma
    for name, parameter in model.named_parameters():
        if name.endswith('offset_fc.4.bias'):  # x of all bins, then y
            parameter.data.copy_(shift.repeat_interleave(len(parameter) // 2))
        elif name.endswith('offset_conv.bias'):  # x and y of each class and bin
            parameter.data.copy_(shift.repeat_interleave(49).repeat(len(parameter) // 98))


def untrained(kind, folder, shift=None):
    """(config file, checkpoint file) of a model with random weights that finds something."""
    torch.manual_seed(0)
    cfg = Config.fromfile(ROOT / f'configs/demo/{kind}_bccd.py')
    cfg.model.test_cfg.rcnn.update(score_thr=0.0)
    cfg.dump(folder / 'config.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    if shift is not None:
        shift_all_bins(model, *shift)
    torch.save(dict(state_dict=model.state_dict()), folder / 'model.pth')
    return str(folder / 'config.py'), str(folder / 'model.pth')


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    file = tmp_path_factory.mktemp('image') / 'noise.png'
    mmcv.imwrite(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8), str(file))
    return str(file)


@pytest.mark.parametrize('kind', KINDS)
def test_bins_and_their_shifts(kind, image, tmp_path):
    model = load_model(*untrained(kind, tmp_path, shift=(0.05, -0.1)))
    bins = roi_bins(model, image, score_thr=0.0, max_boxes=3)
    assert len(bins.boxes) == 3 and bins.scores.tolist() == sorted(bins.scores.tolist(), reverse=True)
    corner, size = bins.boxes[:, :2], bins.boxes[:, 2:] - bins.boxes[:, :2]
    torch.testing.assert_close(bins.regular[:, 0, 0], corner + size / 14)
    torch.testing.assert_close(bins.regular[:, 6, 2], corner + size * torch.tensor([5, 13]) / 14)
    moved = (bins.shifted - bins.regular) / size[:, None, None]
    near_the_border = 0.01 if kind.startswith('deform_rfcn') else 1e-4  # a constant field, pooled
    torch.testing.assert_close(moved, torch.tensor([0.05, -0.1]).expand_as(moved), atol=near_the_border, rtol=1e-3)
    weight = 0.5 if '_mdpool' in kind else 1
    assert (bins.weights == weight).all() if weight == 1 else bins.weights.sub(weight).abs().max() < 1e-6


def test_picture(image, tmp_path):
    model = load_model(*untrained(KINDS[0], tmp_path))
    bins = roi_bins(model, image, score_thr=0.0)
    picture = draw_roi_bins(model, image, bins, tmp_path / 'out' / 'bins.png', least_side=300)
    assert picture.shape == (270, 360, 3)
    assert np.array_equal(mmcv.imread(str(tmp_path / 'out' / 'bins.png'), channel_order='rgb'), picture)
    nothing = roi_bins(model, image, score_thr=1.0)
    assert len(nothing.boxes) == 0
    plain = draw_roi_bins(model, image, nothing, least_side=0)
    assert plain.shape == (90, 120, 3)


@pytest.fixture
def tool(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['draw-bins', *arguments])
        draw_bins.main()

    return call


def test_tool(tool, image, tmp_path, capsys):
    out = tmp_path / 'bins.png'
    tool(image, *untrained(KINDS[2], tmp_path), '--out', str(out), '--score-thr', '0.01', '--max-boxes', '2')
    assert '2 detections with a score above 0.01; bins shifted by 0.00 %' in capsys.readouterr().out
    assert mmcv.imread(str(out)).shape == (720, 960, 3)


@pytest.mark.parametrize('kind', ['faster_rcnn_internimage_small', 'rfcn_internimage_small'])
def test_a_model_without_deformable_pooling_is_one_clear_line(tool, kind, image, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        tool(image, *untrained(kind, tmp_path))
    assert error.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith('error: config') and 'has no deformable RoI pooling' in message
