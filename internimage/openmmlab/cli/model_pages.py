"""Write the model pages: configs/*/README.md, published results beside parameters and FLOPs counted here.

    internimage model-pages

Run it in a checkout after a config or configs/published_results.json has changed; a test fails where a page is not up
to date.
"""

import argparse
import json
from functools import cache
from pathlib import Path

from mmengine.config import Config

from ...analysis import Complexity, count
from ...imagenet import build_imagenet_form
from ..complexity import count_config
from ..configuration import config_folder
from ..own_data.config import official_checkpoint

DETECTION_SHAPE = (800, 1280)
METRICS = dict(box_ap='box AP', mask_ap='mask AP', miou_ss='mIoU', miou_ms='multi-scale')

NOTE = """Parameters (millions) and FLOPs (billions, a multiply-add being one) are counted by this project for an image
of the size given; published figures in brackets. `internimage analyze CONFIG --shape HEIGHT WIDTH` prints them for
each module, with the memory that training needs. Published accuracy is that of the official models, whose files
are linked and load without conversion; a dash: none.

This page is written by `internimage model-pages` from `configs/published_results.json` and the configs.
"""


@cache
def published(configs: Path) -> dict:
    """The published figures, configs/published_results.json; parameters in millions, FLOPs in billions."""
    return json.loads((configs / 'published_results.json').read_text())


def folders(configs: Path) -> list[Path]:
    """The folders that have a model page."""
    return [configs / name for name in published(configs)['datasets'] if (configs / name).is_dir()]


def model_page(folder: Path) -> str:
    """The text of the README.md of a folder of configs."""
    paths = sorted(folder.glob('*.py'))
    rows = [config_row(path) for path in paths]
    notes = [f'{path.stem}: {note}\n\n' for path in paths if (note := _known(path).get('note'))]
    title = published(folder.parent)['datasets'][folder.name]
    columns = (
        'config',
        'model',
        'published',
        'parameters, M',
        'FLOPs, G',
        'image',
        'official checkpoint',
        'starts from',
    )
    return _page(title, columns, rows, notes=''.join(notes))


def backbone_page(configs: Path) -> str:
    """The text of the README.md of the backbones."""
    rows = [backbone_row(configs, name) for name in published(configs)['imagenet']]
    columns = ('backbone', 'ImageNet top-1', 'parameters, M', 'with head', 'FLOPs, G', 'image')
    intro = 'The published models; FLOPs are those of the ImageNet form, with its classification head.\n\n'
    return _page('InternImage backbones', columns, rows, intro)


def config_row(path: Path) -> tuple[str, ...]:
    """The cells of a config's row."""
    cfg = Config.fromfile(path)
    known = _known(path)
    cost = config_cost(path)
    accuracy = ', '.join(f'{label} {known[key]}' for key, label in METRICS.items() if key in known)
    head = cfg.model.get('decode_head')
    return (
        f'[{path.stem}]({path.name})',
        head.type if head else cfg.model.type,
        accuracy or '-',
        *_counted(cost, known),
        _size(cost.shape),
        _link(official_checkpoint(f'{path.parent.name}/{path.stem}')),
        _link(cfg.get('load_from') or (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')),
    )


def config_cost(path: Path) -> Complexity:
    """The cost of a config's model at the size of its published FLOPs; without published FLOPs detectors at 800x1280,
    segmentors at the size of their training crops."""
    cfg = Config.fromfile(path)
    known = _known(path)
    crop = cfg.model.get('data_preprocessor', {}).get('size') or DETECTION_SHAPE
    return _count(json.dumps(cfg.model.to_dict(), sort_keys=True), cfg.default_scope, tuple(known.get('shape', crop)))


def _known(path: Path) -> dict:
    return published(path.parents[1])['configs'].get(f'{path.parent.name}/{path.stem}', {})


@cache
def _count(model: str, scope: str, shape: tuple[int, int]) -> Complexity:
    """Configs that differ in their schedule alone are counted once."""
    return count_config(Config(dict(model=json.loads(model), default_scope=scope)), shape)


def backbone_row(configs: Path, name: str) -> tuple[str, ...]:
    known = published(configs)['imagenet'][name]
    cost = backbone_cost(configs, name)
    alone = sum(cost.modules[part].parameters for part in ('patch_embed', 'levels'))
    return (
        f'[InternImage-{name.upper()}](internimage_{name}.py)',
        str(known['top1']),
        f'{alone / 1e6:.1f}',
        *_counted(cost, known),
        _size(cost.shape),
    )


@cache
def backbone_cost(configs: Path, name: str) -> Complexity:
    """The cost of a variant's ImageNet form at the published resolution."""
    return count(lambda: build_imagenet_form(name), (published(configs)['imagenet'][name]['resolution'],) * 2)


def _counted(cost: Complexity, known: dict) -> tuple[str, str]:
    parameters, flops = f'{cost.total.parameters / 1e6:.1f}', f'{cost.total.flops / 1e9:.1f}'
    if 'params_m' in known:
        parameters += f' ({known["params_m"]})'
    if 'flops_g' in known:
        flops += f' ({known["flops_g"]})'
    return parameters, flops


def _size(shape: tuple[int, int]) -> str:
    return f'{shape[0]}x{shape[1]}'


def _link(checkpoint: str | None) -> str:
    if not checkpoint:
        return '-'
    name = checkpoint.rpartition('/')[2]
    return f'[{name}]({checkpoint})' if checkpoint.startswith('http') else checkpoint


def line(cells: tuple[str, ...]) -> str:
    return f'| {" | ".join(cells)} |'


def _page(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]], intro: str = '', notes: str = '') -> str:
    table = [line(columns), '|---' * len(columns) + '|', *map(line, rows)]
    return f'# {title}\n\n{intro}' + '\n'.join(table) + f'\n\n{notes}{NOTE}'


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage='%(prog)s'
    ).parse_args()
    configs = config_folder()
    for folder in folders(configs):
        (folder / 'README.md').write_text(model_page(folder))
    (configs / '_base_' / 'backbones' / 'README.md').write_text(backbone_page(configs))
