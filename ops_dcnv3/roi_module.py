"""The RoI pooling layers: the operators, and the prediction of offsets and modulation around them."""

from torch import Tensor, nn

from .roi_pool import Pair, deform_ps_roi_pool, deform_roi_pool, ps_roi_pool
from .sampling import Sampling, bin_centres


class _RoIPool(nn.Module):
    """What all layers keep: where and how to sample."""

    def __init__(self, output_size: Pair, spatial_scale: float = 1.0, sampling_ratio: int = 0):
        super().__init__()
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        self.spatial_scale = float(spatial_scale)
        self.sampling_ratio = int(sampling_ratio)

    def extra_repr(self) -> str:
        names = ('output_size', 'spatial_scale', 'sampling_ratio', 'gamma')
        return ', '.join(f'{name}={getattr(self, name)}' for name in names if hasattr(self, name))

    def _sampling(self, input: Tensor, rois: Tensor, offset: Tensor, weights: Tensor | None = None) -> Sampling:
        """The bins as samples, a sample being the centre of a bin; `offset` (K, 2 * n, height, width), n groups."""
        centres, size = bin_centres(rois, self.output_size, self.spatial_scale)
        offset = offset.unflatten(1, (-1, 1, 2)).permute(0, 4, 5, 1, 2, 3)  # (K, height, width, n, 1, 2)
        weights = offset.new_ones(offset.shape[:-1]) if weights is None else weights[..., None, None]
        return Sampling(
            offset,
            centres[..., None, None, :],
            self.gamma * size[..., None, None, :],
            weights,
            tuple(input.shape[2:]),
        )


class DeformRoIPool(_RoIPool):
    """:func:`ops_dcnv3.deform_roi_pool` with offsets that the caller predicts; see there for the arguments."""

    def __init__(self, output_size: Pair, spatial_scale: float = 1.0, sampling_ratio: int = 0, gamma: float = 0.1):
        super().__init__(output_size, spatial_scale, sampling_ratio)
        self.gamma = float(gamma)

    def forward(self, input: Tensor, rois: Tensor, offset: Tensor | None = None) -> Tensor:
        return self.pool(input, rois, offset)

    def pool(self, input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None = None) -> Tensor:
        return deform_roi_pool(
            input, rois, offset, self.output_size, self.spatial_scale, self.sampling_ratio, self.gamma, mask
        )


class ModulatedDeformRoIPool(DeformRoIPool):
    """:func:`ops_dcnv3.deform_roi_pool` with offsets and modulation that the caller predicts."""

    def forward(self, input: Tensor, rois: Tensor, offset: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.pool(input, rois, offset, mask)


class DeformRoIPoolPack(DeformRoIPool):
    """Deformable RoI pooling (arXiv 1703.06211, section 2.2): pools, predicts offsets from that, and pools again.

    Constructor and parameter names are those of mmcv. The last layer of the prediction starts at zero, that is, the
    pooling starts at regular bins.

    Args:
        output_size (int or (int, int)): bins, (height, width).
        output_channels: C, of the input and of the output.
        deform_fc_channels: of the two hidden layers.
        spatial_scale, sampling_ratio, gamma: see :func:`ops_dcnv3.deform_roi_pool`.

    Shapes: input (N, C, H, W) and rois (K, 5) to (K, C, height, width).
    """

    offset_layer = 'offset_fc'

    def __init__(
        self,
        output_size: Pair,
        output_channels: int,
        deform_fc_channels: int = 1024,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
    ):
        super().__init__(output_size, spatial_scale, sampling_ratio, gamma)
        self.output_channels = output_channels
        self.deform_fc_channels = deform_fc_channels
        bins, hidden = self.output_size[0] * self.output_size[1], deform_fc_channels
        self.offset_fc = nn.Sequential(
            nn.Linear(bins * output_channels, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            _zero(nn.Linear(hidden, 2 * bins)),
        )

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        offset = self.offset_fc(self.regular(input, rois))
        return self.pool(input, rois, offset.unflatten(1, (2, *self.output_size)))

    def sampling(self, input: Tensor, rois: Tensor, predicted: Tensor | None = None) -> Sampling:
        """Where the bins of ``rois`` are, see :class:`ops_dcnv3.Sampling`; a sample is the centre of a bin."""
        regular = self.regular(input, rois)
        predicted = self.offset_fc(regular) if predicted is None else predicted
        return self._sampling(input, rois, predicted.unflatten(1, (2, *self.output_size)), self._weights(regular))

    def _weights(self, regular: Tensor) -> Tensor | None:
        """Of the bins, (K, height, width); None where all are 1."""
        return None

    def regular(self, input: Tensor, rois: Tensor) -> Tensor:
        """The features of regular bins, from which the prediction is made: (K, C * height * width)."""
        if input.dim() != 4 or input.shape[1] != self.output_channels:
            raise ValueError(
                f'{type(self).__name__}: input must be (N, {self.output_channels}, H, W), got shape '
                f'{tuple(input.shape)}'
            )
        return self.pool(input, rois, None).flatten(1)


class ModulatedDeformRoIPoolPack(DeformRoIPoolPack):
    """Modulated deformable RoI pooling (arXiv 1811.11168, section 3.2): predicts a weight of each bin as well.

    See :class:`DeformRoIPoolPack` for the arguments. The weights are sigmoids and start at 0.5, as in mmcv.
    """

    def __init__(
        self,
        output_size: Pair,
        output_channels: int,
        deform_fc_channels: int = 1024,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
    ):
        super().__init__(output_size, output_channels, deform_fc_channels, spatial_scale, sampling_ratio, gamma)
        bins = self.output_size[0] * self.output_size[1]
        self.mask_fc = nn.Sequential(
            nn.Linear(bins * output_channels, deform_fc_channels),
            nn.ReLU(inplace=True),
            _zero(nn.Linear(deform_fc_channels, bins)),
            nn.Sigmoid(),
        )

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        regular = self.regular(input, rois)
        offset = self.offset_fc(regular).unflatten(1, (2, *self.output_size))
        return self.pool(input, rois, offset, self._weights(regular))

    def _weights(self, regular: Tensor) -> Tensor:
        return self.mask_fc(regular).unflatten(1, self.output_size)


class PSRoIPool(_RoIPool):
    """:func:`ops_dcnv3.ps_roi_pool` as a layer; see there for the arguments."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        return ps_roi_pool(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)


class DeformPSRoIPoolPack(_RoIPool):
    """Deformable position-sensitive RoI pooling (arXiv 1703.06211, section 2.2, figure 4).

    A convolution predicts a field of offsets on the whole feature map; position-sensitive pooling takes from it the
    offset of each bin, by which the score maps are then pooled. The convolution starts at zero, at regular bins.

    Args:
        output_size (int or (int, int)): bins, (height, width).
        in_channels: of the features from which the offsets are predicted.
        classes: n, how many classes of offsets there are; must divide the channels of the output.
        spatial_scale, sampling_ratio, gamma: see :func:`ops_dcnv3.deform_ps_roi_pool`.

    Shapes: input (N, D * height * width, H, W), the score maps; rois (K, 5); features (N, in_channels, H, W), the input
    itself where None; to (K, D, height, width).
    """

    offset_layer = 'offset_pool'

    def __init__(
        self,
        output_size: Pair,
        in_channels: int,
        classes: int = 1,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
    ):
        super().__init__(output_size, spatial_scale, sampling_ratio)
        self.gamma = float(gamma)
        bins = self.output_size[0] * self.output_size[1]
        self.offset_conv = _zero(nn.Conv2d(in_channels, 2 * classes * bins, kernel_size=1))
        self.offset_pool = PSRoIPool(self.output_size, self.spatial_scale, self.sampling_ratio)

    def forward(self, input: Tensor, rois: Tensor, features: Tensor | None = None) -> Tensor:
        offset = self._offset(input, rois, features)
        where = (self.output_size, self.spatial_scale, self.sampling_ratio)
        return deform_ps_roi_pool(input, rois, offset, *where, self.gamma)

    def sampling(
        self, input: Tensor, rois: Tensor, features: Tensor | None = None, predicted: Tensor | None = None
    ) -> Sampling:
        """Where the bins of ``rois`` are, see :class:`ops_dcnv3.Sampling`: a group for each class of offsets, a sample
        being the centre of a bin."""
        predicted = self._offset(input, rois, features) if predicted is None else predicted
        return self._sampling(input, rois, predicted)

    def _offset(self, input: Tensor, rois: Tensor, features: Tensor | None) -> Tensor:
        return self.offset_pool(self.offset_conv(input if features is None else features), rois)


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
