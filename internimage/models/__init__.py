from .intern_image import VARIANTS, InternImage, build_variant
from .mimic import MimicFasterRCNN, MimicRoIHead
from .rfcn import RFCN, RFCNHead, RFCNRoIHead, SingleInputRPNHead
from .roi_extractors import DeformRoIExtractor

__all__ = [
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
