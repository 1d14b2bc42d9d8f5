"""The DCNv3 layer: projections, and the prediction of offsets and modulation, around the operator."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _compat
from .checks import Pair, autocast_dtype, check_finite, int_of, pair_of
from .dcnv3 import dcnv3
from .eager_cpu import are_plain, is_eager_on_cpu, only_the_result_counts
from .linear import Linear
from .sampling import Sampling, sampling_window


class _Permute(nn.Module):
    def __init__(self, *dims: int):
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)

    def extra_repr(self) -> str:
        return str(self.dims)


def build_norm_layer(
    dim: int, norm_layer: str = 'LN', in_format: str = 'channels_last', out_format: str = 'channels_last'
) -> nn.Sequential:
    """Normalisation over the channels, with the change of layout that official parameter names count in.

    Args:
        dim: number of channels.
        norm_layer: 'LN' (layer norm, eps 1e-6) or 'BN' (batch norm).
        in_format, out_format: 'channels_first' (N, C, H, W) or 'channels_last' (N, H, W, C).

    The layer is at index 0 of the returned sequence where it works in ``in_format``, else at index 1, as in the
    official models (``norm1.0.weight``, ``patch_embed.norm1.1.weight``).
    """
    norms = {
        'LN': ('channels_last', lambda: nn.LayerNorm(dim, eps=1e-6)),
        'BN': ('channels_first', lambda: nn.BatchNorm2d(dim)),
    }
    if norm_layer not in norms:
        raise ValueError(f"norm_layer must be 'LN' or 'BN', got {norm_layer!r}")
    permutes = {'channels_first': (0, 3, 1, 2), 'channels_last': (0, 2, 3, 1)}
    for layout in (in_format, out_format):
        if layout not in permutes:
            raise ValueError(f'a layout must be one of {tuple(permutes)}, got {layout!r}')
    works_in, build = norms[norm_layer]
    layers = [build()]
    if in_format != works_in:
        layers.insert(0, _Permute(*permutes[works_in]))
    if out_format != works_in:
        layers.append(_Permute(*permutes[out_format]))
    return nn.Sequential(*layers)


def build_act_layer(act_layer: str) -> nn.Module:
    """'GELU', 'ReLU' or 'SiLU' as a module."""
    layers = {'GELU': nn.GELU, 'ReLU': nn.ReLU, 'SiLU': nn.SiLU}
    if act_layer not in layers:
        raise ValueError(f'act_layer must be one of {tuple(layers)}, got {act_layer!r}')
    return layers[act_layer]()


_JOINED = (nn.Sequential, nn.Conv2d, nn.Sequential, _Permute, nn.LayerNorm, nn.GELU)


def _can_join(dw_conv: nn.Module, input: Tensor) -> bool:
    """Whether `dw_conv` may run as the operator depthwise_norm_gelu: everything that the operator assumes.

    The modules are those that are built for 'LN' and 'GELU', of these very classes (a parametrised one is not), and
    they have no hooks and no other `forward`. The convolution is depthwise, with one output per channel, neighbouring
    taps, and zeros around the image. The norm is over the channels, with weight and bias; the GELU is the exact one.
    All tensors are plain ones, of a shape, device and dtype that the modules take too.
    """
    modules = tuple(dw_conv.modules())
    if len(modules) != len(_JOINED) or not all(map(_is_plain, modules, _JOINED)):
        return False
    outer, conv, inner, permute, norm, act = modules
    weight, bias, norm_weight, norm_bias = conv.weight, conv.bias, norm.weight, norm.bias
    channels = input.shape[3]
    return (
        len(outer) == 3
        and len(inner) == 2
        and not _compat.has_global_hooks()
        and conv.in_channels == conv.out_channels == conv.groups == channels
        and conv.dilation == (1, 1)
        and conv.padding_mode == 'zeros'
        and not isinstance(conv.padding, str)
        and permute.dims == (0, 2, 3, 1)
        and norm.normalized_shape == (channels,)
        and norm_weight is not None
        and norm_bias is not None
        and act.approximate == 'none'
        and are_plain(input, weight, bias, norm_weight, norm_bias)
        and weight.shape == (channels, 1, *conv.kernel_size)
        and (bias is None or bias.shape == (channels,))
        and norm_weight.shape == norm_bias.shape == (channels,)
        and weight.device == norm_weight.device == norm_bias.device == input.device
        and (bias is None or bias.device == input.device)
        and _take(input, weight, weight if bias is None else bias, norm_weight, norm_bias)
    )


def _take(input: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> bool:
    """Do the modules take these dtypes? Beside 16-bit features the norm may have parameters of float32."""
    dtype = input.dtype
    if weight.dtype != dtype or bias.dtype != dtype:
        cast = (torch.float32, torch.bfloat16, torch.float16)
        if autocast_dtype(input) is None or weight.dtype not in cast or bias.dtype not in cast:
            return False
    norm_dtype = norm_weight.dtype
    return norm_dtype == norm_bias.dtype and norm_dtype in (dtype, torch.promote_types(dtype, torch.float32))


def _is_plain(module: nn.Module, kind: type) -> bool:
    """Is it of that very class, its `forward` that of the class, without hooks?"""
    return type(module) is kind and not _compat.has_hooks(module) and 'forward' not in vars(module)


def _one_if_equal(pair: tuple[int, int]) -> Pair:
    return pair[0] if pair[0] == pair[1] else pair


class DCNv3(nn.Module):
    """Deformable convolution v3 as a layer (arXiv 2211.05778, section 3.1), (N, H, W, C) in, (N, H_out, W_out, C) out.

    The input is projected and sampled by :func:`ops_dcnv3.dcnv3` at points that a depthwise convolution over the input
    predicts: offsets, and a softmax over the points of each group as modulation. A projection follows. Constructor and
    parameter names are those of the official module; offsets and modulation start at zero, that is, at the regular
    grid with equal weights.

    Args:
        channels: C, input and output.
        kernel_size: of the sampling window.
        dw_kernel_size: of the depthwise convolution; ``kernel_size`` where None.
        stride, pad, dilation: of the sampling window. The depthwise convolution is aligned with it, so that each output
            pixel predicts its own offsets (``pad = dilation * (kernel_size - 1) // 2`` keeps the size). These, and the
            two sizes, are an int or a pair of ints, (height, width); the attribute is an int where both are equal.
        group: number of groups; each has its own offsets and modulation.
        offset_scale: multiplies the regular grid and the offsets.
        act_layer: 'GELU', 'ReLU' or 'SiLU'.
        norm_layer: 'LN' or 'BN'.
        center_feature_scale: mixes the output with the projected input by a predicted weight per group, as the official
            H and G models do. Needs the window of each output pixel to be centred on its input pixel, that is, the
            ``pad`` above.
        remove_center: leaves out the middle point of the window.

    Raises:
        ValueError: with the rule and the value received.
    """

    offset_layer = 'offset'

    def __init__(
        self,
        channels: int = 64,
        kernel_size: Pair = 3,
        dw_kernel_size: Pair | None = None,
        stride: Pair = 1,
        pad: Pair = 1,
        dilation: Pair = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        act_layer: str = 'GELU',
        norm_layer: str = 'LN',
        center_feature_scale: bool = False,
        remove_center: bool = False,
    ):
        super().__init__()
        channels = int_of('DCNv3', 'channels', channels, least=1)
        group = int_of('DCNv3', 'group', group, least=1)
        kernel = pair_of('DCNv3', 'kernel_size', kernel_size, least=1)
        dw_kernel = kernel if dw_kernel_size is None else pair_of('DCNv3', 'dw_kernel_size', dw_kernel_size, least=1)
        stride = pair_of('DCNv3', 'stride', stride, least=1)
        pad = pair_of('DCNv3', 'pad', pad, least=0)
        dilation = pair_of('DCNv3', 'dilation', dilation, least=1)
        check_finite('DCNv3', 'offset_scale', offset_scale)
        self.channels = channels
        self.kernel_size = _one_if_equal(kernel)
        self.dw_kernel_size = _one_if_equal(dw_kernel)
        self.stride = _one_if_equal(stride)
        self.pad = _one_if_equal(pad)
        self.dilation = _one_if_equal(dilation)
        self.group = group
        self.group_channels = channels // group
        self.offset_scale = offset_scale
        self.center_feature_scale = center_feature_scale
        self.remove_center = remove_center

        if channels % group:
            raise ValueError(f'DCNv3: channels must be divisible by group, got {channels} and {group}')
        if remove_center and (kernel[0] % 2 == 0 or kernel[1] % 2 == 0 or kernel == (1, 1)):
            raise ValueError(f'DCNv3: remove_center needs an odd kernel_size larger than 1, got {self.kernel_size}')
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        # Both windows then have the same middle and, for the same parity, the same number of output pixels.
        dw_pad = tuple(p - r // 2 + (k - 1) // 2 for p, r, k in zip(pad, reach, dw_kernel, strict=True))
        if min(dw_pad) < 0 or any((k - 1 - r) % 2 for k, r in zip(dw_kernel, reach, strict=True)):
            raise ValueError(
                'DCNv3: the depthwise convolution cannot be aligned with the sampling window: dw_kernel_size - 1 and '
                'dilation * (kernel_size - 1) must both be even or both odd, and pad at least '
                'dilation * (kernel_size - 1) // 2 - (dw_kernel_size - 1) // 2; got dw_kernel_size '
                f'{self.dw_kernel_size}, kernel_size {self.kernel_size}, dilation {self.dilation}, pad {self.pad}'
            )
        if center_feature_scale and [2 * p for p in pad] != reach:
            raise ValueError(
                'DCNv3: center_feature_scale needs pad = dilation * (kernel_size - 1) / 2, '
                f'got pad {self.pad}, dilation {self.dilation}, kernel_size {self.kernel_size}'
            )

        points = kernel[0] * kernel[1] - int(remove_center)
        self.dw_conv = nn.Sequential(
            nn.Conv2d(channels, channels, dw_kernel, stride, dw_pad, groups=channels),
            build_norm_layer(channels, norm_layer, 'channels_first', 'channels_last'),
            build_act_layer(act_layer),
        )
        self.offset = Linear(channels, group * points * 2)
        self.mask = Linear(channels, group * points)
        self.input_proj = Linear(channels, channels)
        self.output_proj = Linear(channels, channels)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.empty(group, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.empty(group))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in (self.offset, self.mask):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        if self.center_feature_scale:
            nn.init.zeros_(self.center_feature_scale_proj_weight)
            nn.init.zeros_(self.center_feature_scale_proj_bias)

    def __prepare_scriptable__(self):
        raise NotImplementedError(
            'DCNv3: torch.jit.script does not take this layer; use torch.compile, torch.export or torch.jit.trace'
        )

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or input.shape[-1] != self.channels:
            raise ValueError(f'DCNv3: input must be (N, H, W, {self.channels}), got shape {tuple(input.shape)}')
        dtype = autocast_dtype(input)
        if dtype is not None:
            input = input.to(dtype)  # once for both that read it
        value = self.input_proj(input)
        local = self._local_features(input)
        x = dcnv3(
            value,
            self.offset(local),
            self.mask(local),
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.pad,
            dilation=self.dilation,
            groups=self.group,
            offset_scale=self.offset_scale,
            remove_center=self.remove_center,
            softmax=True,
        )
        if self.center_feature_scale:
            scale = F.linear(
                local, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
            ).sigmoid()
            scale = scale.repeat_interleave(self.group_channels, dim=-1)
            stride_h, stride_w = pair_of('DCNv3', 'stride', self.stride, least=1)
            x = torch.lerp(x, value[:, ::stride_h, ::stride_w].to(x.dtype), scale.to(x.dtype))
        return self.output_proj(x)

    def sampling(self, input: Tensor, predicted: Tensor | None = None) -> Sampling:
        """Where this layer samples ``input`` (N, H, W, C), see :class:`ops_dcnv3.Sampling`."""
        local = self._local_features(input)
        predicted = self.offset(local) if predicted is None else predicted
        offset = predicted.unflatten(-1, (self.group, -1, 2))
        kernel, stride, padding, dilation = (
            pair_of('DCNv3', 'window', value, least=0)
            for value in (self.kernel_size, self.stride, self.pad, self.dilation)
        )
        middle, points = sampling_window(offset.shape[1:3], kernel, stride, padding, dilation, like=offset)
        points = points.transpose(0, 1).flatten(0, 1)  # x is the outer loop
        if self.remove_center:
            points = torch.cat([points[: len(points) // 2], points[len(points) // 2 + 1 :]])
        return Sampling(
            offset,
            middle[:, :, None, None] + points * self.offset_scale,
            offset.new_tensor(self.offset_scale),
            self.mask(local).unflatten(-1, (self.group, -1)).softmax(-1),
            tuple(input.shape[1:3]),
            channels=3,
        )

    def _local_features(self, input: Tensor) -> Tensor:
        """What offsets and modulation are predicted from, (N, H_out, W_out, C). In inference on the CPU in one pass."""
        if is_eager_on_cpu(input) and only_the_result_counts(input) and _can_join(self.dw_conv, input):
            conv, (_, norm), _ = self.dw_conv
            return torch.ops.ops_dcnv3.depthwise_norm_gelu(
                input, conv.weight, conv.bias, norm.weight, norm.bias, norm.eps, conv.stride, conv.padding
            )
        return self.dw_conv(input.permute(0, 3, 1, 2))

    def extra_repr(self) -> str:
        return (
            f'{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, pad={self.pad}, '
            f'dilation={self.dilation}, group={self.group}, offset_scale={self.offset_scale}, '
            f'center_feature_scale={self.center_feature_scale}, remove_center={self.remove_center}'
        )


@torch.library.register_fake('ops_dcnv3::depthwise_norm_gelu')
def _(input, weight, bias, norm_weight, norm_bias, eps, stride, padding):
    size = ((input.shape[1 + i] + 2 * padding[i] - weight.shape[2 + i]) // stride[i] + 1 for i in (0, 1))
    return input.new_empty((input.shape[0], *size, input.shape[3]))
