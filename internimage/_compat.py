"""What this floor uses of PyTorch that is not documented, with a probe and a fallback each."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

# Raised where fake tensors are asked for values.
NEEDS_DATA = (DataDependentOutputException, DynamicOutputShapeException)


class FakeTensors(FakeTensorMode):
    """Fake tensors, among which small ones made of numbers keep these: transformers read the shapes of their feature
    maps from such.

    Where PyTorch no longer asks `may_turn_const` (`KEEPS_NUMBERS` is False), transformers raise one of `NEEDS_DATA`.
    """

    def may_turn_const(self, t: Tensor) -> bool:
        return t.numel() <= 1024 and not self.is_our_fake(t) and t.device.type != 'meta'

    def __deepcopy__(self, memo):
        return self  # of a tensor or module that is copied, not a second world of tensors


def _keeps_numbers() -> bool:
    try:
        with FakeTensors():
            return torch.tensor([3, 5]).tolist() == [3, 5]
    except Exception:
        return False


KEEPS_NUMBERS = _keeps_numbers()


def read_record(path, name: str) -> bytes:
    """A record of a zipped checkpoint as torch.load will read it. No fallback: where two readers of zip files differ,
    one would check what the other does not load."""
    return torch._C.PyTorchFileReader(str(path)).get_record(name)
