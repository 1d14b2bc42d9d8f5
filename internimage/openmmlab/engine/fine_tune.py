"""Starting from a model that was trained on other classes."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from ...checkpoint import CheckpointError, check_finite, fit_for_fine_tuning
from ..checkpoint import class_layers
from .classes import check_classes


@HOOKS.register_module()
class FineTuneHook(Hook):
    """`load_from` takes the checkpoint of the same model with another number of classes, or classes of other names.

    Layers that depend on the classes keep their initial weights, which the log lists. Anything else that does not fit
    is a `CheckpointError`, and so are the same names in another order. `internimage train` has this hook always, and so
    have the configs of this project; for others it is ``custom_hooks = [dict(type='FineTuneHook')]``. In a test the
    classes must be those of the checkpoint.
    """

    priority = 'VERY_HIGH'  # before hooks that copy the weights, such as EMAHook

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:
            return
        path, training = runner._load_from, isinstance(runner._train_loop, BaseLoop)
        loop = runner._train_loop if training else runner._test_loop
        if not isinstance(loop, BaseLoop):  # a checkpoint loaded by hand
            return
        classes = getattr(loop.dataloader.dataset, 'metainfo', {}).get('classes')
        check_finite(checkpoint['state_dict'], path)
        renamed = check_classes(classes, checkpoint, path, renamed=training)
        if not training:
            return
        names, weights = class_layers(runner.cfg.model), checkpoint['state_dict']
        if renamed and not names:
            raise CheckpointError(
                f'checkpoint {path}: {renamed}, and no num_classes in the model of the config says which layers are to '
                'start anew: state it in every head'
            )
        if renamed:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            own = model.state_dict()
            weights = {**weights, **{name: own[name] for name in names if name in weights and name in own}}
        weights, anew = fit_for_fine_tuning(runner.model, weights, names, path)
        checkpoint['state_dict'] = weights
        if renamed:
            anew = sorted(names & weights.keys())
        if anew:
            why = renamed or 'the number of classes differs'
            runner.logger.info(
                f'{len(weights) - len(anew)} of {len(weights)} entries loaded from {path}; {why}, so {len(anew)} start '
                f'anew: {", ".join(anew)}'
            )
