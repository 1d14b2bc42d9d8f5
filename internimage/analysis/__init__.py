"""Parameters, FLOPs and memory of any torch model."""

from .complexity import Complexity, Cost, count

__all__ = ['Complexity', 'Cost', 'count']
