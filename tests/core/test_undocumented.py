"""The undocumented parts of PyTorch that the network's floor uses."""

import pytest
import torch
from torch import nn

from internimage import _compat
from internimage.analysis import count


class ReadsShapes(nn.Module):
    """As transformers do: sizes in a tensor, read as numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, image):
        height, width = torch.tensor(image.shape[2:]).tolist()
        return self.layer(image)[..., : height // 2, : width // 3]


def test_the_probe_holds_on_this_torch():
    assert _compat.KEEPS_NUMBERS
    assert count(ReadsShapes, (6, 10)).total.flops == 6 * 10 * 3 * 4


def test_without_it_such_a_model_is_refused(monkeypatch):
    monkeypatch.delattr(_compat.FakeTensors, 'may_turn_const')
    assert not _compat._keeps_numbers()
    with pytest.raises(ValueError, match='cannot be counted: its control flow or a shape depends on the values'):
        count(ReadsShapes, (6, 10))
    assert count(lambda: nn.Conv2d(3, 4, 1), (6, 10)).total.flops == 6 * 10 * 3 * 4
