"""The folder that is appended to mmcv's path if mmcv has no compiled part: see `internimage.openmmlab.ops`."""
