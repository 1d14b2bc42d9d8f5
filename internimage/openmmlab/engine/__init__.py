from . import runner  # noqa: F401  (Runner.from_cfg)
from .checks import BatchOfOneHook, NoDetectionHook, check_loader, ensure_hooks
from .classes import check_classes, dataset_classes
from .cpu_amp import CPUAmpOptimWrapper, keep_boxes_exact
from .fine_tune import FineTuneHook
from .layer_decay import CustomLayerDecayOptimizerConstructor
from .precision import take_any_dtype
from .resume import ResumeHook, check_resumable, latest_checkpoint

__all__ = [
    'BatchOfOneHook',
    'CPUAmpOptimWrapper',
    'CustomLayerDecayOptimizerConstructor',
    'FineTuneHook',
    'NoDetectionHook',
    'ResumeHook',
    'check_classes',
    'check_loader',
    'check_resumable',
    'dataset_classes',
    'ensure_hooks',
    'keep_boxes_exact',
    'latest_checkpoint',
    'take_any_dtype',
]
