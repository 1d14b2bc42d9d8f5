"""RoI extractors with this project's pooling layers, which run on the CPU as well."""

import mmcv.ops
import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor, nn

import ops_dcnv3


@MODELS.register_module()
class DeformRoIExtractor(SingleRoIExtractor):
    """mmdet's SingleRoIExtractor with the pooling layers of ``ops_dcnv3``; others, such as RoIAlign, are mmcv's.

    Every level of the pyramid has a layer of its own:

    ``roi_layer=dict(type='ModulatedDeformRoIPoolPack', output_size=7, output_channels=256)``

    The learned pools carry mmcv's names. mmdet's own extractors would take mmcv's, which have no CPU code. Under
    autocast the extractor stays in single precision: in the half types a corner at 1000 pixels is up to 4 pixels off.
    """

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        feats = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in feats]
        with torch.autocast(rois.device.type, enabled=False):
            return super().forward(feats, rois, roi_scale_factor)

    def build_roi_layers(self, layer_cfg: dict, featmap_strides: list[int]) -> nn.ModuleList:
        cfg = dict(layer_cfg)
        name = cfg['type']
        if isinstance(name, str):
            cfg['type'] = getattr(ops_dcnv3, name, None) or getattr(mmcv.ops, name, None)
            if cfg['type'] is None:
                raise ValueError(f'DeformRoIExtractor: roi_layer must be a pool of ops_dcnv3 or mmcv.ops, got {name!r}')
        return super().build_roi_layers(cfg, featmap_strides)
