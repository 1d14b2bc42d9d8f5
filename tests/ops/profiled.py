from collections import Counter

import torch


def operators(function, *arguments) -> Counter[str]:
    """How often PyTorch's profiler sees each operator in ``function(*arguments)``."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function(*arguments)
    return Counter(event.name for event in profile.events())
