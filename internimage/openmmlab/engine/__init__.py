from .cpu_amp import CPUAmpOptimWrapper, keep_boxes_exact
from .fine_tune import FineTuneHook
from .layer_decay import CustomLayerDecayOptimizerConstructor

__all__ = ['CPUAmpOptimWrapper', 'CustomLayerDecayOptimizerConstructor', 'FineTuneHook', 'keep_boxes_exact']
