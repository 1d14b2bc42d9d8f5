from . import segmentors  # noqa: F401  (images of several sizes in a batch)
from .cb_dino import CBDINO, CBDINOHead
from .cb_intern_image import CBChannelMapper, CBInternImage
from .dino import OfficialDINO
from .intern_image import VARIANTS, InternImage, build_variant
from .mask2former import OfficialMask2FormerHead
from .mimic import MimicFasterRCNN, MimicRoIHead
from .rfcn import RFCN, RFCNHead, RFCNRoIHead, SingleInputRPNHead
from .roi_extractors import DeformRoIExtractor

__all__ = [
    'CBDINO',
    'CBDINOHead',
    'CBChannelMapper',
    'CBInternImage',
    'RFCN',
    'VARIANTS',
    'DeformRoIExtractor',
    'InternImage',
    'MimicFasterRCNN',
    'MimicRoIHead',
    'OfficialDINO',
    'OfficialMask2FormerHead',
    'RFCNHead',
    'RFCNRoIHead',
    'SingleInputRPNHead',
    'build_variant',
]
