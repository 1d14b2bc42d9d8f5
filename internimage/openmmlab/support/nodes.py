"""Nodes of detectors and segmentors, and the images that they are asked about."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.detectors import DINO, BaseDetector, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.structures.bbox import bbox2roi, bbox_overlaps
from mmengine.structures import BaseDataElement
from mmseg.models import BaseSegmentor
from mmseg.models.decode_heads import MaskFormerHead
from torch import Tensor, nn

from ...analysis import BoxNode, FeatureNode, ScoreNode, SupportError
from ..drawing import mask_array
from ..inference import predict, read_image
from ..models import RFCNHead


@dataclass
class Prepared:
    """An image as a model of `load_model` takes it.

    Attributes:
        input (Tensor[1, 3, H, W]): normalised and padded. All coordinates of the analysis are pixels of it.
        picture (h, w, 3): the same as uint8 RGB without the padding, h <= H and w <= W.
        scale (x, y): pixels of the input per pixel of the image as it was given.
        sample: the data sample.
        fill (3,): the mean colour of the data set, as the network sees it.
    """

    input: Tensor
    picture: np.ndarray
    scale: tuple[float, float]
    sample: BaseDataElement
    fill: list[float]

    def point(self, point) -> tuple[float, float]:
        """A point of the image, in pixels of the input."""
        return point[0] * self.scale[0], point[1] * self.scale[1]

    def box(self, box) -> tuple[float, ...]:
        """A box of the image, in pixels of the input."""
        return tuple(float(value) * self.scale[i % 2] for i, value in enumerate(box))

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the image as one of the input, (H, W) bool."""
        height, width = self.picture.shape[:2]
        small = F.interpolate(torch.from_numpy(mask)[None, None].float(), (height, width), mode='area')[0, 0] >= 0.5
        whole = np.zeros(self.input.shape[2:], bool)
        whole[:height, :width] = small.numpy()
        return whole

    def box_mask(self, box) -> np.ndarray:
        """The pixels of the input whose centre is in a box, in pixels of the input."""
        x1, y1, x2, y2 = box
        y, x = np.ogrid[: self.input.shape[2], : self.input.shape[3]]
        return (x + 0.5 >= x1) & (x + 0.5 < x2) & (y + 0.5 >= y1) & (y + 0.5 < y2)


def prepare(model: nn.Module, image) -> Prepared:
    """One image, in any form that `read_image` takes, by the test pipeline of a model of `load_model`."""
    data = model.pipeline(dict(img=read_image(image), img_id=0))
    pixels = data['inputs']
    batch = model.data_preprocessor(dict(inputs=[pixels], data_samples=[data['data_samples']]))
    sample, picture = batch['data_samples'][0], pixels.permute(1, 2, 0).numpy()
    whole, given = sample.img_shape[:2], sample.ori_shape[:2]
    if getattr(model.data_preprocessor, 'channel_conversion', True):  # pipelines read BGR
        picture = picture[..., ::-1]
    normalised = getattr(model.data_preprocessor, '_enable_normalize', True)
    fill = [0.0] * 3 if normalised else batch['inputs'].float().mean(dim=(0, 2, 3)).tolist()
    return Prepared(
        batch['inputs'],
        np.ascontiguousarray(picture.astype(np.uint8)),
        (whole[1] / given[1], whole[0] / given[0]),
        sample,
        fill,
    )


# Nodes


def feature_node(prepared: Prepared, module: str, point, index: int = 0) -> FeatureNode:
    """A pixel of the feature map of a module; `point` is in pixels of the image as given."""
    return FeatureNode(module, prepared.point(point), index, partial(_run, prepared=prepared))


def box_node(model: nn.Module, prepared: Prepared, box, of: str = 'shared') -> BoxNode:
    """The features of a box, in pixels of the image as given, of a detector.

    Args:
        of: 'pooled', what the box head gets, or 'shared', what its classifier gets: the output of its last shared
            layer. An R-FCN has no layer after pooling: its pooled score maps in either case. Of a DINO, which does not
            pool: the query whose box fits best.

    Raises:
        SupportError: the model has neither boxes' features nor queries.
    """
    if not isinstance(model, (TwoStageDetector, DINO)):
        raise SupportError(f'{type(model).__name__} has no features of boxes: give a point')
    if of not in ('pooled', 'shared'):
        raise SupportError(f"the features of a box are 'pooled' or 'shared', got {of!r}")
    features = _query_features if isinstance(model, DINO) else partial(_roi_features, of=of)
    return BoxNode(prepared.box(box), partial(features, prepared=prepared))


def box_score_node(model: nn.Module, prepared: Prepared, box, label: int) -> ScoreNode:
    """The score of a class at a box, in pixels of the image as given: what the box head makes of the box itself as RoI
    (a cascade: the mean of its stages), or, of a DINO, the score of the query whose box fits best."""
    if not isinstance(model, (TwoStageDetector, DINO)):
        raise SupportError(f'{type(model).__name__} has no scores of boxes: give a point')
    scores = _query_scores if isinstance(model, DINO) else _roi_scores
    return ScoreNode(label, scores=partial(scores, prepared=prepared, box=prepared.box(box)))


def pixel_score_node(prepared: Prepared, point, label: int) -> ScoreNode:
    """The probability of a class at a point, in pixels of the image as given, of a segmentor."""
    return ScoreNode(label, prepared.point(point), partial(_pixel_scores, prepared=prepared))


def _samples(prepared: Prepared, images: Tensor) -> list:
    return [prepared.sample] * len(images)


def _run(model: nn.Module, images: Tensor, prepared: Prepared):
    if isinstance(model, BaseSegmentor):
        return _pixel_scores(model, images, prepared)
    return model(images, _samples(prepared, images), mode='tensor')


def _pixel_scores(model: BaseSegmentor, images: Tensor, prepared: Prepared) -> Tensor:
    """(B, classes, H, W), probabilities."""
    shape = tuple(images.shape[2:])
    meta = {**prepared.sample.metainfo, 'img_shape': shape, 'pad_shape': shape, 'batch_input_shape': shape}
    scores = model.encode_decode(images, [meta] * len(images))
    if isinstance(model.decode_head, MaskFormerHead) or hasattr(model.decode_head, 'query_feat'):
        return scores  # sums of probabilities over the queries
    return scores.sigmoid() if scores.shape[1] == 1 else scores.softmax(1)


def _rois(images: Tensor, box) -> Tensor:
    return bbox2roi([images.new_tensor([box])] * len(images))


def _roi_forward(model: TwoStageDetector, images: Tensor, box) -> list[dict]:
    """What the box branch gives, of a cascade each of its stages."""
    features, rois, head = model.extract_feat(images), _rois(images, box), model.roi_head
    if isinstance(head, CascadeRoIHead):
        return [head._bbox_forward(stage, features, rois) for stage in range(head.num_stages)]
    return [head._bbox_forward(features, rois)]


def _last(part):
    return part[-1] if isinstance(part, nn.ModuleList) else part


def _roi_features(model: TwoStageDetector, images: Tensor, box, of: str, prepared: Prepared) -> Tensor:
    head = _last(model.roi_head.bbox_head)
    if isinstance(head, RFCNHead):
        module, before = head.cls_pool, False
    elif of == 'pooled':
        module, before = _last(model.roi_head.bbox_roi_extractor), False
    else:
        module, before = head.fc_cls, True
    kept = []
    if before:
        handle = module.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    else:
        handle = module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        _roi_forward(model, images, box)
    finally:
        handle.remove()
    return kept[-1].flatten(1)


def _roi_scores(model: TwoStageDetector, images: Tensor, box, prepared: Prepared) -> Tensor:
    heads = model.roi_head.bbox_head
    heads = heads if isinstance(heads, nn.ModuleList) else [heads]
    scores = []
    for head, result in zip(heads, _roi_forward(model, images, box), strict=True):
        logits = result['cls_score'].float()
        if getattr(head, 'custom_cls_channels', False):
            scores.append(head.loss_cls.get_activation(logits))
        elif head.loss_cls.use_sigmoid:
            scores.append(logits.sigmoid())
        else:
            scores.append(logits.softmax(-1))
    return torch.stack(scores).mean(0)[:, : heads[-1].num_classes]


def _queries(model: DINO, images: Tensor, box, prepared: Prepared) -> tuple[Tensor, Tensor]:
    """(features (B, D), class scores (B, classes)) of the query of the last decoder layer whose box fits best."""
    inputs = model.forward_transformer(model.extract_feat(images), _samples(prepared, images))
    hidden, references = inputs['hidden_states'], inputs['references']
    logits, boxes = model.bbox_head(hidden, references)
    height, width = prepared.sample.img_shape[:2]
    centre, size = boxes[-1].split(2, dim=-1)
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1) * boxes.new_tensor([width, height] * 2)
    best = bbox_overlaps(corners, boxes.new_tensor([[box]]).expand(len(images), 1, 4))[..., 0].argmax(1)
    at = torch.arange(len(images)), best
    return hidden[-1][at], logits[-1][at].float().sigmoid()


def _query_features(model: DINO, images: Tensor, box, prepared: Prepared) -> Tensor:
    return _queries(model, images, box, prepared)[0]


def _query_scores(model: DINO, images: Tensor, box, prepared: Prepared) -> Tensor:
    return _queries(model, images, box, prepared)[1]


# What to ask about


@dataclass
class Question:
    """A node with what it stands for.

    Attributes:
        title: for people.
        node: see `internimage.analysis`.
        box, point: where it is, in pixels of the network's input; None where it is of the other kind.
        object (H, W) bool: the pixels of the object, a mask or a box; None where none is known.
    """

    title: str
    node: object
    box: tuple | None = None
    point: tuple | None = None
    object: np.ndarray | None = None


def ask_about_detections(model: nn.Module, image, prepared: Prepared, top: int, score_thr: float) -> list[Question]:
    """The scores of the best detections, as RoIs, best first."""
    found = predict(model, image).pred_instances
    found = found[found.scores.argsort(descending=True)]
    found = found[found.scores > score_thr][:top]
    masks = found.masks if 'masks' in found else [None] * len(found)
    return [
        ask_about_box(model, prepared, box.tolist(), int(label), None if mask is None else mask_array(mask), score)
        for box, label, mask, score in zip(found.bboxes, found.labels, masks, found.scores.tolist(), strict=True)
    ]


def ask_about_box(
    model: nn.Module, prepared: Prepared, box, label: int | None, mask: np.ndarray | None = None, score=None, of='score'
) -> Question:
    """The score of the class `label` at a box of the image, or, where None, the box's features of the kind `of`."""
    if label is None:
        node, title = box_node(model, prepared, box, of), f'{of} features'
    else:
        node = box_score_node(model, prepared, box, label)
        title = model.dataset_meta['classes'][label] + ('' if score is None else f' {score:.2f}')
    at = prepared.box(box)
    inside = prepared.box_mask(at) if mask is None else prepared.mask(mask)
    return Question(title, node, box=at, object=inside)


def ask_about_point(
    model: nn.Module, image, prepared: Prepared, point, module: str | None = None, index: int = 0
) -> Question:
    """At a point of the image: a pixel of the feature map of `module`; where None, of a segmentor the score of the
    class that it sees there, of a detector its backbone's last map."""
    at = prepared.point(point)
    if module is None and isinstance(model, BaseSegmentor):
        labels = predict(model, image).pred_sem_seg.data[0].cpu().numpy()
        row, column = int(point[1]), int(point[0])
        if not (0 <= row < labels.shape[0] and 0 <= column < labels.shape[1]):
            height, width = labels.shape
            raise SupportError(f'the point must be inside the image of {width} x {height} pixels, got {point}')
        label = int(labels[row, column])
        title = model.dataset_meta['classes'][label]
        seen = prepared.mask(labels == label)
        return Question(title, pixel_score_node(prepared, point, label), point=at, object=seen)
    if module is None:
        module, index = 'backbone', -1
    node = feature_node(prepared, module, point, index)
    return Question(module, node, point=at)


def is_detector(model: nn.Module) -> bool:
    return isinstance(model, BaseDetector)
