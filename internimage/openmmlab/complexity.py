"""What a config's model costs, by :mod:`internimage.analysis`: parameters, FLOPs and memory, without running it.

A two-stage detector's RoI heads are counted on 1000 proposals, mask heads on 100; all stages of a cascade. Box
selection and NMS are left out. Segmentors: without auxiliary heads.
"""

from collections.abc import Callable
from contextlib import ExitStack
from unittest.mock import patch

import torchvision
from mmcv.ops import RoIAlign, deform_conv, modulated_deform_conv
from mmdet.models.detectors import BaseDetector, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, OPTIMIZERS, DefaultScope
from mmseg.models import BaseSegmentor
from torch import Tensor, nn

from ..analysis import Complexity, count

PROPOSALS, MASK_PROPOSALS = 1000, 100


def count_config(cfg: Config, shape: tuple[int, int]) -> Complexity:
    """The cost of a config's model on one image of `shape` (height, width), and of its optimizer.

    Raises:
        ValueError: the shape is not one, or the model cannot be run without data.
    """

    def build() -> nn.Module:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
            return MODELS.build(cfg.model)

    return count_model(build, shape, cfg.get('optim_wrapper', {}).get('optimizer'))


def count_model(build: Callable[[], nn.Module], shape: tuple[int, int], optimizer: dict | None = None) -> Complexity:
    """:func:`internimage.analysis.count` of a model with parts of mmcv, mmdet or mmseg.

    `optimizer` is that of a config's ``optim_wrapper``.
    """

    def build_optimizer(parameters):
        return OPTIMIZERS.build({**optimizer, 'params': parameters})

    with ExitStack() as stack:
        for target, name, substitute in _SUBSTITUTES:
            stack.enter_context(patch.object(target, name, substitute))
        return count(lambda: revert_sync_batchnorm(build()), shape, build_optimizer if optimizer else None, forward)


def forward(model: nn.Module, image: Tensor):
    """The pass that is counted: of a detector of mmdet, a segmentor of mmseg, or any other model."""
    shape = tuple(image.shape[-2:])
    meta = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), shape)
    meta.update(scale_factor=(1.0, 1.0), flip=False)
    if isinstance(model, BaseSegmentor):
        return model.encode_decode(image, [meta])
    if isinstance(model, TwoStageDetector):
        features = model.extract_feat(image)
        return model.rpn_head(features), _run_roi_head(model.roi_head, features)
    if isinstance(model, BaseDetector):
        return model._forward(image, [DetDataSample(metainfo=meta)])
    return model(image)


def _run_roi_head(head: nn.Module, features: tuple[Tensor, ...]) -> list:
    rois = bbox2roi([features[0].new_zeros(PROPOSALS, 4)])
    results = []
    for stage in [(i,) for i in range(head.num_stages)] if isinstance(head, CascadeRoIHead) else [()]:
        results.append(head._bbox_forward(*stage, features, rois))
        if head.with_mask:
            results.append(head._mask_forward(*stage, features, rois[:MASK_PROPOSALS]))
    return results


# Operators that have no form for fake tensors, and the equal ones, in shapes and cost, that have.


def _roi_align(self, input, rois):
    return torchvision.ops.roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)


def _one_level(self, feats, rois, roi_scale_factor=None):
    """All RoIs from one level: the level of a RoI depends on its box, its cost does not."""
    return self.roi_layers[0](feats[0], rois)


def _deform_conv2d(input, offset, weight, stride=1, padding=0, dilation=1, *_):
    return torchvision.ops.deform_conv2d(input, offset, weight, None, stride, padding, dilation)


def _modulated_deform_conv2d(input, offset, mask, weight, bias=None, stride=1, padding=0, dilation=1, *_):
    return torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


_SUBSTITUTES = (
    (RoIAlign, 'forward', _roi_align),
    (SingleRoIExtractor, 'forward', _one_level),
    (deform_conv, 'deform_conv2d', _deform_conv2d),
    (modulated_deform_conv, 'modulated_deform_conv2d', _modulated_deform_conv2d),
)
