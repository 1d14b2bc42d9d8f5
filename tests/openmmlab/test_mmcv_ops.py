"""mmcv's operators give the same for every memory layout, and take every floating-point dtype."""

from internimage.openmmlab.ops import guarded, is_compiled

# isort: split
import mmcv.ops
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks


def channels_last(x):
    """As torch.channels_last, for any number of dimensions: dimension 1 lies innermost."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else transposed(x)


def transposed(x):
    """The last two dimensions lie the other way round."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else sliced(x)


def sliced(x):
    """Every second element of a larger tensor, in every dimension, after an offset."""
    every_second = tuple(slice(1, None, 2) for _ in x.shape)
    larger = x.new_full([2 * side + 1 for side in x.shape], 7)
    larger[every_second] = x
    return larger[every_second]


def expanded(x):
    """The first entry for all, in memory once."""
    return x[:1].expand_as(x)


LAYOUTS = [channels_last, transposed, sliced, expanded]

rng = np.random.default_rng(0)


def random(*shape, dtype=torch.float64):
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def boxes(number, dtype=torch.float64):
    corner, size = rng.uniform(0, 40, (number, 2)), rng.uniform(4, 30, (number, 2))
    return torch.from_numpy(np.concatenate([corner, corner + size], 1)).to(dtype)


def rois(number, images=2):
    return torch.cat([torch.from_numpy(rng.integers(0, images, (number, 1))).double(), boxes(number)], 1)


def rotated(number, dtype=torch.float64):
    values = np.concatenate([rng.uniform(5, 40, (number, 2)), rng.uniform(4, 30, (number, 2))], 1)
    return torch.from_numpy(np.concatenate([values, rng.uniform(-1, 1, (number, 1))], 1)).to(dtype)


def as_conv(groups=1, deform_groups=2):
    def call(x, offset, weight):
        return mmcv.ops.deform_conv2d(x, offset, weight, (1, 2), (1, 0), (1, 1), groups, deform_groups)

    return call


def as_modulated_conv(x, offset, mask, weight, bias):
    return mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1, 1, 2, 1)


def attention(value, where, weights):
    return mmcv.ops.multi_scale_deform_attn.multi_scale_deformable_attn_pytorch(
        value, torch.tensor([[5, 4], [3, 2]]), where, weights
    )


# {name: (function, tensors, how many of these have gradients)}
DIFFERENTIABLE = {
    **{
        f'roi_align, {mode}, {"aligned" if aligned else "legacy"}': (
            lambda x, r, mode=mode, aligned=aligned: mmcv.ops.roi_align(x, r, (3, 2), 0.5, 2, mode, aligned),
            *((random(2, 6, 17, 23), rois(7)), 1),
        )
        for mode in ('avg', 'max')
        for aligned in (True, False)
    },
    'roi_align, adaptive': (lambda x, r: mmcv.ops.roi_align(x, r, 3, 0.5, 0), (random(2, 6, 17, 23), rois(7)), 1),
    'deform_conv2d': (as_conv(), (random(2, 4, 9, 11), random(2, 36, 9, 5), random(6, 4, 3, 3)), 3),
    'deform_conv2d, groups': (as_conv(2), (random(2, 4, 9, 11), random(2, 36, 9, 5), random(6, 2, 3, 3)), 3),
    'modulated_deform_conv2d': (
        as_modulated_conv,
        (random(2, 4, 9, 11), random(2, 18, 9, 11), random(2, 9, 9, 11), random(6, 2, 3, 3), random(6)),
        5,
    ),
    'ms_deform_attn': (
        attention,
        (random(2, 26, 2, 4), random(2, 5, 2, 2, 3, 2).sigmoid(), random(2, 5, 2, 2, 3).sigmoid()),
        3,
    ),
    'roi_align_rotated': (
        lambda x, r: mmcv.ops.roi_align_rotated(x, r, 3, 0.5, 2),
        (random(2, 6, 17, 23), torch.cat([rois(7)[:, :1], rotated(7)], 1)),
        1,
    ),
    'psa_mask': (lambda x: mmcv.ops.PSAMask('collect', (3, 5))(x), (random(2, 15, 6, 7),), 1),
    'bezier_align': (
        lambda x, b: mmcv.ops.bezier_align(x, b, (3, 4), 0.5, 2),
        (random(2, 6, 17, 23), torch.cat([rois(4)[:, :1], random(4, 16).abs() * 20], 1)),
        1,
    ),
}  # fmt: skip
OTHERS = {
    'nms': (lambda b, s: mmcv.ops.nms(b, s, 0.3), (boxes(40, torch.float32), random(40, dtype=torch.float32))),
    'soft_nms': (lambda b, s: mmcv.ops.soft_nms(b, s, 0.3), (boxes(40, torch.float32), random(40).sigmoid().float())),
    'nms_match': (
        lambda d: mmcv.ops.nms_match(d, 0.3),
        (torch.cat([boxes(40), random(40, 1)], 1).float(),),
    ),
    'nms_rotated': (lambda b, s: mmcv.ops.nms_rotated(b, s, 0.3), (rotated(40), random(40))),
    'box_iou_rotated': (mmcv.ops.box_iou_rotated, (rotated(5, torch.float32), rotated(4, torch.float32))),
    'bbox_overlaps': (mmcv.ops.bbox_overlaps, (boxes(5, torch.float32), boxes(4, torch.float32))),
    'points_in_boxes': (
        mmcv.ops.points_in_boxes_cpu,
        (random(2, 9, 3, dtype=torch.float32), random(2, 4, 7, dtype=torch.float32).abs()),
    ),
}


COMPILED_ONLY = {
    name for name in DIFFERENTIABLE if 'max' in name or name in ('roi_align_rotated', 'psa_mask', 'bezier_align')
}
COMPILED_ONLY |= OTHERS.keys() - {'nms', 'soft_nms'}


@pytest.fixture(autouse=True)
def only_what_is_there(request):
    name = getattr(request.node, 'callspec', None) and request.node.callspec.params.get('name')
    if name in COMPILED_ONLY and not is_compiled():
        pytest.skip(f'{name}: this mmcv has no compiled operators')


def results(function, tensors, differentiable, layout_of_gradient=torch.clone):
    """The output, and its gradients by the first `differentiable` tensors."""
    leaves = [tensor.detach().requires_grad_(i < differentiable) for i, tensor in enumerate(tensors)]
    output = function(*leaves)
    gradient = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output).to(output.dtype)
    return [output, *torch.autograd.grad(output, leaves[:differentiable], layout_of_gradient(gradient))]


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('name', DIFFERENTIABLE)
def test_the_layout_of_what_comes_in_changes_nothing(name, layout):
    function, tensors, differentiable = DIFFERENTIABLE[name]
    tensors = [layout(tensor) for tensor in tensors]
    assert not tensors[0].is_contiguous()
    before = [tensor.clone() for tensor in tensors]
    expected = results(function, [tensor.contiguous() for tensor in tensors], differentiable)
    for found, wanted in zip(results(function, tensors, differentiable), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('name', DIFFERENTIABLE)
def test_the_layout_of_the_gradient_that_comes_back_changes_nothing(name, layout):
    function, tensors, differentiable = DIFFERENTIABLE[name]
    expected = results(function, tensors, differentiable, lambda gradient: layout(gradient).contiguous())
    for found, wanted in zip(results(function, tensors, differentiable, layout), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('name', OTHERS)
def test_the_layout_of_boxes_changes_nothing(name, layout):
    function, tensors = OTHERS[name]
    tensors = [layout(tensor) for tensor in tensors]
    assert not tensors[0].is_contiguous()
    found, wanted = function(*tensors), function(*(tensor.contiguous() for tensor in tensors))
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_the_target_of_a_mask_head_may_be_a_slice():
    masks = np.ones((6, 80, 80), np.uint8)
    masks[:, ::5] = 0
    where, index = boxes(4, torch.float32), torch.tensor([2, 0, 1, 1])
    every_second = masks.repeat(2, 0)[::2]
    expected = BitmapMasks(masks, 80, 80).crop_and_resize(where, (7, 7), index, 'cpu')
    found = BitmapMasks(every_second, 80, 80).crop_and_resize(sliced(where), (7, 7), index, 'cpu')
    assert np.array_equal(found.masks, expected.masks) and 0 < expected.masks.mean() < 1


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', [name for name in DIFFERENTIABLE if 'max' not in name])  # keeps positions in 16 bits
def test_types_of_16_bits_are_computed_in_single_precision(name, dtype):
    function, tensors, differentiable = DIFFERENTIABLE[name]
    tensors = [tensor.to(dtype) for tensor in tensors]
    expected = results(function, [tensor.float() for tensor in tensors], differentiable, lambda g: g.to(dtype).float())
    for found, wanted in zip(results(function, tensors, differentiable), expected, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, wanted.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('name', OTHERS)
def test_boxes_may_be_of_any_dtype(name, dtype):
    function, tensors = OTHERS[name]
    tensors = [tensor.to(dtype) for tensor in tensors]
    found, wanted = function(*tensors), function(*(tensor.float() for tensor in tensors))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=0, atol=2e-6 if dtype == torch.float64 else 0)


class TestGuard:
    """On a function that records what it gets and writes as the compiled ones do."""

    @pytest.fixture
    def received(self):
        return {}

    @pytest.fixture
    def function(self, received):
        def write(input, output, factor=1.0):
            received.update(input=input, output=output)
            output.detach().copy_(input * factor)

        return guarded(write)

    def test_contiguous_tensors_of_a_known_dtype_go_in_as_they_are(self, function, received):
        x, y = random(3, 4), torch.zeros(3, 4, dtype=torch.float64)
        function(x, output=y, factor=2)
        assert received['input'] is x and received['output'] is y and torch.equal(y, 2 * x)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_what_is_written_arrives_where_it_was_asked_for(self, function, received, dtype):
        x, y = random(3, 4, dtype=dtype), sliced(torch.zeros(3, 4, dtype=dtype))
        function(x, y)
        assert torch.equal(y, x) and received['output'].is_contiguous() and received['output'].dtype == torch.float32

    def test_what_is_only_read_is_not_touched(self, function):
        """Autograd would refuse a backward pass through what it has saved and somebody wrote to; NaN included."""
        x = transposed(torch.tensor([[1.0, float('nan'), 3.0], [4.0, 5.0, float('inf')]]))
        version = x._version
        function(x, torch.zeros(2, 3))
        assert x._version == version

    def test_a_refused_dtype_becomes_single_precision(self):
        def only_float(input, output):
            if input.dtype != torch.float32:
                raise RuntimeError('expected scalar type Float but found Double')
            output.copy_(input)

        y = torch.zeros(2, 3, dtype=torch.float64)
        x = random(2, 3)
        guarded(only_float)(x, y)
        assert torch.equal(y, x.float().double())

    def test_other_errors_stay_what_they_are(self):
        def fails(input):
            raise RuntimeError('expected scalar type Long but found Int')

        with pytest.raises(RuntimeError, match='Long but found Int'):
            guarded(fails)(torch.zeros(2))
