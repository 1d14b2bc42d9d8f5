"""OpenMMLab's detectors and segmentors as files for other programs, by way of :mod:`internimage.export`.

from internimage.export import export
from internimage.openmmlab.export import exportable
export(exportable(load_model('config.py', 'checkpoint.pth')), 'model.onnx')
"""

from mmdet.models.detectors import DINO as MMDetDINO
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmseg.models.segmentors import EncoderDecoder
from torch import nn

from ...export import Backbone, Exportable, ExportError
from ...export.tracing import LEAST_SIDE
from .segmentor import Segmentor
from .transformers import DINO
from .two_stage import TwoStage

__all__ = ['exportable', 'sidecar']


def exportable(model: nn.Module) -> Exportable:
    """A detector, a segmentor or a backbone with named outputs, for :func:`internimage.export.export`.

    Raises:
        ExportError: a model of another kind, or options that cannot be exported.
    """
    if isinstance(model, TwoStageDetector) and isinstance(model.roi_head, (StandardRoIHead, CascadeRoIHead)):
        return TwoStage(model)
    if isinstance(model, MMDetDINO):
        return DINO(model)
    if isinstance(model, EncoderDecoder):
        return Segmentor(model)
    if not hasattr(model, 'backbone'):
        return Backbone(model)
    raise ExportError(
        f'{type(model).__name__} cannot be exported: Faster, Mask and Cascade R-CNN, R-FCN, DINO and segmentors '
        '(UPerNet, SegFormer, Mask2Former) can, and the backbone alone'
    )


def sidecar(model: nn.Module, network: Exportable) -> dict:
    """What a program needs beside the exported file of a model of `load_model`, ready for JSON.

    `classes`: names by index. `channel_order`, `mean`, `std`: of the pixels, in 0 to 255, before the network, in that
    order. `resize`: (width, height), or its reverse, that images are scaled to fit in, as in the config's test (exactly
    to it without `keep_ratio`); then zeros are added below and on the right until `size_divisor` divides both sides.
    """
    preprocessor = model.data_preprocessor
    normalised = getattr(preprocessor, '_enable_normalize', False)
    options = model.cfg.model.get('data_preprocessor', {})
    divisor = options.get('pad_size_divisor') or (options.get('test_cfg') or {}).get('size_divisor') or 1
    resizes = [step for step in model.pipeline.transforms if getattr(step, 'scale', None)]
    return dict(
        outputs=network.names,
        classes=list(model.dataset_meta['classes']),
        channel_order='RGB' if options.get('bgr_to_rgb') else 'BGR',
        mean=preprocessor.mean.flatten().tolist() if normalised else [0.0, 0.0, 0.0],
        std=preprocessor.std.flatten().tolist() if normalised else [1.0, 1.0, 1.0],
        resize=list(map(int, resizes[0].scale)) if resizes else [1333, 800],
        keep_ratio=bool(getattr(resizes[0], 'keep_ratio', True)) if resizes else True,
        size_divisor=divisor,
        least_side=LEAST_SIDE,
    )
