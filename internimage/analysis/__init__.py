"""What any torch model costs (parameters, FLOPs, memory), and what it looks at (spatial support)."""

from .complexity import Complexity, Cost, count
from .support import (
    BoxNode,
    FeatureNode,
    OffsetNumbers,
    ReceptiveField,
    SalientRegion,
    SamplingLocations,
    ScoreNode,
    SupportError,
    effective_receptive_field,
    effective_sampling_locations,
    offset_numbers,
    register_layer,
    salient_region,
)

__all__ = [
    'BoxNode',
    'Complexity',
    'Cost',
    'FeatureNode',
    'OffsetNumbers',
    'ReceptiveField',
    'SalientRegion',
    'SamplingLocations',
    'ScoreNode',
    'SupportError',
    'count',
    'effective_receptive_field',
    'effective_sampling_locations',
    'offset_numbers',
    'register_layer',
    'salient_region',
]
