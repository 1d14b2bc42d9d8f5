"""Errors in a data pipeline name the file and the annotation, in worker processes too."""

import traceback
from pathlib import Path

from mmengine.dataset import BaseDataset, Compose

from ..images import ImageError
from .checks.errors import DataError


def _prepare_data(self: BaseDataset, idx: int):
    """Replaces mmengine's: the sample of image `idx`, or None where the pipeline leaves the image out.

    Raises:
        DataError: a transform failed, or left out so many images in a row that mmengine would give up.
    """
    sample = self.get_data_info(idx)
    if not isinstance(self.pipeline, Compose):
        return self.pipeline(sample)
    file = sample.get('img_path') or f'image {idx}'
    for transform in self.pipeline.transforms:
        try:
            sample = transform(sample)
        except DataError:
            raise
        except ImageError as error:
            raise DataError(str(error)) from error
        except OSError as error:
            raise DataError(f'{error.filename or file}: {error.strerror or error}') from error
        except Exception as error:
            raise DataError(f'{file}: {_annotation(self, idx, transform)}{_reason(transform, error)}') from error
        if sample is None:
            self._left_out = getattr(self, '_left_out', 0) + 1
            if self.test_mode or self._left_out > self.max_refetch:
                raise DataError(
                    f'{file}: left out by {transform!r}'
                    + (
                        ''
                        if self.test_mode
                        else ', as were all of the '
                        f'{self._left_out} images in a row before: are there images that it keeps?'
                    )
                )
            return None
    self._left_out = 0
    return sample


def _reason(transform, error: Exception) -> str:
    name = type(transform).__name__
    if name.startswith('LoadImage'):
        return f'a broken image, or none that can be read ({error or type(error).__name__})'
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f'{name}: {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})'


def _annotation(dataset: BaseDataset, idx: int, failed) -> str:
    """Which of the annotations of image `idx` the transform `failed` fails on: the first that it fails on alone."""
    instances = dataset.get_data_info(idx).get('instances') or []
    if _fails(dataset, idx, failed, []):  # whatever the annotations are
        return ''
    for number, instance in enumerate(instances, start=1):
        if _fails(dataset, idx, failed, [instance]):
            return f'annotation {number} of {len(instances)}, bbox {instance.get("bbox")}: '
    return ''


def _fails(dataset: BaseDataset, idx: int, failed, instances: list[dict]) -> bool:
    sample = dict(dataset.get_data_info(idx), instances=instances)
    for transform in dataset.pipeline.transforms:
        try:
            sample = transform(sample)
        except Exception:
            return transform is failed
        if transform is failed or sample is None:
            break
    return False


BaseDataset.prepare_data = _prepare_data
