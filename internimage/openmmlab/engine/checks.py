"""Checks of a training or evaluation: batch norm on batches of one, no detection at all, data loader settings."""

import torch
from mmdet.evaluation import CocoMetric
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..datasets.checks.errors import DataError


@HOOKS.register_module()
class BatchOfOneHook(Hook):
    """Batch norm after a pooling to one value per channel (UPerNet, PSPNet, ASPP) cannot train on one image.

    Raises:
        DataError: before the first step, if a batch will hold one image, be it only the last batch of an epoch.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        name = next(_norms_of_one_value(runner.model), None)
        if name is None or (get_world_size() > 1 and isinstance(runner.model.get_submodule(name), nn.SyncBatchNorm)):
            return
        loader = runner.train_loop.dataloader
        size = loader.batch_size
        if size == 1:
            raise DataError(
                f'{name} is batch norm behind a pooling to one value, which needs 2 images or more in a batch to train '
                '(on each GPU), got train_dataloader.batch_size=1: set it to 2 or more'
            )
        images = len(loader.sampler) if isinstance(runner.train_loop, EpochBasedTrainLoop) else 0
        if size and images % size == 1 and not loader.drop_last:
            raise DataError(
                f'{name} is batch norm behind a pooling to one value, which needs 2 images or more in a batch to '
                f'train, and of {images} images in batches of {size} one is left: set '
                'train_dataloader.drop_last=True or another batch_size'
            )


@HOOKS.register_module()
class NoDetectionHook(Hook):
    """Logs a warning if a detector finds nothing at all in an evaluation, and sets the metrics of mmdet's CocoMetric,
    which returns none in that case, to 0."""

    priority = 'HIGHEST'  # before the hooks that log the metrics

    def before_val_epoch(self, runner: Runner) -> None:
        self.images, self.found = 0, 0

    before_test_epoch = before_val_epoch

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for sample in outputs or ():
            if 'pred_instances' in sample:
                self.images, self.found = self.images + 1, self.found + len(sample.pred_instances)

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._fill_in(runner, metrics, runner.val_evaluator)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._fill_in(runner, metrics, runner.test_evaluator)

    def _fill_in(self, runner: Runner, metrics: dict | None, evaluator) -> None:
        counts = torch.tensor([self.images, self.found])
        all_reduce(counts)
        if not counts[0] or counts[1]:
            return
        runner.logger.warning(f'no detection in any of {counts[0]} images: metrics are 0 (or -1 where nothing counts)')
        for metric in evaluator.metrics:
            if isinstance(metric, CocoMetric) and not metric.format_only:
                items = metric.metric_items or ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
                for kind in set(metric.metrics) & {'bbox', 'segm'}:
                    for item in items:
                        metrics.setdefault(f'{metric.prefix}/{kind}_{item}', 0.0)


def ensure_hooks(runner: Runner, *kinds: type[Hook]) -> None:
    """Registers a hook of each kind unless the config has it."""
    for kind in kinds:
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())


def check_loader(loader: dict) -> None:
    """Checks a config's data loader; with num_workers=0 it removes the options that need worker processes.

    Raises:
        ValueError: `num_workers` or `batch_size` is not a whole number of at least 0 or 1.
    """
    for key, least in (('num_workers', 0), ('batch_size', 1)):
        value = loader.get(key, least)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ValueError(f'{key} must be a whole number of at least {least}, got {value!r}')
    if loader and not loader.get('num_workers', 0):
        loader['persistent_workers'] = False
        loader.pop('prefetch_factor', None)


def _norms_of_one_value(model: nn.Module):
    """Names of the batch norms that see one value per image and channel: behind a pooling to 1 x 1 in a sequence."""
    for prefix, sequence in model.named_modules():
        pooled = False
        for name, part in sequence.named_children() if isinstance(sequence, nn.Sequential) else ():
            if isinstance(part, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
                pooled = part.output_size in (1, (1, 1), [1, 1])
            elif pooled:
                for inner, module in part.named_modules():
                    if isinstance(module, _BatchNorm):
                        yield '.'.join(filter(None, (prefix, name, inner)))
