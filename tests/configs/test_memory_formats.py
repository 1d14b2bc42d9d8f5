"""Every demo and official config, slimmed: the model gives the same in both memory formats, in evaluation and training.

In float64, in which sums in another order agree to 13 digits, so that no detection changes places.
"""

import copy
import functools
import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from official import ROOT
from test_detection_training import slim_dino
from test_roi_configs import slim
from test_segmentation_training import shrink

import internimage.openmmlab  # noqa: F401  (registers)
from internimage.openmmlab.configuration import dicts

PATHS = {
    str(path.relative_to(ROOT / 'configs').with_suffix('')): path
    for path in sorted((ROOT / 'configs').glob('[!_]*/*.py'))
}
HEIGHT, WIDTH = 96, 128
NUM_CLASSES = 5


@functools.cache
def slimmed(name):
    """(default scope, the model of the config with few channels, layers and classes)"""
    cfg = Config.fromfile(PATHS[name])
    model = cfg.model
    if 'decode_head' in model:
        shrink(cfg)
    elif 'roi_head' in model:
        slim(model, NUM_CLASSES)
    else:
        if 'DINO' in model.type:
            slim_dino(model)
            model.test_cfg.max_per_img = 20
        for node in dicts(model):
            if 'num_classes' in node:
                node.num_classes = NUM_CLASSES
            if 'score_thr' in node:
                node.score_thr = 0.0  # an untrained model finds something, too
    for node in dicts(model):
        node.pop('init_cfg', None)
    return cfg.default_scope, model


def structure(name):
    """Configs for which this is the same differ in their data, schedules and sizes alone."""
    scope, model = slimmed(name)
    return json.dumps([scope, model.to_dict()], sort_keys=True, default=repr)


def build(name):
    """The slimmed model in float64 with random weights; offsets, which start at zero, included."""
    torch.manual_seed(0)
    scope, cfg = slimmed(name)
    with DefaultScope.overwrite_default_scope(scope):
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg)))
    with redirect_stdout(io.StringIO()):  # it reports on every parameter
        model.init_weights()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return model.double()


def batch(name):
    """Two images with a few objects, or label maps, as the model takes them: inputs and data samples."""
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((2, 3, HEIGHT, WIDTH)))
    samples = []
    size = dict(img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH), pad_shape=(HEIGHT, WIDTH), scale_factor=(1, 1))
    for _ in inputs:
        if slimmed(name)[0] == 'mmseg':
            sample = SegDataSample(metainfo=size)
            labels = rng.integers(0, 2, (HEIGHT // 8, WIDTH // 8)).repeat(8, 0).repeat(8, 1)
            sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
        else:
            sample = DetDataSample(metainfo=dict(size, batch_input_shape=(HEIGHT, WIDTH)))
            corners = rng.integers(0, (WIDTH // 2, HEIGHT // 2), (3, 2))
            boxes = np.concatenate([corners, corners + rng.integers(16, 32, (3, 2))], 1)
            masks = np.zeros((3, HEIGHT, WIDTH), np.uint8)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
                mask[y1:y2, x1:x2] = 1
            sample.gt_instances = InstanceData(
                bboxes=torch.from_numpy(boxes).double(),
                labels=torch.from_numpy(rng.integers(0, NUM_CLASSES, 3)),
                masks=BitmapMasks(masks, HEIGHT, WIDTH),
            )
            sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4).double(), labels=torch.zeros(0).long())
        samples.append(sample)
    return inputs, samples


def predictions(model, name):
    """Everything that the model finds: tensors by name."""
    inputs, samples = batch(name)
    with torch.no_grad():
        results = model.eval().predict(inputs, samples)
    found = {}
    for i, result in enumerate(results):
        parts = [part for part in ('pred_instances', 'seg_logits') if part in result]
        assert parts
        for part in parts:
            found.update({f'{i}.{part}.{key}': value for key, value in result.get(part).items()})
    return found


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def difference_in_evaluation(structure_of_the_model, name):
    """None, or what differs."""
    model = build(name)
    expected = predictions(model, name)
    assert all(len(value) for value in expected.values())
    found = predictions(model.to(memory_format=torch.channels_last), name)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6, msg=lambda text, key=key: f'{key}: {text}')


@pytest.mark.parametrize('name', PATHS)
def test_predictions(name):
    difference_in_evaluation(structure(name), name)


# One of each kind of detector and segmentor.
KINDS = [
    'coco/mask_rcnn_internimage_t_fpn_1x_coco',
    'coco/cascade_internimage_l_fpn_3x_coco',
    'coco/mask_rcnn_internimage_t_fpn_mdpool_1x_coco',
    'coco/faster_rcnn_r50_fpn_dconv_c3-c5_1x_coco',
    'coco/faster_rcnn_r50_fpn_mdconv_c3-c5_mdpool_mimic_1x_coco',
    'coco/deform_rfcn_internimage_t_1x_coco',
    'coco/dino_4scale_internimage_t_1x_coco_layer_wise_lr',
    'coco/dino_4scale_cbinternimage_h_objects365_coco_ss',
    'ade20k/upernet_internimage_t_512_160k_ade20k',
    'cityscapes/segformer_internimage_l_512x1024_160k_mapillary2cityscapes',
    'ade20k/mask2former_internimage_h_896_80k_cocostuff2ade20k_ss',
]


@pytest.mark.parametrize('name', KINDS)
def test_losses_and_gradients_of_a_training_step(name):
    # The point samples of Mask2Former's loss are float32.
    dtype, tolerance = (torch.float32, 1e-4) if 'mask2former' in name else (torch.float64, 1e-8)

    def step(memory_format):
        model = build(name).to(dtype).to(memory_format=memory_format).train()
        inputs, samples = batch(name)
        torch.manual_seed(1)  # samplers draw RoIs and points, dropout and DropPath draw
        np.random.seed(1)
        torch.set_default_dtype(dtype)  # of the noise that DINO adds to its queries
        try:
            total, values = model.parse_losses(model.loss(inputs.to(dtype), samples))
            total.backward()
        finally:
            torch.set_default_dtype(torch.float32)
        return values, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    values, gradients = step(torch.contiguous_format)
    assert len(values) > 1 and sum(bool(gradient.any()) for gradient in gradients.values()) > len(gradients) / 2
    found_values, found_gradients = step(torch.channels_last)
    assert values.keys() == found_values.keys() and gradients.keys() == found_gradients.keys()
    for key, value in values.items():
        torch.testing.assert_close(found_values[key], value, rtol=tolerance, atol=tolerance)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for key, gradient in gradients.items():
        atol = tolerance * largest
        torch.testing.assert_close(found_gradients[key], gradient, rtol=0, atol=atol, msg=f'gradient of {key}')
