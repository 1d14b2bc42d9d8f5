from .complexity import Complexity, Cost, count, count_config
from .roi_bins import draw_roi_bins, roi_bins

__all__ = ['Complexity', 'Cost', 'count', 'count_config', 'draw_roi_bins', 'roi_bins']
