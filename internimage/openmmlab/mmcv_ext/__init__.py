"""The folder that stands on mmcv's path where mmcv was installed without its compiled part: see `mmcv_ops`."""
