"""Costs by hand on small models, the published figures on the official ones, and the model pages that show both."""

import internimage  # noqa: F401  (first of all: it may be where mmcv has its operators from)

# isort: split
import gzip
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, MultiScaleDeformableAttention
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.config import Config
from torch import nn
from torch.profiler import ProfilerActivity, profile

import ops_dcnv3
from internimage import VARIANTS, InternImage, build_variant
from internimage.analysis.complexity import si
from internimage.imagenet import build_imagenet_form
from internimage.openmmlab.cli.model_pages import (
    backbone_cost,
    backbone_row,
    config_cost,
    config_row,
    folders,
    line,
    published,
)
from internimage.openmmlab.complexity import count_config
from internimage.openmmlab.complexity import count_model as count
from ops_dcnv3 import ModulatedDeformRoIPool, PSRoIPool

CONFIGS = Path(__file__).parents[2] / 'configs'
PUBLISHED = published(CONFIGS)
TINY = dict(channels=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8))


class Call(nn.Module):
    """A function of the image as a model."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleDict(modules)

    def forward(self, image):
        return self.function(image, **self.parts)


def flops(function, shape=(6, 10), **builders) -> int:
    """Of a function of the image and of modules, which are given as functions that build them."""
    return count(lambda: Call(function, **{key: build() for key, build in builders.items()}), shape).total.flops


# By hand


def test_by_hand():
    """(1, 3, 6, 10) -> convolution of stride 2 -> (1, 8, 3, 5) -> GELU -> linear over channels -> (1, 3, 5, 4)."""

    def build():
        first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.GELU())
        return Call(lambda x, first, last: last(first(x).permute(0, 2, 3, 1)), first=first, last=nn.Linear(8, 4))

    cost = count(build, (6, 10), optimizer=dict(type='AdamW', lr=0.1))
    assert cost.modules['parts.first'].parameters == 8 * 27 + 8
    assert cost.modules['parts.first'].flops == 3 * 5 * 8 * 27
    assert cost.modules['parts.last'].flops == 3 * 5 * 8 * 4
    assert cost.total.parameters == 8 * 27 + 8 + 4 * 8 + 4
    assert cost.total.flops == 3 * 5 * (8 * 27 + 8 * 4)
    # Kept for the backward pass: the image, for the convolution; what goes into GELU; what goes into the linear layer.
    assert cost.total.activations == 4 * (3 * 6 * 10 + 8 * 3 * 5 + 8 * 3 * 5)
    size = 4 * cost.total.parameters
    activations = cost.total.activations
    assert cost.memory == dict(parameters=size, gradients=size, optimizer=2 * size, activations=activations)


@pytest.mark.parametrize(
    'optimizer, states',
    [
        (dict(type='SGD', lr=0.1), 0),
        (dict(type='SGD', lr=0.1, momentum=0.9), 1),
        (dict(type='AdamW', lr=0.1), 2),
        (dict(type='AdamW', lr=0.1, amsgrad=True), 3),
    ],
)
def test_frozen_parameters_have_no_gradient_and_no_optimizer_state(optimizer, states):
    def build():
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1))
        model[0].requires_grad_(False)
        return model

    cost = count(build, (4, 4), optimizer)
    assert cost.memory['parameters'] == 4 * (8 * 3 + 8 + 5 * 8 + 5)
    assert cost.memory['gradients'] == 4 * (5 * 8 + 5)
    assert cost.memory['optimizer'] == states * cost.memory['gradients']


@pytest.mark.parametrize('remove_center', [False, True])
def test_dcnv3(remove_center):
    def run(image):  # (1, 3, 6, 10), one group of channels each, stride (2, 1) -> (1, 3, 10, 3)
        points = 3 * (9 - remove_center)
        offset, mask = image.new_zeros(1, 3, 10, 2 * points), image.new_zeros(1, 3, 10, points)
        return ops_dcnv3.dcnv3(
            image.permute(0, 2, 3, 1), offset, mask, stride=(2, 1), groups=3, remove_center=remove_center
        )

    assert flops(run) == 5 * (3 * 10) * (9 - remove_center) * 3


def test_roi_pools():
    rois = [[0.0, 0.0, 0.0, 8.0, 8.0]] * 7
    maps = 2 * 3 * 3  # position-sensitive, 2 channels of 3 x 3 bins

    def position_sensitive(image, pool):
        return pool(image.new_zeros(1, maps, 6, 10), image.new_tensor(rois))

    assert flops(position_sensitive, pool=lambda: PSRoIPool(3, 1.0, sampling_ratio=3)) == 4 * 9 * (7 * 2 * 3 * 3)

    def modulated(image, pool):
        return pool(image, image.new_tensor(rois), image.new_zeros(7, 2, 3, 4), image.new_zeros(7, 3, 4))

    assert flops(modulated, pool=lambda: ModulatedDeformRoIPool((3, 4))) == 5 * 4 * (7 * 3 * 3 * 4)


def test_roi_align_of_an_extractor_with_levels():
    def build():
        return SingleRoIExtractor(dict(type='RoIAlign', output_size=7, sampling_ratio=0), 3, [4, 8])

    boxes = torch.tensor([[0.0, 0, 0, 30, 30], [0, 0, 0, 300, 300]]).repeat(5, 1)

    def run(image, extractor):
        return extractor((image, image[:, :, ::2, ::2]), image.new_tensor(boxes.tolist()))

    assert flops(run, extractor=build) == 4 * 4 * (10 * 3 * 7 * 7)
    real = Call(run, extractor=build())(torch.rand(1, 3, 80, 96))  # what stands in for it is gone
    assert real.shape == (10, 3, 7, 7) and not torch.equal(real[0], real[1])


@pytest.mark.parametrize('modulated', [False, True])
def test_deformable_convolutions(modulated):
    def build():
        return (ModulatedDeformConv2d if modulated else DeformConv2d)(3, 8, 3, stride=2, padding=1)

    def run(image, conv):
        extra = [image.new_zeros(1, 9, 3, 5)] if modulated else []
        return conv(image, image.new_zeros(1, 18, 3, 5), *extra)

    assert flops(run, conv=build) == (3 * 5) * 27 * 8 + (5 if modulated else 4) * (3 * 5) * 27


def test_multi_scale_deformable_attention_reads_the_shapes_of_its_maps():
    def build():
        return MultiScaleDeformableAttention(32, num_heads=4, num_levels=2, num_points=3, batch_first=True)

    def run(image, attention):
        shapes = image.new_tensor([[6, 10], [3, 5]], dtype=torch.long)
        tokens = image.new_zeros(1, 75, 32)
        return attention(tokens, reference_points=image.new_zeros(1, 75, 2, 2), spatial_shapes=shapes)

    projections = 75 * 32 * (32 + 32 + 4 * 2 * 3 * 2 + 4 * 2 * 3)
    assert flops(run, attention=build) == projections + 4 * 75 * 32 * 2 * 3


def test_attention():
    def run(image):
        x = image.flatten(2).transpose(1, 2)[:, None]  # 60 tokens of 3 channels
        return F.scaled_dot_product_attention(x, x, x)

    assert flops(run) == 2 * 60 * 60 * 3


@pytest.mark.parametrize('options', [TINY, dict(TINY, layer_scale=1.0, post_norm=True), dict(TINY, with_cp=True)])
def test_activations_are_what_a_real_pass_keeps(options):
    """Against the memory that torch's profiler sees allocated, and not freed, by a training pass on the CPU."""
    cost = count(lambda: InternImage(**options), (128, 160))
    model, image = InternImage(**options).train(), torch.rand(1, 3, 128, 160)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        features = model(image)
    events = record.profiler.kineto_results.events()
    held = sum(event.nbytes() for event in events if event.name() == '[memory]')
    returned = sum(feature.untyped_storage().nbytes() for feature in features)
    # Beside what is kept there are the features that are returned, and the image was there before.
    assert held == pytest.approx(cost.total.activations + returned - image.nbytes, rel=0.02)


# Errors and printing


def test_errors():
    with pytest.raises(ValueError, match=r'two positive integers, height and width, got \(0, 5\)'):
        count(lambda: nn.Identity(), (0, 5))
    with pytest.raises(ValueError, match='depends on the values of a tensor'):
        flops(lambda image: image[image > 0])
    with pytest.raises(ValueError, match='depends on the values of a tensor'):
        flops(lambda image: image * float(image.sum()))


def test_numbers():
    assert [si(n) for n in (0, 999, 1000, 48_920_544, 99_960_000, 269.6e9, 1.4832e12)] == [
        '0',
        '999',
        '1.00 K',
        '48.9 M',
        '100 M',
        '270 G',
        '1.48 T',
    ]


def test_table_and_json():
    cost = count(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.Conv2d(8, 5, 1))), (4, 8))
    lines = cost.table(depth=1).splitlines()
    assert [text.split()[:3] for text in lines[:4]] == [
        ['module', 'parameters', 'FLOPs'],
        ['Sequential', '77', '2.05'],
        ['0', '32', '768'],
        ['1', '45', '1.28'],
    ]
    assert 'memory, 4x8, batch 1' in lines[5]
    assert len(cost.table(depth=2).splitlines()) == len(lines) + 1
    content = json.loads(cost.to_json())
    assert content['modules']['1.0'] == dict(parameters=45, flops=1280, activations=4 * 8 * 4 * 8)


# Published figures


def unit(figure: int) -> int:
    """Of the last digit printed: 49 million, 1.12 billion (1120), 3 billion (3000)."""
    digits = str(figure)
    return 10 ** (len(digits) - len(digits.rstrip('0'))) if figure >= 1000 else 1


def agrees(counted: float, figure: int, within: float) -> bool:
    return abs(counted - figure) <= max(unit(figure) / 2, within * figure)


def one_of_each(names, normal):
    """All of them as parameters; those that count nothing new, and take seconds, are marked slow."""
    assert set(normal) <= set(names)
    return [pytest.param(name, marks=[] if name in normal else [pytest.mark.slow], id=name) for name in names]


@pytest.mark.parametrize('name', one_of_each(PUBLISHED['imagenet'], 't'))
def test_imagenet_figures(name, data):
    golden = json.loads(gzip.decompress((data / 'internimage_state_dicts.json.gz').read_bytes()))[name]
    with torch.device('meta'):
        form = build_imagenet_form(name)
    assert {key: list(value.shape) for key, value in form.state_dict().items()} == golden['state_dict']
    figures, cost = PUBLISHED['imagenet'][name], backbone_cost(CONFIGS, name)
    assert cost.total.parameters == golden['num_parameters']
    # 1.0896 billion is published as 1.08: H's figure is cut, not rounded.
    assert agrees(cost.total.parameters / 1e6, figures['params_m'], within=0.01 if name == 'h' else 0)
    assert agrees(cost.total.flops / 1e9, figures['flops_g'], within=0.02)
    page = (CONFIGS / '_base_' / 'backbones' / 'README.md').read_text()
    assert line(backbone_row(CONFIGS, name)) in page.splitlines(), 'run internimage model-pages'


def unseen_of_mask2former(height, width, channels=1024, queries=200, classes=150) -> int:
    """What a counter of convolution and linear layers does not see, as that of the published figures: attention as a
    function, with its projections; products of queries and pixels; the sampling of deformable attention."""
    tokens = [height * width // stride**2 for stride in (32, 16, 8)]
    pixels = height * width // 16
    attention = 0
    for keys in 3 * tokens:
        attention += 2 * (queries + keys) * channels**2 + 2 * queries * keys * channels  # to the pixels
        attention += 4 * queries * channels**2 + 2 * queries**2 * channels  # among the queries
    masks = (9 + 1) * queries * channels * pixels + classes * queries * pixels
    sampling = 6 * 4 * sum(tokens) * channels * 3 * 4  # layers, FLOPs; levels, points
    return attention + masks + sampling


@pytest.mark.parametrize(
    'name',
    one_of_each(
        [name for name, known in PUBLISHED['configs'].items() if 'flops_g' in known],
        ['coco/mask_rcnn_internimage_t_fpn_1x_coco', 'ade20k/upernet_internimage_t_512_160k_ade20k'],
    ),
)
def test_published_figures(name):
    path, figures = CONFIGS / f'{name}.py', PUBLISHED['configs'][name]
    cost = config_cost(path)
    assert agrees(cost.total.parameters / 1e6, figures['params_m'], within=0)
    unseen = unseen_of_mask2former(*cost.shape) if 'mask2former' in name else 0
    assert abs((cost.total.flops - unseen) / 1e9 / figures['flops_g'] - 1) <= 0.002
    page = (path.parent / 'README.md').read_text()
    assert line(config_row(path)) in page.splitlines(), 'run internimage model-pages'


@pytest.mark.parametrize('folder', folders(CONFIGS), ids=lambda folder: folder.name)
def test_pages_have_all_configs(folder):
    configs = sorted(folder.glob('*.py'))
    rows = [text for text in (folder / 'README.md').read_text().splitlines() if text.startswith('| [')]
    assert [row.split(']')[0].removeprefix('| [') for row in rows] == [path.stem for path in configs]


@pytest.mark.parametrize('name', one_of_each([folder.name for folder in folders(CONFIGS)], ['crowd_human']))
def test_rows_are_those_that_would_be_written_now(name):
    folder = CONFIGS / name
    configs = sorted(folder.glob('*.py'))
    rows = [text for text in (folder / 'README.md').read_text().splitlines() if text.startswith('| [')]
    for i in {0, len(rows) // 2, len(rows) - 1}:
        assert rows[i] == line(config_row(configs[i])), 'run internimage model-pages'


# Transformers, of mmdet and mmseg as they are


def test_dino_and_mask2former():
    import mmdet
    import mmseg

    for package, name, scope, shape, parameters, published_flops in (
        (mmdet, 'dino/dino-4scale_r50_8xb2-12e_coco.py', 'mmdet', (800, 1280), 47e6, 279e9),
        (mmseg, 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py', 'mmseg', (512, 512), 44e6, 71e9),
    ):
        path = Path(package.__file__).parent / '.mim' / 'configs' / name
        cfg = Config.fromfile(path)
        assert cfg.default_scope == scope
        cost = count_config(cfg, shape)
        assert cost.total.parameters == pytest.approx(parameters, rel=0.02)
        assert cost.total.flops == pytest.approx(published_flops, rel=0.02)  # of the papers


def test_checkpointing_keeps_less():
    plain = count(lambda: build_variant('h'), (640, 640))
    checkpointed = count(lambda: build_variant('h', with_cp=True), (640, 640))
    assert checkpointed.total.flops == plain.total.flops
    assert checkpointed.total.activations < plain.total.activations / 10
    inputs = (VARIANTS['h']['depths'][2] + 5 + 1) * 4 * 1280 * 40 * 40  # of the third stage's blocks and norms
    assert inputs <= checkpointed.modules['levels.2'].activations < 1.2 * inputs
