"""Makes mmengine's `Runner.from_cfg` read a config as the commands do."""

import copy

from mmengine.config import Config
from mmengine.runner import Runner

from ..configuration import SPLITS, apply_variables
from .checks import check_loader

_from_cfg = Runner.from_cfg.__func__


def _from_prepared_cfg(cls, cfg) -> Runner:
    """mmengine's `Runner.from_cfg`; what the config states by name (`classes`, `image_scale` ...) is applied and its
    data loaders are checked before.

    It also holds in mmdet's own tools and in notebooks, once `internimage.openmmlab` is imported.
    """
    if isinstance(cfg, Config):
        cfg = copy.deepcopy(cfg)
        apply_variables(cfg)
        for split in SPLITS:
            check_loader(cfg.get(f'{split}_dataloader') or {})
    return _from_cfg(cls, cfg)


Runner.from_cfg = classmethod(_from_prepared_cfg)
