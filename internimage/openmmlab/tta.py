"""Test-time augmentation of any config, by mmdet's and mmseg's own models for it."""

import copy
from collections.abc import Sequence

from mmengine.config import Config, ConfigDict

from .cfg_options import ConfigError
from .configuration import dicts, leaf_datasets, type_name

# Factors for the size of the image, those of mmseg's own configs.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
# For models without NMS, such as DINO: two views find the same object.
NMS = dict(type='nms', iou_threshold=0.7)
META_KEYS = ('img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')


def use_tta(cfg: Config) -> None:
    """Makes `cfg` evaluate the average of several views of each image.

    By the config's own `tta_model` and `tta_pipeline`; what it does not state follows from the test pipeline: a
    segmentor sees every image at six sizes (SCALES), each mirrored too, a detector mirrored too.

    Raises:
        ConfigError: the model predicts masks of instances, which mmdet cannot merge; or the pipeline is of neither.
    """
    datasets = list(leaf_datasets(cfg.test_dataloader.dataset))
    pipelines = [cfg.get('tta_pipeline') or tta_pipeline(dataset.get('pipeline') or []) for dataset in datasets]
    if 'tta_model' in cfg:
        tta_model = cfg.tta_model
    elif _packs_labels(datasets[0].pipeline):
        tta_model = dict(type='mmseg.SegTTAModel')
    elif any(node.get('mask_head') or node.get('panoptic_head') for node in dicts(cfg.model)):
        raise ConfigError(
            f'{type_name(cfg.model)} predicts masks of instances, and mmdet merges only the boxes of several views: '
            'no --tta for it'
        )
    else:
        tta_model = dict(type='DetTTAModel', tta_cfg=_merging(cfg.model.get('test_cfg') or {}))
    for dataset, pipeline in zip(datasets, pipelines, strict=True):
        dataset.pipeline = pipeline
    cfg.model = ConfigDict(tta_model, module=cfg.model)


def tta_pipeline(pipeline: Sequence[dict], scales: Sequence[float] = SCALES) -> list[dict]:
    """The pipeline that makes the views, from the test pipeline of a config: each step as the list of its variants.

    Annotations are read last: they stay those of the image as it is.
    """
    segments = _packs_labels(pipeline)
    *steps, pack = copy.deepcopy(list(pipeline))
    load = [step for step in steps if type_name(step).startswith('Load') and 'Annotation' not in type_name(step)]
    annotations = [step for step in steps if 'Annotation' in type_name(step)]
    steps = [step for step in steps if step not in load + annotations and type_name(step) != 'RandomFlip']
    resizes = [index for index, step in enumerate(steps) if 'scale' in step or 'scale_factor' in step]
    if segments and not resizes:
        steps.insert(0, dict(type='Resize', scale_factor=1.0, keep_ratio=True))
        resizes = [0]
    choices = [[step] for step in steps]
    if segments:
        choices[resizes[0]] = [_scaled(steps[resizes[0]], scale) for scale in scales]
    flip = 'RandomFlip' if segments else 'mmdet.RandomFlip'
    choices.insert(
        resizes[0] + 1 if resizes else 0, [dict(type=flip, prob=prob, direction='horizontal') for prob in (0.0, 1.0)]
    )
    if 'meta_keys' in pack:  # what the model needs to turn a view back
        pack['meta_keys'] = tuple(dict.fromkeys((*pack['meta_keys'], *META_KEYS)))
    return [*load, dict(type='TestTimeAug', transforms=[*choices, *([step] for step in annotations), [pack]])]


def _packs_labels(pipeline: Sequence[dict]) -> bool:
    """Is a test pipeline a segmentor's? (Else a detector's.)"""
    last = type_name(pipeline[-1]) if pipeline else None
    if last not in ('PackSegInputs', 'PackDetInputs'):
        raise ConfigError(
            f'--tta needs a tta_pipeline, or a test pipeline that ends in PackSegInputs or PackDetInputs, not {last}'
        )
    return last == 'PackSegInputs'


def _scaled(resize: dict, scale: float) -> dict:
    """A Resize step (or one of its relatives) with all its sizes times `scale`."""

    def times(size):
        if isinstance(size, (list, tuple)):
            return tuple(map(times, size))
        return int(size * scale) if isinstance(size, int) else size * scale

    return {
        key: times(value) if key in ('scale', 'scale_factor', 'max_size') and value else value
        for key, value in resize.items()
    }


def _merging(test_cfg: dict) -> dict:
    """How the boxes of the views are merged: by the NMS that the model uses for its own boxes."""
    final = test_cfg.get('rcnn') or test_cfg
    return dict(nms=final.get('nms') or NMS, max_per_img=final.get('max_per_img') or 100)
