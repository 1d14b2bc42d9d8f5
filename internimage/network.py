"""InternImage, the backbone (arXiv 2211.05778).

Reading order: the stem, the block, the stage, the network, the variants. Parameter names and constructor arguments are
the official ones, so official checkpoints and configs fit. Inside, feature maps are (N, H, W, C); what comes out is
(N, C, H, W).
"""

from collections.abc import Sequence

import torch
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ops_dcnv3 import DCNv3, Linear, build_act_layer, build_norm_layer

from .checkpoint import load_pretrained_backbone


class StemLayer(nn.Module):
    """(N, 3, H, W) -> (N, H/4, W/4, C): two 3x3 convolutions of stride 2."""

    def __init__(self, in_chans: int, out_chans: int, act_layer: str, norm_layer: str):
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans // 2, kernel_size=3, stride=2, padding=1)
        self.norm1 = build_norm_layer(out_chans // 2, norm_layer, 'channels_first', 'channels_first')
        self.act = build_act_layer(act_layer)
        self.conv2 = nn.Conv2d(out_chans // 2, out_chans, kernel_size=3, stride=2, padding=1)
        self.norm2 = build_norm_layer(out_chans, norm_layer, 'channels_first', 'channels_last')

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        return self.norm2(self.conv2(x))


class DownsampleLayer(nn.Module):
    """(N, H, W, C) -> (N, H/2, W/2, 2C)."""

    def __init__(self, channels: int, norm_layer: str):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm = build_norm_layer(2 * channels, norm_layer, 'channels_first', 'channels_last')

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)))


class MLPLayer(nn.Module):
    def __init__(self, channels: int, hidden_channels: int, act_layer: str, drop: float):
        super().__init__()
        self.fc1 = Linear(channels, hidden_channels)
        self.act = build_act_layer(act_layer)
        self.fc2 = Linear(hidden_channels, channels)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class InternImageLayer(nn.Module):
    """One block: DCNv3 and MLP, each a residual branch.

    A branch f is, with everything switched on, ``x + drop_path(gamma * res_post_norm(f(norm(x))))``; with ``post_norm``
    it is ``x + drop_path(gamma * norm(f(x)))``.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        mlp_ratio: float,
        drop: float,
        drop_path: float,
        act_layer: str,
        norm_layer: str,
        post_norm: bool,
        layer_scale: float | None,
        offset_scale: float,
        dw_kernel_size: int | None,
        res_post_norm: bool,
        center_feature_scale: bool,
    ):
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = build_norm_layer(channels, norm_layer)
        self.dcn = DCNv3(
            channels=channels,
            kernel_size=3,
            dw_kernel_size=dw_kernel_size,
            group=groups,
            offset_scale=offset_scale,
            act_layer=act_layer,
            norm_layer=norm_layer,
            center_feature_scale=center_feature_scale,
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = build_norm_layer(channels, norm_layer)
        self.mlp = MLPLayer(channels, int(channels * mlp_ratio), act_layer, drop)
        self.res_post_norm1 = build_norm_layer(channels, norm_layer) if res_post_norm else None
        self.res_post_norm2 = build_norm_layer(channels, norm_layer) if res_post_norm else None
        self.layer_scale = layer_scale
        self.gamma1 = nn.Parameter(torch.empty(channels)) if layer_scale is not None else None
        self.gamma2 = nn.Parameter(torch.empty(channels)) if layer_scale is not None else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.layer_scale is not None:
            nn.init.constant_(self.gamma1, self.layer_scale)
            nn.init.constant_(self.gamma2, self.layer_scale)

    def _branch(self, x: Tensor, module: nn.Module, norm: nn.Module, res_post_norm, gamma) -> Tensor:
        branch = norm(module(x)) if self.post_norm else module(norm(x))
        if res_post_norm is not None:
            branch = res_post_norm(branch)
        if gamma is None:
            return x + self.drop_path(branch)
        if not torch.is_grad_enabled():
            # A view of a parameter says even then that it requires gradients, on which PyTorch's module tracker fails.
            gamma = gamma.detach()
        # Scale, stochastic depth and residual in one pass over the features: what is dropped is the scale of an image.
        scale = self.drop_path(gamma.expand(x.shape[0], *[1] * (x.dim() - 2), -1))
        return torch.addcmul(x, branch, scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self._branch(x, self.dcn, self.norm1, self.res_post_norm1, self.gamma1)
        return self._branch(x, self.mlp, self.norm2, self.res_post_norm2, self.gamma2)


class InternImageBlock(nn.Module):
    """One stage: blocks, a closing norm, and the step down to the next stage.

    Returns the features of this stage and the input of the next one; both are the same where there is none.
    """

    def __init__(
        self,
        channels: int,
        depth: int,
        drop_path: list[float],
        downsample: bool,
        post_norm_block_ids: list[int],
        with_cp: bool,
        norm_layer: str,
        post_norm: bool,
        center_feature_scale: bool,
        **layer_options,
    ):
        super().__init__()
        self.with_cp = with_cp
        self.blocks = nn.ModuleList(
            InternImageLayer(
                channels,
                drop_path=drop_path[i],
                norm_layer=norm_layer,
                post_norm=post_norm,
                center_feature_scale=center_feature_scale,
                **layer_options,
            )
            for i in range(depth)
        )
        has_norm = not post_norm or center_feature_scale
        self.norm = build_norm_layer(channels, norm_layer='LN') if has_norm else nn.Identity()
        self.post_norm_block_ids = post_norm_block_ids
        if post_norm_block_ids:
            self.post_norms = nn.ModuleList(build_norm_layer(channels, norm_layer='LN') for _ in post_norm_block_ids)
        self.downsample = DownsampleLayer(channels, norm_layer) if downsample else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for i, block in enumerate(self.blocks):
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if i in self.post_norm_block_ids:
                x = self.post_norms[self.post_norm_block_ids.index(i)](x)
        x = self.norm(x)
        return x, self.downsample(x)


class InternImage(nn.Module):
    """InternImage backbone (arXiv 2211.05778, section 3.2), (N, 3, H, W) images to feature maps of strides 4 to 32.

    Args:
        core_op: the operator of the blocks; 'DCNv3' is the only one.
        channels: C of the first stage; stage i has C * 2^i.
        depths, groups: blocks, and DCNv3 groups, of each stage.
        mlp_ratio: hidden channels of the MLP by its channels.
        drop_rate: dropout after the stem and in the MLPs.
        drop_path_rate: stochastic depth, the rate of the last block.
        drop_path_type: 'linear' (rising from 0) or 'uniform' (the same in all blocks).
        act_layer: 'GELU', 'ReLU' or 'SiLU'.
        norm_layer: 'LN' or 'BN'.
        layer_scale: initial value of the learned scale of each branch; None for none.
        offset_scale: of DCNv3.
        post_norm: norm after, not before, each branch (S to XL, G).
        with_cp: activation checkpointing of the blocks: less memory, one more forward pass.
        dw_kernel_size: of DCNv3's depthwise convolution; 3 where None (H and G: 5).
        level2_post_norm, level2_post_norm_block_ids: extra norms after these blocks of the third stage (H and G).
        res_post_norm: norm at the end of each branch, beside the one at its start (H).
        center_feature_scale: of DCNv3 (H and G).
        out_indices: stages whose features are returned.
        frozen_stages: this many stages, and the stem, are not trained; 0 for the stem alone, -1 for nothing.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` takes an official ImageNet checkpoint, see
            :func:`internimage.checkpoint.load_pretrained_backbone`.

    Returns (forward):
        tuple of Tensor[N, C * 2^i, ceil(H / 2^(i+2)), ceil(W / 2^(i+2))] for i in ``out_indices``

    Raises:
        TypeError: an unknown argument. ValueError: a value that does not fit, with the rule.
    """

    def __init__(
        self,
        core_op: str = 'DCNv3',
        channels: int = 64,
        depths: tuple[int, ...] = (3, 4, 18, 5),
        groups: tuple[int, ...] = (3, 6, 12, 24),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        drop_path_type: str = 'linear',
        act_layer: str = 'GELU',
        norm_layer: str = 'LN',
        layer_scale: float | None = None,
        offset_scale: float = 1.0,
        post_norm: bool = False,
        with_cp: bool = False,
        dw_kernel_size: int | None = None,
        level2_post_norm: bool = False,
        level2_post_norm_block_ids: tuple[int, ...] | None = None,
        res_post_norm: bool = False,
        center_feature_scale: bool = False,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        init_cfg: dict | None = None,
    ):
        super().__init__()
        stages = len(depths)
        if core_op != 'DCNv3':
            raise ValueError(f"InternImage: core_op must be 'DCNv3', got {core_op!r}")
        if len(groups) != stages:
            raise ValueError(f'InternImage: depths and groups must have one entry per stage, got {depths} and {groups}')
        if not out_indices or any(i not in range(stages) for i in out_indices):
            raise ValueError(f'InternImage: out_indices must be stages 0 to {stages - 1}, got {tuple(out_indices)}')
        if not -1 <= frozen_stages <= stages:
            raise ValueError(f'InternImage: frozen_stages must be from -1 to {stages}, got {frozen_stages}')
        if drop_path_type not in ('linear', 'uniform'):
            raise ValueError(f"InternImage: drop_path_type must be 'linear' or 'uniform', got {drop_path_type!r}")
        post_norm_block_ids = list(level2_post_norm_block_ids or []) if level2_post_norm else []
        if post_norm_block_ids and (stages < 3 or any(i not in range(depths[2]) for i in post_norm_block_ids)):
            raise ValueError(
                f'InternImage: level2_post_norm_block_ids must be blocks of the third stage, got {post_norm_block_ids} '
                f'with depths {depths}'
            )
        self.init_cfg = init_cfg
        self.is_init = False  # mmengine asks, to initialise once
        self.core_op = core_op
        self.depths = tuple(depths)
        self.num_features = [channels * 2**i for i in range(stages)]
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages

        self.patch_embed = StemLayer(3, channels, act_layer, norm_layer)
        self.pos_drop = nn.Dropout(drop_rate)
        blocks = sum(depths)
        drop_path = [
            drop_path_rate if drop_path_type == 'uniform' else drop_path_rate * i / max(blocks - 1, 1)
            for i in range(blocks)
        ]
        self.levels = nn.ModuleList(
            InternImageBlock(
                channels=self.num_features[i],
                depth=depths[i],
                drop_path=drop_path[sum(depths[:i]) : sum(depths[: i + 1])],
                downsample=i < stages - 1,
                post_norm_block_ids=post_norm_block_ids if i == 2 else [],
                with_cp=with_cp,
                groups=groups[i],
                mlp_ratio=mlp_ratio,
                drop=drop_rate,
                act_layer=act_layer,
                norm_layer=norm_layer,
                post_norm=post_norm,
                layer_scale=layer_scale,
                offset_scale=offset_scale,
                dw_kernel_size=dw_kernel_size,
                res_post_norm=res_post_norm,
                center_feature_scale=center_feature_scale,
            )
            for i in range(stages)
        )
        self.reset_parameters()
        self._freeze()

    def reset_parameters(self) -> None:
        def reset(module: nn.Module) -> None:
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif module is not self and hasattr(module, 'reset_parameters'):
                module.reset_parameters()  # DCNv3, after its linear layers, starts at the regular grid

        self.apply(reset)

    def init_weights(self) -> None:
        """Starts from what ``init_cfg`` names, or at random. mmengine calls it once, before a training."""
        kind = self.init_cfg and self.init_cfg.get('type')
        if self.init_cfg is None:
            self.reset_parameters()
        elif getattr(kind, '__name__', kind) in ('Pretrained', 'PretrainedInit'):  # mmengine's class, or its name
            load_pretrained_backbone(self, self.init_cfg['checkpoint'])
        else:
            raise ValueError(f"InternImage: init_cfg must be None or of type 'Pretrained', got {self.init_cfg}")
        self.is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.forward_stages(self.forward_stem(x))

    def forward_stem(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> (N, H/4, W/4, C)."""
        return self.pos_drop(self.patch_embed(x))

    def forward_stages(self, x: Tensor, added: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        """What comes out of the stem -> the feature maps. `added[i]`, (N, H, W, C), goes on top of stage i's input."""
        features = []
        for i, level in enumerate(self.levels):
            feature, x = level(x if added is None else x + added[i])
            if i in self.out_indices:
                features.append(feature.permute(0, 3, 1, 2).contiguous())
        return tuple(features)

    def train(self, mode: bool = True):
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.patch_embed, self.pos_drop, *self.levels[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = 'backbone.') -> tuple[int, int]:
        """The position of a parameter in the order of layers, for layer-wise learning-rate decay.

        Returns (layer, number of layers): the stem is layer 0, the blocks of all stages are counted from 1, and what
        comes after the backbone is the last layer, number of layers - 1.
        """
        num_layers = sum(self.depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        part, *rest = param_name.removeprefix(prefix).split('.')
        if part == 'patch_embed':
            return 0, num_layers
        stage, kind = int(rest[0]), rest[1]
        # Quirks of the official rule, which its training schedules rest on: a stage's norm and downsampling belong to
        # the first block of the next stage, but the last stage's norm to the first block of that stage; and the level-2
        # post-norms are numbered as if they were blocks.
        if kind in ('blocks', 'post_norms'):
            return 1 + sum(self.depths[:stage]) + int(rest[2]), num_layers
        return 1 + sum(self.depths[: min(stage + 1, len(self.depths) - 1)]), num_layers


# The published models (arXiv 2211.05778, table 1, and the official release) in their ImageNet form; what depends on the
# task (drop path, layer_scale=1.0 for detection and segmentation) is left to it. 'small' is for demos and tests.
_S_TO_XL = dict(post_norm=True, layer_scale=1e-5)
_H_AND_G = dict(dw_kernel_size=5, level2_post_norm=True, center_feature_scale=True)
VARIANTS = dict(
    small=dict(channels=32, depths=(1, 1, 3, 1), groups=(2, 4, 8, 16), mlp_ratio=2.0),
    t=dict(channels=64, depths=(4, 4, 18, 4), groups=(4, 8, 16, 32)),
    s=dict(channels=80, depths=(4, 4, 21, 4), groups=(5, 10, 20, 40), **_S_TO_XL),
    b=dict(channels=112, depths=(4, 4, 21, 4), groups=(7, 14, 28, 56), **_S_TO_XL),
    l=dict(channels=160, depths=(5, 5, 22, 5), groups=(10, 20, 40, 80), offset_scale=2.0, **_S_TO_XL),
    xl=dict(channels=192, depths=(5, 5, 24, 5), groups=(12, 24, 48, 96), offset_scale=2.0, **_S_TO_XL),
    h=dict(
        channels=320,
        depths=(6, 6, 32, 6),
        groups=(10, 20, 40, 80),
        res_post_norm=True,
        level2_post_norm_block_ids=(5, 11, 17, 23, 29),
        **_H_AND_G,
    ),
    g=dict(
        channels=512,
        depths=(2, 2, 48, 4),
        groups=(16, 32, 64, 128),
        post_norm=True,
        level2_post_norm_block_ids=(5, 11, 17, 23, 29, 35, 41, 47),
        **_H_AND_G,
    ),
)


def build_variant(name: str, **overrides) -> InternImage:
    """InternImage by the name of a variant, a key of ``VARIANTS``: the published 't' to 'g', or one of this project.

    Raises:
        ValueError: no such variant.
    """
    if name not in VARIANTS:
        raise ValueError(f'build_variant: name must be one of {", ".join(VARIANTS)}, got {name!r}')
    return InternImage(**{**VARIANTS[name], **overrides})
