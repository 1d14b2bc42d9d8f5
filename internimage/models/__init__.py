from .intern_image import VARIANTS, InternImage, build_variant

__all__ = ['VARIANTS', 'InternImage', 'build_variant']
