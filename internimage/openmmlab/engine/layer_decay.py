"""Layer-wise learning-rate decay by the official rule, with the layers as the backbone itself counts them."""

from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

# What predicts offsets and modulation in the learned RoI pools of ops_dcnv3.
ROI_OFFSET_LAYERS = {'offset_fc', 'mask_fc', 'offset_conv'}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class CustomLayerDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Learning rate ``lr * layer_decay_rate ** (layers above)``; no weight decay for norms, biases and vectors.

    The order of the layers comes from ``model.backbone.get_layer_depth``, so a config states only the rates:

    ``paramwise_cfg=dict(layer_decay_rate=0.9, offset_lr_scale=0.01)``

    - ``layer_decay_rate`` (default 1.0: the same rate everywhere);
    - ``offset_lr_scale`` (default 1.0): factor for the sampling offsets of deformable attention;
    - ``roi_offset_lr_scale`` (default 1.0): factor for the layers that predict the offsets and the modulation of RoI
      pools (the papers: 0.1). mmengine's default constructor does the same with
      ``custom_keys={name: dict(lr_mult=0.1)}`` for the names in ``ROI_OFFSET_LAYERS``;
    - ``num_layers``, ``depths``: not needed; where an official config gives them, they must be the model's.

    Raises:
        ValueError: an unknown option, one that contradicts the model, or a model whose backbone does not count layers.
    """

    def __call__(self, model: nn.Module):
        # Without any option the base class would skip add_params, and with it the rule on weight decay.
        self.paramwise_cfg = {'layer_decay_rate': 1.0, **(self.paramwise_cfg or {})}
        return super().__call__(model)

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        options = dict(self.paramwise_cfg)
        decay_rate = options.pop('layer_decay_rate')
        offset_lr_scale = options.pop('offset_lr_scale', 1.0)
        roi_offset_lr_scale = options.pop('roi_offset_lr_scale', 1.0)
        model = module.module if is_model_wrapper(module) else module
        backbone = getattr(model, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise ValueError(
                'CustomLayerDecayOptimizerConstructor: the backbone must have get_layer_depth, as InternImage has, got '
                f'{type(backbone).__name__}'
            )
        official = {'num_layers': sum(backbone.depths), 'depths': list(backbone.depths)}
        for name, value in options.items():
            if name not in official:
                raise ValueError(
                    'CustomLayerDecayOptimizerConstructor: paramwise_cfg takes layer_decay_rate, offset_lr_scale and '
                    f'roi_offset_lr_scale, got {name!r}'
                )
            if (list(value) if name == 'depths' else value) != official[name]:
                raise ValueError(
                    f'CustomLayerDecayOptimizerConstructor: {name} must be {official[name]} as in the model, or left '
                    f'out, got {value}'
                )

        groups: dict[str, dict] = {}
        for name, param in model.named_parameters():
            if not param.requires_grad:
                continue
            layer, num_layers = backbone.get_layer_depth(name)
            if _is_embedding_of_lowest_layer(name):
                layer = 0
            decays = param.dim() > 1 and 'norm' not in name and 'sampling_offsets' not in name
            scale = decay_rate ** (num_layers - 1 - layer)
            kind = ''
            if 'sampling_offsets' in name:
                kind = '_offsets'
                scale *= offset_lr_scale
            elif not ROI_OFFSET_LAYERS.isdisjoint(name.split('.')):
                kind = '_roi_offsets'
                scale *= roi_offset_lr_scale
            key = f'layer_{layer}{"" if decays else "_no_decay"}{kind}'
            if key not in groups:
                groups[key] = {
                    'params': [],
                    'lr': self.base_lr * scale,
                    'weight_decay': self.base_wd if decays else 0.0,
                    'group_name': key,
                }
            groups[key]['params'].append(param)
        params.extend(groups.values())


def _is_embedding_of_lowest_layer(name: str) -> bool:
    """A quirk of the official rule: these parts of DINO and Mask2Former get the rate of the stem."""
    parts = ('query_embed', 'query_feat', 'level_embed', 'cls_embed', 'mask_embed')
    return 'level_embed' in name or name.startswith(tuple(f'decode_head.{part}' for part in parts))
