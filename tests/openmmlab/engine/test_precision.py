"""A loaded model goes on working after `half()`, `bfloat16()` and `double()`."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / 'tests' / 'configs'))
from test_memory_formats import KINDS, PATHS, build, slimmed  # noqa: E402

from internimage.openmmlab.inference import load_model, predict  # noqa: E402

NAMES = [*KINDS[1:], *(name for name in PATHS if name.startswith('demo/'))]
# What the values of outputs may be off, of scores and relative to the largest logit.
TOLERANCES = {torch.float64: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.2}
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)


@pytest.fixture(scope='module', params=NAMES)
def loaded(request, tmp_path_factory):
    """The slimmed model of a config as `load_model` makes it, and its result in float32."""
    name = request.param
    file = tmp_path_factory.mktemp('model') / 'model.pth'
    classes = [f'class {i}' for i in range(5)]
    torch.save(dict(state_dict=build(name).float().state_dict(), meta=dict(dataset_meta=dict(classes=classes))), file)
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    cfg.model = slimmed(name)[1]
    cfg.pop('classes', None)
    for node in cfg.test_dataloader.dataset.pipeline:
        if 'scale' in node:
            node.scale = (128, 96)
    model = load_model(cfg, file)
    return model, predict(model, IMAGE)


@pytest.mark.parametrize('dtype', TOLERANCES)
def test_predicts_in_any_dtype(loaded, dtype):
    model, expected = loaded
    found = predict(copy.deepcopy(model).to(dtype), IMAGE)
    tolerance = TOLERANCES[dtype]
    if 'seg_logits' in expected:
        wanted, logits = expected.seg_logits.data, found.seg_logits.data
        assert logits.shape == wanted.shape
        assert (logits - wanted).abs().max() < tolerance * wanted.abs().max()
        return
    found, expected = found.pred_instances, expected.pred_instances
    assert len(found) == len(expected) > 0
    assert (found.scores - expected.scores).abs().max() < tolerance
    assert found.bboxes.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (found.bboxes >= 0).all() and (found.bboxes <= torch.tensor([120, 90, 120, 90])).all()
    assert ('masks' in found) == ('masks' in expected)


def test_the_layers_of_a_model_of_float32_have_no_hooks(loaded):
    model, _ = loaded
    for module in model.modules():
        assert module is model or not module._forward_pre_hooks and not module._forward_hooks
