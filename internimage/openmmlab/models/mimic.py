"""R-CNN feature mimicking (Deformable ConvNets v2, arXiv 1811.11168, section 3.3), a way to train a Faster R-CNN."""

import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmdet.models.detectors import FasterRCNN
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from torch import Tensor, nn


@MODELS.register_module()
class MimicFasterRCNN(FasterRCNN):
    """Faster R-CNN that learns to see a RoI as an R-CNN would, which is shown nothing but the RoI.

    In training a second branch, the R-CNN, gets patches of the image, cropped at foreground RoIs and resized, and pools
    the whole patch. All its weights are those of the detector but for the classifier on top. With f the output of the
    last shared fully connected layer and Omega the RoIs drawn from the positive ones, the added losses are

        loss_mimic     = w * mean over b in Omega of [1 - cos(f_RCNN(b), f_FRCNN(b))]
        loss_mimic_cls = w * mean over b in Omega of cross_entropy(classifier(f_RCNN(b)), class of b)

    The paper writes sums; means keep the weight in proportion to the detector's losses, which are means. At inference
    the branch is absent: this is a Faster R-CNN with the weights of one more linear layer.

    Args:
        mimic: ``num``, the largest number of RoIs drawn per image (paper: 32); ``patch_size``, side of the patches in
            pixels (224); ``loss_weight``, w (0.1).

    Raises:
        ValueError: the RoI head is not a MimicRoIHead.
    """

    def __init__(self, *args, mimic: dict, **kwargs):
        super().__init__(*args, **kwargs)
        if not isinstance(self.roi_head, MimicRoIHead):
            raise ValueError(f'MimicFasterRCNN: roi_head must be a MimicRoIHead, got {type(self.roi_head).__name__}')
        self._set_options(**mimic)
        classifier = self.roi_head.bbox_head.fc_cls
        self.mimic_fc_cls = nn.Linear(classifier.in_features, classifier.out_features)
        nn.init.normal_(self.mimic_fc_cls.weight, std=0.01)
        nn.init.zeros_(self.mimic_fc_cls.bias)

    def _set_options(self, num: int = 32, patch_size: int = 224, loss_weight: float = 0.1) -> None:
        self.mimic_num, self.patch_size, self.mimic_weight = num, patch_size, loss_weight

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        losses = super().loss(batch_inputs, batch_data_samples)
        foreground = losses.pop('foreground')
        losses.update(self.mimic_loss(batch_inputs, *foreground))
        return losses

    def mimic_loss(self, images: Tensor, rois: Tensor, labels: Tensor, features: Tensor) -> dict:
        """Both losses of the R-CNN branch, of the RoIs (K, 5), their classes (K,) and their features (K, channels)."""
        drawn = [
            index[torch.randperm(len(index), device=index.device)[: self.mimic_num]]
            for index in ((rois[:, 0] == image).nonzero()[:, 0] for image in range(len(images)))
        ]
        drawn = torch.cat(drawn)
        if len(drawn) == 0:  # of no use, but every parameter gets a gradient
            nothing = self.mimic_fc_cls.weight.sum() * 0 + self.mimic_fc_cls.bias.sum() * 0
            return dict(loss_mimic=nothing, loss_mimic_cls=nothing)
        wanted = self.patch_features(images, rois[drawn])
        scores = self.mimic_fc_cls(wanted)
        return dict(
            loss_mimic=self.mimic_weight * mimic_distance(wanted, features[drawn]),
            loss_mimic_cls=self.mimic_weight * F.cross_entropy(scores, labels[drawn]),
        )

    def patch_features(self, images: Tensor, rois: Tensor) -> Tensor:
        """f_RCNN, (K, channels): what the detector's own layers make of the patches at `rois` (K, 5)."""
        side = self.patch_size
        patches = roi_align(images, rois.to(images.dtype), side)  # averages where a RoI is larger than the patch
        whole = rois.new_tensor([0, 0, side, side]).expand(len(rois), 1, 4)
        return self.roi_head.shared_features(self.extract_feat(patches), bbox2roi(list(whole)))


def mimic_distance(wanted: Tensor, features: Tensor) -> Tensor:
    """Mean of 1 - cos(wanted, features), both (K, channels)."""
    return (1 - F.cosine_similarity(wanted, features, dim=1)).mean()


@MODELS.register_module()
class MimicRoIHead(StandardRoIHead):
    """StandardRoIHead that hands the detector its foreground: beside the losses, as ``foreground``, the RoIs (K, 5) of
    the positive samples, their classes (K,) and the features (K, channels) that the box head classifies.

    Raises:
        ValueError: the box head is not made of shared layers and a classifier, as Shared2FCBBoxHead is.
    """

    def init_bbox_head(self, *args) -> None:
        super().init_bbox_head(*args)
        head = self.bbox_head
        if not getattr(head, 'num_shared_fcs', 0) or head.num_cls_convs or head.num_cls_fcs or head.with_avg_pool:
            raise ValueError(
                'MimicRoIHead: bbox_head must classify the output of shared fully connected layers, as '
                f'Shared2FCBBoxHead does, got {type(head).__name__}'
            )

    def bbox_loss(self, x: tuple[Tensor], sampling_results: list) -> dict:
        results = super().bbox_loss(x, sampling_results)
        positive = torch.cat(
            [
                torch.arange(len(result.priors), device=result.priors.device) < len(result.pos_priors)
                for result in sampling_results
            ]
        )  # mmdet puts the positive samples of an image first
        rois = bbox2roi([result.pos_priors for result in sampling_results])
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        features = self._shared_layers(results['bbox_feats'][positive])
        results['loss_bbox']['foreground'] = (rois, labels, features)
        return results

    def shared_features(self, x: tuple[Tensor], rois: Tensor) -> Tensor:
        """(K, channels): the pooled RoIs after the shared layers of the box head."""
        return self._shared_layers(self.bbox_roi_extractor(x[: self.bbox_roi_extractor.num_inputs], rois))

    def _shared_layers(self, pooled: Tensor) -> Tensor:
        for conv in self.bbox_head.shared_convs:
            pooled = conv(pooled)
        features = pooled.flatten(1)
        for fc in self.bbox_head.shared_fcs:
            features = F.relu(fc(features))
        return features
