"""What can be said about a model of torch: what it costs."""

from .complexity import Complexity, Cost, count

__all__ = ['Complexity', 'Cost', 'count']
