"""From a folder of images and annotations to a config: `internimage new`."""

from .pictures import Found, Picture, Problem, Thing
from .readers import read_folder

__all__ = ['Found', 'Picture', 'Problem', 'Thing', 'read_folder']
