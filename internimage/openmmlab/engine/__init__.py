from .cpu_amp import CPUAmpOptimWrapper, keep_boxes_exact
from .fine_tune import FineTuneHook
from .layer_decay import CustomLayerDecayOptimizerConstructor
from .precision import take_any_dtype

__all__ = [
    'CPUAmpOptimWrapper',
    'CustomLayerDecayOptimizerConstructor',
    'FineTuneHook',
    'keep_boxes_exact',
    'take_any_dtype',
]
