"""What any torch model costs (parameters, FLOPs, memory), and what it looks at (spatial support)."""

from .complexity import Complexity, Cost, count
from .support import (
    BoxNode,
    FeatureNode,
    LayerPoints,
    OffsetNumbers,
    ReceptiveField,
    SalientRegion,
    SamplingLocations,
    ScoreNode,
    SupportError,
    effective_receptive_field,
    effective_sampling_locations,
    layer_points,
    offset_numbers,
    register_layer,
    salient_region,
)

__all__ = [
    'BoxNode',
    'Complexity',
    'Cost',
    'FeatureNode',
    'LayerPoints',
    'OffsetNumbers',
    'ReceptiveField',
    'SalientRegion',
    'SamplingLocations',
    'ScoreNode',
    'SupportError',
    'count',
    'effective_receptive_field',
    'effective_sampling_locations',
    'layer_points',
    'offset_numbers',
    'register_layer',
    'salient_region',
]
