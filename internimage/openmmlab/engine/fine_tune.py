"""Starting from a model that was trained on other classes."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checkpoint import fit_for_fine_tuning
from ..checkpoint import class_layers


@HOOKS.register_module()
class FineTuneHook(Hook):
    """`load_from` takes the checkpoint of the same model with another number of classes.

    What depends on that number starts anew, as the log says, and everything else must fit: a `CheckpointError` if not.
    `tools/train.py` has this hook always; for another tool it is ``custom_hooks = [dict(type='FineTuneHook')]``.
    """

    priority = 'VERY_HIGH'  # before hooks that copy the weights, such as EMAHook

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:
            return
        path, names = runner._load_from, class_layers(runner.cfg.model)
        weights, anew = fit_for_fine_tuning(runner.model, checkpoint['state_dict'], names, path)
        checkpoint['state_dict'] = weights
        if anew:
            runner.logger.info(
                f'{len(weights) - len(anew)} of {len(weights)} entries loaded from {path}; the number of classes '
                f'differs, so {len(anew)} start anew: {", ".join(anew)}'
            )
