import internimage.openmmlab  # noqa: F401  (before mmcv.ops: it serves the operators that mmcv has not compiled)
