"""Evaluation of mmseg's segmentors with images of several sizes in a batch."""

from collections.abc import Callable

from mmseg.models import BaseSegmentor


def _one_size_at_a_time(step: Callable) -> Callable:
    def wrapped(self: BaseSegmentor, data: dict) -> list:
        """mmseg's, which asserts that all images of a batch have one size: where they do not, each is a batch of its
        own. Padding, as in training, would change the predictions."""
        images = data['inputs']
        if len({image.shape for image in images}) < 2:
            return step(self, data)
        return [
            sample
            for i in range(len(images))
            for sample in step(self, {key: values[i : i + 1] for key, values in data.items()})
        ]

    return wrapped


BaseSegmentor.val_step = _one_size_at_a_time(BaseSegmentor.val_step)
BaseSegmentor.test_step = _one_size_at_a_time(BaseSegmentor.test_step)
