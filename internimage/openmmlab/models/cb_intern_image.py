"""Two InternImages as one backbone, the composition of CBNetV2 (arXiv 2107.00420, section 3.2), and its neck."""

import torch
import torch.nn.functional as F
from mmdet.models.necks import ChannelMapper
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...checkpoint import load_pretrained_backbone
from ...network import InternImage


class LeadInternImage(InternImage):
    """The second InternImage: no stem of its own, and scales, zero at first, of what it is given by the first."""

    def __init__(self, **options):
        super().__init__(**options)
        self.patch_embed = nn.Identity()
        for i, channels in enumerate(self.num_features):
            self.register_parameter(f'gamma{i}', nn.Parameter(torch.zeros(channels)))

    def gammas(self) -> list[Tensor]:
        return [getattr(self, f'gamma{i}') for i in range(len(self.num_features))]


@MODELS.register_module()
class CBInternImage(BaseModule):
    """Composite backbone: an assisting InternImage feeds every stage of a lead InternImage of the same shape.

    Before stage i the lead's features grow by gamma_i * sum over j >= i of w_ij(a_j), with a_j the assistant's feature
    map of stage j, w_ij a 1x1 convolution to the channels of stage i (none where j = i), and maps of smaller size
    brought to the size of stage i by the nearest neighbour (CBNetV2's "dense higher-level composition"). gamma is a
    vector of one scale per channel, as InternImage's own, and starts at zero: the lead starts as an InternImage by
    itself. Both share the assistant's stem.

    Args:
        out_indices: a pair, the stages of the assistant (all of them: the composition needs them) and of the lead.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` takes an ImageNet checkpoint of one InternImage for both.
        **options: of both InternImages, see :class:`InternImage`.

    Returns (forward):
        pair of tuples, the feature maps of the assistant and of the lead, each of the stages ``out_indices[1]``

    Raises:
        TypeError, ValueError: as InternImage, or `out_indices` is not such a pair.
    """

    def __init__(
        self,
        out_indices: tuple[tuple[int, ...], tuple[int, ...]] = ((0, 1, 2, 3), (0, 1, 2, 3)),
        init_cfg: dict | None = None,
        **options,
    ):
        super().__init__(init_cfg)
        if len(out_indices) != 2 or isinstance(out_indices[0], int):
            raise ValueError(f'CBInternImage: out_indices must be a pair of lists of stages, got {out_indices}')
        assistant = InternImage(out_indices=out_indices[0], **options)
        lead = LeadInternImage(out_indices=out_indices[1], **options)
        self.depths, self.num_features = lead.depths, lead.num_features
        stages = range(len(self.depths))
        if list(assistant.out_indices) != list(stages):
            raise ValueError(
                f'CBInternImage: out_indices[0], of the assisting backbone, must be all stages, {list(stages)}, got '
                f'{out_indices[0]}'
            )
        self.cb_modules = nn.ModuleList([assistant, lead])
        self.cb_linears = nn.ModuleList(  # [i][j - i] is w_ij
            nn.ModuleList(
                nn.Identity() if j == i else nn.Conv2d(self.num_features[j], self.num_features[i], 1)
                for j in stages[i:]
            )
            for i in stages
        )

    def init_weights(self) -> None:
        assistant, lead = self.cb_modules
        for module in (*self.cb_modules, *self.cb_linears.modules()):
            if hasattr(module, 'reset_parameters'):
                module.reset_parameters()
        for gamma in lead.gammas():
            nn.init.zeros_(gamma)
        if self.init_cfg is not None:
            if self.init_cfg.get('type') not in ('Pretrained', PretrainedInit):
                raise ValueError(f"CBInternImage: init_cfg must be None or of type 'Pretrained', got {self.init_cfg}")
            load_pretrained_backbone(assistant, self.init_cfg['checkpoint'])
            weights = assistant.state_dict()
            lead.load_state_dict({name: weights.get(name, value) for name, value in lead.state_dict().items()})
        self._is_init = True

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        assistant, lead = self.cb_modules
        stem = assistant.forward_stem(x)
        features = assistant.forward_stages(stem)
        outputs = lead.forward_stages(stem, self.compose(features))
        return tuple(features[i] for i in lead.out_indices), outputs

    def compose(self, features: tuple[Tensor, ...]) -> list[Tensor]:
        """The assistant's feature maps, (N, C_i, H_i, W_i) -> what the lead adds, (N, H_i, W_i, C_i), of all stages."""
        composed = []
        for i, (linears, gamma) in enumerate(zip(self.cb_linears, self.cb_modules[1].gammas(), strict=True)):
            size = features[i].shape[-2:]
            parts = [F.interpolate(linear(x), size=size) for linear, x in zip(linears, features[i:], strict=True)]
            composed.append(gamma * sum(parts).permute(0, 2, 3, 1))
        return composed

    def get_layer_depth(self, param_name: str, prefix: str = 'backbone.') -> tuple[int, int]:
        """As `InternImage.get_layer_depth`, and the last layer for every parameter.

        A quirk of the official rule, which its published training rests on: it knows `backbone.levels` and
        `backbone.patch_embed`, not `backbone.cb_modules.0.levels`, so a composite backbone is trained at the full rate,
        whatever the layer decay.
        """
        num_layers = sum(self.depths) + 2
        return num_layers - 1, num_layers


@MODELS.register_module()
class CBChannelMapper(ChannelMapper):
    """mmdet's ChannelMapper, with the same weights for both parts of a composite backbone.

    Takes the pair of CBInternImage; returns in training a pair of tuples of feature maps, otherwise the lead's tuple.
    """

    def forward(self, inputs: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]):
        assistant, lead = inputs
        if self.training:
            return super().forward(assistant), super().forward(lead)
        return super().forward(lead)
