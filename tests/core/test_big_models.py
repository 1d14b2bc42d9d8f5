"""InternImage-H and -G: whole on the meta device, and at their real width, with fewer blocks, on the CPU."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from internimage import InternImage, build_variant

# One block in each stage (in 6 GB, with three times the 0.33 billion parameters of G); that of the third stage with the
# extra norm.
SHALLOW = dict(depths=(1, 1, 1, 1), level2_post_norm_block_ids=(0,), drop_path_rate=0.5, drop_path_type='uniform')


def build_shallow(name: str) -> InternImage:
    """With random weights everywhere, so that offsets and modulation are not those of the regular grid."""
    with torch.device('meta'):
        model = build_variant(name, **SHALLOW)
    torch.manual_seed(0)
    model.to_empty(device='cpu')
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    return model


def run(model: InternImage, image, with_cp: bool) -> tuple[list[torch.Tensor], int]:
    """The gradients, and the bytes that were allocated by the forward pass and not freed by it."""
    for level in model.levels:
        level.with_cp = with_cp
    model.zero_grad()
    torch.manual_seed(1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        loss = sum(feature.square().mean() for feature in model(image))
    loss.backward()
    held = sum(e.nbytes() for e in record.profiler.kineto_results.events() if e.name() == '[memory]')
    return [parameter.grad for parameter in model.parameters()], held


@pytest.mark.parametrize('name', ['h', 'g'])
def test_whole_on_the_meta_device(name):
    with torch.device('meta'):
        model = build_variant(name, with_cp=True, drop_path_rate=0.5).train()
        features = model(torch.empty(1, 3, 128, 192))
    assert [tuple(f.shape) for f in features] == [
        (1, channels, 32 >> i, 48 >> i) for i, channels in enumerate(model.num_features)
    ]
    sum(feature.sum() for feature in features).backward()
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('name', ['h', pytest.param('g', marks=pytest.mark.slow)])
def test_checkpointing_at_full_width(name, training):
    """In training, stochastic depth drops the same branches when a block is computed again."""
    model = build_shallow(name).train(training)
    assert model.num_features == {'h': [320, 640, 1280, 2560], 'g': [512, 1024, 2048, 4096]}[name]
    image = torch.randn(2, 3, 64, 64)
    plain, plain_held = run(model, image, with_cp=False)
    checkpointed, checkpointed_held = run(model, image, with_cp=True)
    for one, other in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert sum(gradient.abs().sum() > 0 for gradient in plain) > len(plain) / 2
    assert checkpointed_held < plain_held / 2
