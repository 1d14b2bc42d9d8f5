from .cb_dino import CBDINO, CBDINOHead
from .cb_intern_image import CBChannelMapper, CBInternImage
from .dino import OfficialDINO
from .intern_image import VARIANTS, InternImage, build_variant
from .mimic import MimicFasterRCNN, MimicRoIHead
from .rfcn import RFCN, RFCNHead, RFCNRoIHead, SingleInputRPNHead
from .roi_extractors import DeformRoIExtractor

__all__ = [
    'CBDINO',
    'CBDINOHead',
    'CBChannelMapper',
    'CBInternImage',
    'OfficialDINO',
    'RFCN',
    'VARIANTS',
    'DeformRoIExtractor',
    'InternImage',
    'MimicFasterRCNN',
    'MimicRoIHead',
    'RFCNHead',
    'RFCNRoIHead',
    'SingleInputRPNHead',
    'build_variant',
]
