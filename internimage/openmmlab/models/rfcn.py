"""R-FCN (arXiv 1605.06409) and its deformable form (arXiv 1703.06211, section 3): no layer with weights after the RoI
pooling, so that hundreds of RoIs cost next to nothing. Reading order: the detector, its RPN, the RoI head, the maps."""

import torch
from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from torch import Tensor, nn

from ops_dcnv3 import DeformPSRoIPoolPack, PSRoIPool


@MODELS.register_module()
class RFCN(TwoStageDetector):
    """Backbone, RPN and RFCNRoIHead on features of one stride.

    Where the backbone gives several feature maps, the RPN takes one of them (``rpn_head.in_index``) and the RoI head
    the last: of a ResNet with dilated convolutions in conv5, conv4 and conv5, both of stride 16.
    """


@MODELS.register_module()
class SingleInputRPNHead(RPNHead):
    """RPNHead on one feature map, the one at ``in_index`` of what the detector gives it."""

    def __init__(self, *args, in_index: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        self.in_index = in_index

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        return super().forward((x[self.in_index],))


@MODELS.register_module()
class RFCNRoIHead(StandardRoIHead):
    """The RoI head of R-FCN: ``bbox_head`` is an RFCNHead, which pools by itself.

    Online hard example mining (section 2.3 of the paper): where ``train_cfg`` has ``ohem=B``, all RoIs that the sampler
    lets through are scored, and the B of each image with the largest loss, of class and box together, are trained on.
    """

    def init_bbox_head(self, bbox_roi_extractor: None, bbox_head: dict) -> None:
        if bbox_roi_extractor is not None:
            raise ValueError('RFCNRoIHead: bbox_roi_extractor must be None, the RFCNHead pools by itself')
        self.bbox_head = MODELS.build(bbox_head)

    def _bbox_forward(self, x: tuple[Tensor, ...], rois: Tensor) -> dict:
        cls_score, bbox_pred = self.bbox_head(x[-1], rois)
        return dict(cls_score=cls_score, bbox_pred=bbox_pred, bbox_feats=None)

    def bbox_loss(self, x: tuple[Tensor, ...], sampling_results: list) -> dict:
        rois = bbox2roi([result.priors for result in sampling_results])
        results = self._bbox_forward(x, rois)
        predicted = (results['cls_score'], results['bbox_pred'], rois)
        targets = self.bbox_head.get_targets(sampling_results, self.train_cfg)
        if self.train_cfg.get('ohem') and len(rois) > 0:
            hard = self.hardest(self.train_cfg.ohem, *predicted, *targets)
            predicted = [part[hard] for part in predicted]
            targets = [part[hard] for part in targets]
        results['loss_bbox'] = self.bbox_head.loss(*predicted, *targets)
        return results

    @torch.no_grad()
    def hardest(self, num: int, cls_score: Tensor, bbox_pred: Tensor, rois: Tensor, labels: Tensor, *targets) -> Tensor:
        """Indices of the `num` RoIs of each image with the largest loss, of all RoIs (K, 5)."""
        losses = self.bbox_head.loss(cls_score, bbox_pred, rois, labels, *targets, reduction_override='none')
        loss = losses['loss_cls']
        positive = labels < self.bbox_head.num_classes
        if positive.any():
            loss[positive] += losses['loss_bbox'].sum(dim=1)
        hard = []
        for image in rois[:, 0].unique():
            index = (rois[:, 0] == image).nonzero()[:, 0]
            hard.append(index[loss[index].topk(min(num, len(index))).indices])
        return torch.cat(hard)


@MODELS.register_module()
class RFCNHead(BBoxHead):
    """Position-sensitive score maps and box maps, pooled at the RoIs; the k x k bins of a RoI vote by their average.

    A 1x1 convolution to ``feat_channels``, the norm of ``norm_cfg`` where that is given, and a ReLU; then 1x1
    convolutions to k^2 (C + 1) score maps and 4 k^2 box maps, the boxes being the same for all classes. In the
    deformable form the bins are shifted: further 1x1 convolutions predict a field of offsets for each class, the
    background included, and one for the boxes.

    Args:
        in_channels, stride: of the feature map.
        feat_channels: after the reducing convolution.
        pool_size: k, bins in x and in y.
        deformable: shift the bins.
        sampling_ratio, gamma: of the pooling, see :class:`ops_dcnv3.DeformPSRoIPoolPack`.
        num_classes, bbox_coder, loss_cls, loss_bbox, ...: as in mmdet's BBoxHead.

    Shapes: feature map (N, in_channels, H, W) and RoIs (K, 5) to scores (K, C + 1) and box deltas (K, 4).
    """

    def __init__(
        self,
        in_channels: int,
        stride: int,
        feat_channels: int = 1024,
        pool_size: int = 7,
        deformable: bool = False,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
        **kwargs,
    ):
        super().__init__(
            with_avg_pool=True,
            roi_feat_size=pool_size,
            in_channels=feat_channels,
            reg_class_agnostic=True,
            cls_predictor_cfg=dict(type=nn.Identity),  # the maps take the place of both linear layers
            reg_predictor_cfg=dict(type=nn.Identity),
            # The maps alone: the convolutions of the offsets stay at zero.
            init_cfg=init_cfg or dict(type='Normal', std=0.01, override=[dict(name='cls_maps'), dict(name='box_maps')]),
            **kwargs,
        )
        scores, deltas = self.num_classes + 1, self.bbox_coder.encode_size
        self.reduce = ConvModule(in_channels, feat_channels, kernel_size=1, norm_cfg=norm_cfg)
        self.cls_maps = nn.Conv2d(feat_channels, scores * pool_size**2, kernel_size=1)
        self.box_maps = nn.Conv2d(feat_channels, deltas * pool_size**2, kernel_size=1)
        where = dict(output_size=pool_size, spatial_scale=1 / stride, sampling_ratio=sampling_ratio)
        self.deformable = deformable
        if deformable:
            self.cls_pool = DeformPSRoIPoolPack(in_channels=feat_channels, classes=scores, gamma=gamma, **where)
            self.box_pool = DeformPSRoIPoolPack(in_channels=feat_channels, classes=1, gamma=gamma, **where)
        else:
            self.cls_pool = self.box_pool = PSRoIPool(**where)

    def forward(self, x: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        x = self.reduce(x)
        offset_source = (x,) if self.deformable else ()
        scores = self.cls_pool(self.cls_maps(x), rois, *offset_source)  # (K, C + 1, k, k)
        deltas = self.box_pool(self.box_maps(x), rois, *offset_source)  # (K, 4, k, k)
        return scores.float().mean(dim=(2, 3)), deltas.float().mean(dim=(2, 3))
