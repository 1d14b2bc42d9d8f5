"""InternImage in its ImageNet form, to be counted: the backbone with the classification head of the official release.

Parameter names are the official ones. It has no accuracy of its own to show: training and testing on ImageNet are not
part of this project.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops_dcnv3 import build_act_layer, build_norm_layer

from .network import VARIANTS, InternImage

NUM_CLASSES = 1000


class ImageNetForm(InternImage):
    """(N, 3, H, W) -> (N, 1000). T to XL: a 1x1 convolution to 1.5 times the channels, average pooling, classifier."""

    def __init__(self, **options):
        super().__init__(**options)
        channels, wide = self.num_features[-1], self.num_features[-1] * 3 // 2
        self.conv_head = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            build_norm_layer(wide, 'BN', 'channels_first', 'channels_first'),
            build_act_layer('GELU'),
        )
        self.head = nn.Linear(wide, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_head(super().forward(x)[-1])
        return self.head(x.mean(dim=(2, 3)))


class ImageNetFormCLIP(InternImage):
    """(N, 3, H, W) -> (N, 1000). H and G: the features of the last two stages, at 1/16 of the image, are summed and
    pooled by attention, as in CLIP."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dcnv3_head_x4 = nn.Sequential(nn.Conv2d(self.num_features[3], 4 * 1024, 1), nn.PixelShuffle(2))
        self.dcnv3_head_x3 = nn.Conv2d(self.num_features[2], 1024, 1)
        self.clip_projector = _AttentionPooling(1024, 768, num_heads=16)
        self.fc_norm = build_norm_layer(768, 'LN')
        self.head = nn.Linear(768, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        *_, x3, x4 = super().forward(x)
        x = self.dcnv3_head_x3(x3) + self.dcnv3_head_x4(x4)
        return self.head(self.fc_norm(self.clip_projector(x.flatten(2).transpose(1, 2))))


class _AttentionPooling(nn.Module):
    """(N, L, channels) -> (N, out_channels): the mean of the tokens attends to all of them."""

    def __init__(self, channels: int, out_channels: int, num_heads: int):
        super().__init__()
        self.norm1_q = build_norm_layer(channels, 'LN')
        self.norm1_k = build_norm_layer(channels, 'LN')
        self.norm1_v = build_norm_layer(channels, 'LN')
        self.cross_dcn = _CrossAttention(channels, out_channels, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        query = self.norm1_q(x.mean(dim=1, keepdim=True))
        return self.cross_dcn(query, self.norm1_k(x), self.norm1_v(x)).squeeze(1)


class _CrossAttention(nn.Module):
    def __init__(self, channels: int, out_channels: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        for name in ('q', 'k', 'v'):
            setattr(self, name, nn.Linear(channels, channels, bias=False))
            setattr(self, f'{name}_bias', nn.Parameter(torch.zeros(channels)))
        self.proj = nn.Linear(channels, out_channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        def heads(x: Tensor, name: str) -> Tensor:
            x = getattr(self, name)(x) + getattr(self, f'{name}_bias')
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        x = F.scaled_dot_product_attention(heads(query, 'q'), heads(key, 'k'), heads(value, 'v'))
        return self.proj(x.transpose(1, 2).flatten(2))


def build_imagenet_form(name: str) -> InternImage:
    """The ImageNet form of a published variant, 't' to 'g'."""
    form = ImageNetFormCLIP if name in ('h', 'g') else ImageNetForm
    return form(**VARIANTS[name])
