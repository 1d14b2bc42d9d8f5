"""Non-maximum suppression of a batch as one operator, in ONNX the standard NonMaxSuppression.

What it returns has the shape of what it is given, so that no size behind it depends on the data.
"""

import torch
from torch import Tensor


@torch.library.custom_op('internimage::nms', mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """Which boxes stay: greedily by score, none that overlaps a better one by more than `iou_threshold`.

    Args:
        boxes (Tensor[B, M, 4]): x1, y1, x2, y2; the B sets know nothing of each other.
        scores (Tensor[B, M])
        iou_threshold: intersection over union.
        score_threshold: a box with at most this score is as if it did not exist.

    Returns:
        Tensor[B, M] of bool
    """
    from torchvision.ops import nms as of_one_set

    keep = torch.zeros_like(scores, dtype=torch.bool)
    for row, box, score in zip(keep, boxes, scores, strict=True):
        exists = (score > score_threshold).nonzero()[:, 0]
        row[exists[of_one_set(box[exists], score[exists], iou_threshold)]] = True
    return keep


@nms.register_fake
def _(boxes, scores, iou_threshold, score_threshold):
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_nms(boxes, scores, iou_threshold: float, score_threshold: float):
    """`nms` in operators of ONNX, as the translation table of `torch.onnx.export` takes it."""
    import onnx
    from onnxscript import opset20 as op

    def constant(values, kind):
        shape = [len(values)] if isinstance(values, list) else []
        values = values if isinstance(values, list) else [values]
        return op.Constant(value=onnx.helper.make_tensor('', kind, shape, values))

    selected = op.NonMaxSuppression(  # (S, 3): set, class, box
        boxes,
        op.Unsqueeze(scores, constant([1], onnx.TensorProto.INT64)),
        constant(2**30, onnx.TensorProto.INT64),
        constant(iou_threshold, onnx.TensorProto.FLOAT),
        constant(score_threshold, onnx.TensorProto.FLOAT),
    )
    place = op.Gather(selected, constant([0, 2], onnx.TensorProto.INT64), axis=1)
    none = op.ConstantOfShape(op.Shape(scores), value=onnx.helper.make_tensor('', onnx.TensorProto.FLOAT, [1], [0.0]))
    count = op.Gather(op.Shape(selected), constant([0], onnx.TensorProto.INT64))
    ones = op.ConstantOfShape(count, value=onnx.helper.make_tensor('', onnx.TensorProto.FLOAT, [1], [1.0]))
    return op.Cast(op.ScatterND(none, place, ones), to=onnx.TensorProto.BOOL)
