"""What a node of a network responds to: the three views of spatial support (arXiv 1811.11168, section 2)."""

from .layers import register_layer
from .nodes import BoxNode, FeatureNode, ScoreNode, SupportError
from .offsets import LayerPoints, OffsetNumbers, layer_points, offset_numbers
from .views import (
    ReceptiveField,
    SalientRegion,
    SamplingLocations,
    effective_receptive_field,
    effective_sampling_locations,
    salient_region,
)

__all__ = [
    'BoxNode',
    'FeatureNode',
    'LayerPoints',
    'OffsetNumbers',
    'ReceptiveField',
    'SalientRegion',
    'SamplingLocations',
    'ScoreNode',
    'SupportError',
    'effective_receptive_field',
    'effective_sampling_locations',
    'layer_points',
    'offset_numbers',
    'register_layer',
    'salient_region',
]
