"""Label maps whose files hold other values than class indices: 0 and 255, or colours."""

from collections.abc import Sequence

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .checks.errors import DataError
from .transforms import LabelTable


@DATASETS.register_module()
class LabelMapDataset(BaseSegDataset):
    """Folders of images and label maps with classes of one's own, read without a conversion on the disk.

    Args:
        label_values: what stands for each class in the files, in the order of the classes: a number of at most 65535,
            or an RGB colour. None: the class indices themselves.
        ignored_values: values (or colours) of pixels that are of no class. They are read as `ignore_index`.
        kwargs: those of mmseg's ``BaseSegDataset``.

    Raises:
        DataError: not one value for each class, a value that is neither, numbers beside colours, a value given twice.
    """

    def __init__(self, label_values: Sequence | None = None, ignored_values: Sequence = (), **kwargs) -> None:
        self.label_table = None
        if label_values is not None:
            metainfo = dict(kwargs.get('metainfo') or {})
            ignore_index = kwargs.get('ignore_index', 255)
            self.label_table = label_table(label_values, ignored_values, metainfo.get('classes'), ignore_index)
            if self.label_table.colours and 'palette' not in metainfo:
                kwargs['metainfo'] = dict(metainfo, palette=[list(colour) for colour in label_values])
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """The records of `BaseSegDataset`, with the key `label_table` where the files do not hold indices."""
        data = super().load_data_list()
        if self.label_table is not None:
            for info in data:
                info['label_table'] = self.label_table
        return data


def label_table(
    values: Sequence, ignored: Sequence = (), classes: Sequence | None = None, ignore_index: int | None = 255
) -> LabelTable:
    """How the `values` of classes, and `ignored` ones, are read; see `LabelMapDataset`."""
    if classes is not None and len(values) != len(classes):
        raise DataError(f'label_values has {len(values)} entries for {len(classes)} classes: one for each class')
    everything = [*values, *ignored]
    numbers = [isinstance(value, int) for value in everything]
    if any(numbers) and not all(numbers):
        raise DataError(f'label_values must be all numbers or all RGB colours, got {everything[:5]!r}')
    if not all(_is_value(value) for value in everything):
        wrong = next(value for value in everything if not _is_value(value))
        raise DataError(f'label_values must be numbers from 0 to 65535 or RGB colours (0 to 255), got {wrong!r}')
    codes = [value if isinstance(value, int) else value[0] << 16 | value[1] << 8 | value[2] for value in everything]
    if len(set(codes)) < len(codes):
        twice = next(value for value, code in zip(everything, codes, strict=True) if codes.count(code) > 1)
        raise DataError(f'label_values: {twice!r} is there more than once')
    void = 255 if ignore_index is None else ignore_index
    indices = [*range(len(values)), *[void] * len(ignored)]
    return LabelTable(not any(numbers), tuple(zip(codes, indices, strict=True)))


def _is_value(value) -> bool:
    if isinstance(value, int):
        return 0 <= value <= 65535
    return len(value) == 3 and all(isinstance(part, int) and 0 <= part <= 255 for part in value)
