"""Exported networks: the same features in other programs, and no file where they differ."""

import sys

import numpy as np
import pytest
import torch

from internimage import InternImage
from internimage.export import Backbone, ExportError, example_image, export
from internimage.export.comparing import compare_detections, compare_maps
from internimage.export.formats import run_onnx
from internimage.export.tracing import adaptive_avg_pool2d


def network(**options) -> Backbone:
    """Two stages, of which every layer matters; H's options, so that all paths of the layer are there."""
    torch.manual_seed(0)
    options = {'dw_kernel_size': 5, 'center_feature_scale': True, **options}
    model = InternImage(channels=16, depths=(1, 1), groups=(1, 2), out_indices=(0, 1), **options).eval()
    for layer in model.modules():
        if hasattr(layer, 'input_proj'):
            torch.nn.init.normal_(layer.offset.weight, std=0.3)
            torch.nn.init.normal_(layer.mask.weight, std=0.3)
    return Backbone(model)


def test_onnx_has_the_features_at_three_sizes_and_standard_operators_alone(tmp_path):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    backbone = network()
    done = export(backbone, tmp_path / 'backbone.onnx', size=(96, 128))
    assert [file.name for file in done.files] == [file.name for file in tmp_path.iterdir()] == ['backbone.onnx']

    model = onnx.load(tmp_path / 'backbone.onnx')
    assert {node.domain for node in model.graph.node} <= {'', 'ai.onnx'} and not model.functions
    assert {entry.domain for entry in model.opset_import} <= {'', 'ai.onnx'}
    assert 'GridSample' in {node.op_type for node in model.graph.node}

    run = run_onnx(tmp_path / 'backbone.onnx')
    for batch, size in ((1, (65, 131)), (3, (96, 128)), (2, (224, 160))):
        image = example_image(size, batch, seed=7)
        expected, found = backbone.reference(torch.from_numpy(image)), run(image)
        assert list(found) == ['stage0', 'stage1']
        for name in found:
            assert np.abs(expected[name]).max() > 0.5
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4)


def test_pt2_has_our_operators_and_takes_a_single_image(tmp_path):
    backbone = network()
    done = export(backbone, tmp_path / 'backbone.pt2', 'pt2', (96, 128))
    program = torch.export.load(tmp_path / 'backbone.pt2')
    assert torch.ops.ops_dcnv3.dcnv3.default in {node.target for node in program.graph.nodes}
    image = torch.from_numpy(example_image((70, 90), 1))
    found = program.module()(image)
    for name, value in backbone.reference(image).items():
        np.testing.assert_allclose(found[name].detach().numpy(), value, rtol=0, atol=1e-5)
    assert 0 < done.seconds < 10 and 0 < done.megabytes < 10


@pytest.mark.slow
def test_openvino_has_the_features(tmp_path):
    pytest.importorskip('openvino')
    done = export(network(), tmp_path / 'backbone.xml', 'openvino', (96, 128))
    assert sorted(file.name for file in done.files) == ['backbone.bin', 'backbone.xml']


class Wrong(Backbone):
    def reference(self, image):
        return {name: value + 1e-3 * (name == 'stage1') for name, value in super().reference(image).items()}


def test_a_file_that_differs_is_not_written(tmp_path):
    (tmp_path / 'backbone.pt2').write_text('of before')
    with pytest.raises(ExportError, match=r'^not written, as the pt2 file differs: stage1 differ by at most \d.*e-0\d'):
        export(Wrong(network().backbone), tmp_path / 'backbone.pt2', 'pt2', (96, 128))
    assert [file.name for file in tmp_path.iterdir()] == ['backbone.pt2']
    assert (tmp_path / 'backbone.pt2').read_text() == 'of before'


def test_errors_are_one_line(tmp_path, monkeypatch):
    for arguments, message in (
        (('a.onnx', 'tflite'), "format must be one of onnx, pt2, openvino, got 'tflite'"),
        (('a.pt2', 'onnx'), r'a file of format onnx must end in \.onnx, got .*a\.pt2'),
        (('a.onnx', 'onnx', (31, 96)), 'height and width must be at least 32 pixels, got 31 and 96'),
        (('a.pt2', 'pt2', (96, 64)), 'height and width must be at least 65 pixels, got 96 and 64'),
    ):
        with pytest.raises(ExportError, match=f'^{message}$'):
            export(network(), tmp_path / arguments[0], *arguments[1:])
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(ExportError, match=r'pip install "internimage\[export\]"$'):
        export(network(), tmp_path / 'a.xml', 'openvino', (96, 96))
    assert not list(tmp_path.iterdir())


def test_average_pooling_of_any_size_to_bins_that_overlap():
    input = torch.randn(2, 3, 7, 11, dtype=torch.float64)
    for size in ((1, 1), (2, 3), (6, 6), (9, 4)):
        torch.testing.assert_close(
            adaptive_avg_pool2d(input, size), torch.nn.functional.adaptive_avg_pool2d(input, size)
        )


def detections(*rows, places=4) -> dict[str, np.ndarray]:
    """One image; each row is (x1, score, label): a box of 10 pixels with a mask of 2 x 2 at column x1."""
    found = dict(
        boxes=np.zeros((1, places, 4)),
        scores=np.zeros((1, places)),
        labels=np.zeros((1, places), int),
        masks=np.zeros((1, places, 8, 64), bool),
    )
    for k, (x, score, label) in enumerate(rows):
        found['boxes'][0, k], found['scores'][0, k], found['labels'][0, k] = (x, 0, x + 10, 10), score, label
        found['masks'][0, k, :2, round(x) : round(x) + 2] = True
    return found


def test_detections_agree_in_any_order_and_up_to_rounding():
    expected = detections((3, 0.9, 1), (20, 0.8, 0))
    agreement = compare_detections(expected, detections((20.01, 0.8004, 0), (3, 0.9, 1), places=9))
    assert not agreement.faults and agreement.notes[0] == '2 detections'


@pytest.mark.parametrize(
    'other',
    [
        [(3, 0.9, 1)],
        [(3, 0.9, 1), (20, 0.8, 0), (40, 0.5, 0)],
        [(3, 0.9, 1), (20, 0.8, 1)],
        [(3, 0.9, 1), (20, 0.79, 0)],
        [(3, 0.9, 1), (20.2, 0.8, 0)],
    ],
    ids=['one is missing', 'one too many', 'another label', 'another score', 'another place'],
)
def test_detections_that_differ_are_found(other):
    assert compare_detections(detections((3, 0.9, 1), (20, 0.8, 0)), detections(*other)).faults


def test_equal_scores_are_no_excuse_but_are_said():
    expected, found = detections((3, 1.0, 1), (20, 1.0, 1), (40, 0.8, 0)), detections((3, 1.0, 1), (40, 0.8, 0))
    fault = '1 detections have no partner among 3, of which 2 share their score with others: which of equals are kept '
    assert compare_detections(expected, found).faults == [f'{fault}is chance']
    assert compare_detections(found, expected).faults == ['1 detections have no partner among 2']


def test_masks_that_differ_are_found():
    expected, found = detections((3, 0.9, 1)), detections((3, 0.9, 1))
    found['masks'][0, 0, 0, 3] = False
    assert 'masks' in compare_detections(expected, found).faults[0]


def test_label_maps_may_differ_only_where_two_classes_are_equally_good():
    logits = np.zeros((1, 2, 1, 2))
    logits[0, 1] = [[5.0, 1e-6]]
    expected = dict(logits=logits, label_map=np.array([[[1, 1]]]))
    assert not compare_maps(expected, dict(logits=logits, label_map=np.array([[[1, 0]]]))).faults
    assert compare_maps(expected, dict(logits=logits, label_map=np.array([[[0, 1]]]))).faults
    assert compare_maps(expected, dict(logits=logits + np.nan, label_map=expected['label_map'])).faults
