"""Models of this project, in the registries of mmengine and mmdet."""

from mmengine.registry import MODELS

from ...network import InternImage
from . import segmentors  # noqa: F401  (images of several sizes in a batch)
from .cb_dino import CBDINO, CBDINOHead
from .cb_intern_image import CBChannelMapper, CBInternImage
from .dino import OfficialDINO
from .mask2former import OfficialMask2FormerHead
from .mimic import MimicFasterRCNN, MimicRoIHead
from .rfcn import RFCN, RFCNHead, RFCNRoIHead, SingleInputRPNHead
from .roi_extractors import DeformRoIExtractor

MODELS.register_module(module=InternImage)

__all__ = [
    'CBDINO',
    'CBDINOHead',
    'CBChannelMapper',
    'CBInternImage',
    'RFCN',
    'DeformRoIExtractor',
    'InternImage',
    'MimicFasterRCNN',
    'MimicRoIHead',
    'OfficialDINO',
    'OfficialMask2FormerHead',
    'RFCNHead',
    'RFCNRoIHead',
    'SingleInputRPNHead',
]
