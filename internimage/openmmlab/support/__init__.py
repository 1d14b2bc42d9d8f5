"""Spatial support (:mod:`internimage.analysis`) of detectors and segmentors: their layers, nodes and pictures."""

from .layers import layer_names
from .nodes import (
    Prepared,
    Question,
    ask_about_box,
    ask_about_detections,
    ask_about_point,
    box_node,
    box_score_node,
    feature_node,
    pixel_score_node,
    prepare,
)
from .pictures import draw_layers, draw_views

__all__ = [
    'Prepared',
    'Question',
    'ask_about_box',
    'ask_about_detections',
    'ask_about_point',
    'box_node',
    'box_score_node',
    'draw_layers',
    'draw_views',
    'feature_node',
    'layer_names',
    'pixel_score_node',
    'prepare',
]
