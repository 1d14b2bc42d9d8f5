"""RoI extractors with this project's pooling layers, which run on the CPU as well."""

import mmcv.ops
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import nn

import ops_dcnv3


@MODELS.register_module()
class DeformRoIExtractor(SingleRoIExtractor):
    """mmdet's SingleRoIExtractor with the pooling layers of ``ops_dcnv3``; others, such as RoIAlign, are mmcv's.

    Every level of the pyramid has a layer of its own:

    ``roi_layer=dict(type='ModulatedDeformRoIPoolPack', output_size=7, output_channels=256)``

    The learned pools carry mmcv's names. mmdet's own extractors would take mmcv's, which have no CPU code.
    """

    def build_roi_layers(self, layer_cfg: dict, featmap_strides: list[int]) -> nn.ModuleList:
        cfg = dict(layer_cfg)
        name = cfg['type']
        if isinstance(name, str):
            cfg['type'] = getattr(ops_dcnv3, name, None) or getattr(mmcv.ops, name, None)
            if cfg['type'] is None:
                raise ValueError(f'DeformRoIExtractor: roi_layer must be a pool of ops_dcnv3 or mmcv.ops, got {name!r}')
        return super().build_roi_layers(cfg, featmap_strides)
