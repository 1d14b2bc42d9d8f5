"""DINO as it is published: mmdet's, with the query positions of the paper, which every published checkpoint has."""

import torch
from mmcv.cnn.bricks.transformer import FFN
from mmdet.models.detectors import DINO
from mmdet.models.layers.transformer import MLP
from mmengine.registry import MODELS
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class RefPointHead(MLP):
    """The positional encoding of the reference boxes -> the positional queries of the decoder.

    It takes `embed_dims / 2` numbers for each of (x, y, w, h), as the paper does. onedl-mmdetection 3.5 encodes each as
    `embed_dims` numbers, and has a layer twice as wide, which no published checkpoint fits; mmdet 3.3 always as 128.
    Pair i of n (a sine and a cosine) has the frequency 10000^(-i / n), so the finer encoding holds the one that is
    asked for: every second pair of it, or every k-th.
    """

    def forward(self, encoding: Tensor) -> Tensor:
        """Tensor[B, queries, 4 * n] -> Tensor[B, queries, embed_dims]."""
        step = encoding.shape[-1] // self.layers[0].in_features
        return super().forward(encoding.unflatten(-1, (4, -1, 2))[..., ::step, :].flatten(-3))


class CheckpointedFFN(FFN):
    """mmcv's FFN with activation checkpointing: its hidden layer, eight times as wide as the rest, is not kept."""

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled():
            return checkpoint(super().forward, x, identity, use_reentrant=False)
        return super().forward(x, identity)


@MODELS.register_module()
class OfficialDINO(DINO):
    """mmdet's DINO (arXiv 2203.03605), into which official and mmdet 2 and 3.3 checkpoints fit.

    Arguments as mmdet's, and `ffn_with_cp`: activation checkpointing of the feed-forward networks of the transformer.
    """

    def __init__(self, *args, ffn_with_cp: bool = False, **kwargs):
        self.ffn_with_cp = ffn_with_cp
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        self.decoder.ref_point_head = RefPointHead(2 * self.embed_dims, self.embed_dims, self.embed_dims, 2)
        if self.ffn_with_cp:
            for layer in (*self.encoder.layers, *self.decoder.layers):
                layer.ffn = CheckpointedFFN(**layer.ffn_cfg)
