from .roi_bins import draw_roi_bins, roi_bins

__all__ = ['draw_roi_bins', 'roi_bins']
