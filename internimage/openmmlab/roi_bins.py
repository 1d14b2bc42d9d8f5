"""Where a detector's deformable RoI pooling looks: the bins of a box, regular and as they are shifted."""

from dataclasses import dataclass
from itertools import cycle

import cv2
import mmcv
import numpy as np
import torch
from mmdet.structures.bbox import bbox2roi
from torch import Tensor, nn

from ops_dcnv3 import DeformRoIPoolPack, Sampling

from .inference import predict, read_image
from .models import RFCNHead

COLOURS = ((255, 220, 0), (0, 230, 255), (255, 90, 90), (120, 255, 60), (255, 130, 255), (255, 160, 40))  # RGB


@dataclass
class RoIBins:
    """Of K detections, best first, in pixels of the image as given, the corner of its first pixel at (0, 0)."""

    boxes: Tensor  # (K, 4), x1 y1 x2 y2
    labels: Tensor  # (K,)
    scores: Tensor  # (K,)
    regular: Tensor  # (K, bins y, bins x, 2), centres of the bins, x before y
    shifted: Tensor  # the same, as the model shifts them
    weights: Tensor  # (K, bins y, bins x), the modulation; 1 where there is none

    def shifts(self) -> Tensor:
        """(K, bins y, bins x): length of the shifts by the diagonal of the box."""
        diagonals = (self.boxes[:, 2:] - self.boxes[:, :2]).norm(dim=1)
        return (self.shifted - self.regular).norm(dim=3) / diagonals[:, None, None]


@torch.no_grad()
def roi_bins(model: nn.Module, image, score_thr: float = 0.3, max_boxes: int = 6) -> RoIBins:
    """The bins that a model of `load_model` pools at its best detections, as RoIs, on one image (a file name, or an
    (H, W, 3) uint8 BGR array): those of the box branch, of the last stage of a cascade, and of R-FCN those of the class
    of the detection.

    Raises:
        ValueError: the model has no deformable RoI pooling. ImageError: the file is not an image.
    """
    pool = _find_pool(model)
    image = read_image(image)
    found = predict(model, image).pred_instances
    found = found[found.scores.argsort(descending=True)[:max_boxes]]
    found = found[found.scores > score_thr]

    data = model.pipeline(dict(img=image, img_id=0))
    batch = model.data_preprocessor(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))
    scale = found.bboxes.new_tensor(batch['data_samples'][0].scale_factor)  # (x, y)
    rois = bbox2roi([found.bboxes * scale.repeat(2)])
    regular, shifted, weights = pool(model.extract_feat(batch['inputs']), rois, found.labels)
    regular, shifted = regular / scale, shifted / scale
    return RoIBins(found.bboxes, found.labels, found.scores, regular, shifted, weights)


def draw_roi_bins(
    model: nn.Module, image, bins: RoIBins | None = None, out_file=None, least_side: int = 960
) -> np.ndarray:
    """The image with the `bins` (by default those that `roi_bins` finds) on it, (H, W, 3) uint8 RGB, also written to
    `out_file` if that is given.

    From the small ring at the regular centre of a bin a line runs to the dot at its shifted centre; the dot is the
    smaller the less the bin weighs. Each detection has a colour of its own. An image whose longer side is under
    `least_side` pixels is enlarged by a whole factor first (0: never).
    """
    image = read_image(image)
    bins = roi_bins(model, image) if bins is None else bins
    factor = -(-least_side // max(image.shape[:2])) or 1
    picture = cv2.resize(mmcv.bgr2rgb(image), None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    picture = (0.7 * picture).astype(np.uint8)  # so that the bins are visible
    radius = max(picture.shape[:2]) / 250
    subpixel = 4  # binary digits

    def point(xy: Tensor) -> tuple[int, int]:
        """OpenCV counts from the centre of the first pixel."""
        return tuple(int(v) for v in ((xy * factor - 0.5) * 2**subpixel).round())

    options = dict(lineType=cv2.LINE_AA, shift=subpixel)
    classes = model.dataset_meta['classes']
    for box, label, score, regular, shifted, weights, colour in zip(
        bins.boxes.cpu(),
        bins.labels.tolist(),
        bins.scores.tolist(),
        bins.regular.cpu(),
        bins.shifted.cpu(),
        bins.weights.cpu(),
        cycle(COLOURS),
        strict=False,
    ):
        cv2.rectangle(picture, point(box[:2]), point(box[2:]), colour, 2, **options)
        centres = list(zip(regular.flatten(0, 1), shifted.flatten(0, 1), weights.flatten().tolist(), strict=True))
        for start, end, _ in centres:
            cv2.line(picture, point(start), point(end), (255, 255, 255), 1, **options)
            cv2.circle(picture, point(start), int(0.6 * radius * 2**subpixel), (255, 255, 255), 1, **options)
        for _, end, weight in centres:
            cv2.circle(picture, point(end), int(radius * weight**0.5 * 2**subpixel), colour, cv2.FILLED, **options)
        text = f'{classes[label]} {score:.2f}'
        at = (int(box[0] * factor) + 2, max(int(box[1] * factor) - 4, 12))
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    if out_file is not None:
        mmcv.imwrite(mmcv.rgb2bgr(picture), str(out_file))
    return picture


def _find_pool(model: nn.Module):
    """A function of features, RoIs (K, 5) and classes (K,): the regular and the shifted centres of the bins, each
    (K, bins y, bins x, 2), in pixels of the network's input, and their weights (K, bins y, bins x)."""
    roi_head = getattr(model, 'roi_head', None)
    head, extractor = getattr(roi_head, 'bbox_head', None), getattr(roi_head, 'bbox_roi_extractor', None)
    if isinstance(head, RFCNHead) and head.deformable:
        return lambda features, rois, labels: _position_sensitive(head, features[-1], rois, labels)
    if isinstance(extractor, nn.ModuleList):
        extractor = extractor[-1]
    if extractor is not None and isinstance(extractor.roi_layers[0], DeformRoIPoolPack):
        return lambda features, rois, labels: _by_level(extractor, features[: extractor.num_inputs], rois)
    raise ValueError(f'the box branch of this {type(model).__name__} has no deformable RoI pooling')


def _position_sensitive(head: RFCNHead, feature: Tensor, rois: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    feature = head.reduce(feature)
    said = head.cls_pool.sampling(head.cls_maps(feature), rois, feature)
    return _centres(said, head.cls_pool.spatial_scale, labels)


def _by_level(extractor: nn.Module, features: tuple[Tensor, ...], rois: Tensor) -> tuple[Tensor, ...]:
    bins = extractor.roi_layers[0].output_size
    regular, shifted = rois.new_zeros(2, len(rois), *bins, 2)
    weights = rois.new_ones(len(rois), *bins)
    levels = extractor.map_roi_levels(rois, len(features))
    for level, layer in enumerate(extractor.roi_layers):
        here = levels == level
        if here.any():
            said = layer.sampling(features[level], rois[here])
            regular[here], shifted[here], weights[here] = _centres(said, layer.spatial_scale)
    return regular, shifted, weights


def _centres(said: Sampling, spatial_scale: float, classes: Tensor | None = None) -> tuple[Tensor, ...]:
    """What a pool says of its bins, of each RoI's class, in pixels of the network's input, the corner of the first one
    at (0, 0)."""
    at = torch.arange(len(said.offset), device=said.offset.device)
    group = torch.zeros_like(at) if classes is None else classes
    regular, shifted = (
        (places.expand(said.offset.shape)[at, :, :, group, 0] + 0.5) / spatial_scale
        for places in (said.regular, said.locations)
    )
    return regular, shifted, said.weights[at, :, :, group, 0]
