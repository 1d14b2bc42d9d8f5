from .cpu_amp import CPUAmpOptimWrapper, keep_boxes_exact
from .layer_decay import CustomLayerDecayOptimizerConstructor

__all__ = ['CPUAmpOptimWrapper', 'CustomLayerDecayOptimizerConstructor', 'keep_boxes_exact']
