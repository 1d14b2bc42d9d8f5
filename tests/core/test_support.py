"""The three views of spatial support: known answers, guarantees, bad input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from internimage.analysis import (
    BoxNode,
    FeatureNode,
    ScoreNode,
    SupportError,
    effective_receptive_field,
    effective_sampling_locations,
    layer_points,
    offset_numbers,
    salient_region,
)
from ops_dcnv3 import DCNv3, DeformPSRoIPoolPack, DeformRoIPoolPack, ModulatedDeformRoIPoolPack


class Deformable(nn.Module):
    """Convolutions of some strides, then a DCNv3 with one group, whose projections are the identity and whose offsets
    are the same everywhere."""

    def __init__(self, offset=(0.0, 0.0), strides=(), channels=3, kernel=3, **options):
        super().__init__()
        self.stem = nn.Sequential(*(nn.Conv2d(3, 3, kernel, s, (kernel - 1) // 2) for s in strides))
        self.dcn = DCNv3(channels, group=1, **options)
        for layer in (self.dcn.input_proj, self.dcn.output_proj):
            nn.init.eye_(layer.weight)
        points = self.dcn.mask.out_features
        self.dcn.offset.bias.data = torch.tensor(offset).repeat(points)

    def forward(self, x):
        return self.dcn(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def ones_convolutions(n: int) -> nn.Sequential:
    layers = [nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(n)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    return nn.Sequential(*layers)


def small_network(seed: int, channels: int = 4, classes: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.GELU(), nn.Conv2d(channels, channels, 3, 2, 1, bias=False),
        nn.GELU(), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(6 * channels, classes, bias=False)
    )  # fmt: skip


class TestReceptiveField:
    @pytest.mark.parametrize('n', [1, 2, 4])
    def test_of_stacked_ones_is_the_box_filter_of_as_many_folds(self, n):
        image = torch.rand(1, 1, 21, 19)
        field = effective_receptive_field(ones_convolutions(n), image, FeatureNode(str(n - 1), (9, 10)))
        expected = torch.zeros(1, 1, 21, 19)
        expected[0, 0, 10, 9] = 1
        for _ in range(n):
            expected = F.conv2d(expected, torch.ones(1, 1, 3, 3), padding=1)
        np.testing.assert_array_equal(field.map, expected[0, 0].numpy())
        assert field.exact and field.standard_error == 0

    @pytest.mark.parametrize('offset', [(0.0, 0.0), (2.0, -1.0), (-1.25, 0.5)])
    def test_a_planted_offset_moves_the_centroid_by_exactly_that(self, offset):
        image = torch.rand(1, 3, 24, 30)
        field = effective_receptive_field(Deformable(offset), image, FeatureNode('dcn', (14, 11))).map
        rows, columns = np.indices(field.shape)
        centroid = (field * columns).sum() / field.sum(), (field * rows).sum() / field.sum()
        np.testing.assert_allclose(centroid, (14 + offset[0], 11 + offset[1]), atol=1e-5)

    def test_random_projections_are_close_to_the_exact_norm_and_say_how_close(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 300, 3, padding=1))
        image, node = torch.randn(1, 3, 12, 14), FeatureNode('2', (7, 5))
        exact = effective_receptive_field(model, image, node, projections=300)
        assert exact.exact
        estimates = [effective_receptive_field(model, image, node, projections=250, seed=seed) for seed in range(3)]
        for field in estimates:
            assert not field.exact and field.projections == 250
            assert np.linalg.norm(field.map) == pytest.approx(np.linalg.norm(exact.map), rel=0.05)
            assert 0.01 < field.standard_error < 0.1
            wrong = np.sqrt(((field.map - exact.map) ** 2).sum() / (exact.map**2).sum())
            assert wrong == pytest.approx(field.standard_error, rel=0.5)
        assert not np.array_equal(estimates[0].map, estimates[1].map)

    def test_the_model_is_left_as_it_was(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).train()
        model[0].weight.requires_grad_(False)
        model[1].eval()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        effective_receptive_field(model, torch.rand(1, 3, 9, 9), FeatureNode('2', (4, 4)))
        assert [m.training for m in model] == [True, False, True]
        assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert not any(module._forward_hooks for module in model.modules())
        assert all(p.grad is None for p in model.parameters())

    def test_any_callable_is_a_node(self):
        image = torch.rand(1, 3, 6, 7)
        field = effective_receptive_field(nn.Identity(), image, lambda model, image: 2 * model(image)[:, :, 1, 2].sum())
        expected = np.zeros((6, 7))
        expected[1, 2] = 12**0.5
        np.testing.assert_allclose(field.map, expected, rtol=1e-6)
        assert field.area() == 1
        inside = np.zeros((6, 7), bool)
        inside[:2] = True
        assert field.inside(inside) == 1 and field.inside(~inside) == 0


class TestSamplingLocations:
    def test_planted_offsets_through_two_strided_layers(self):
        """The middle of a window of 3 with stride 2 and padding 1 at output i is input 2 i: pixel (3, 4) of the map is
        at (12, 16) of the image, and a pixel of the map is 4 of the image."""
        offset = (0.5, -0.25)
        model = Deformable(offset, strides=(2, 2))
        found = effective_sampling_locations(model, torch.randn(1, 3, 32, 40), FeatureNode('dcn', (12, 16)))
        assert found.points.shape == (9, 2) and found.strength.shape == (9,) and found.samples == 9
        assert found.share == 1 and found.layers == ['dcn'] and found.size == (32, 40)
        expected = [(12 + 4 * (dx + offset[0]), 16 + 4 * (dy + offset[1])) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        np.testing.assert_allclose(sorted(map(tuple, found.points)), sorted(expected), atol=1e-5)

    def test_patches_are_in_the_middle_of_their_pixels(self):
        """Kernel and stride 2, no padding: output i covers 2 i and 2 i + 1; twice that, 4 i to 4 i + 3."""
        model = Deformable(strides=(2, 2), kernel=2)
        found = effective_sampling_locations(model, torch.randn(1, 3, 32, 32), FeatureNode('dcn', (13, 18)))
        assert tuple(found.points.mean(0)) == pytest.approx((4 * 3 + 1.5, 4 * 4 + 1.5))

    def test_asymmetric_windows(self):
        options = dict(kernel_size=(3, 2), stride=(2, 1), pad=(1, 1), dilation=(1, 1), offset_scale=2.0)
        model = Deformable((0.25, 0.0), **options)
        found = effective_sampling_locations(model, torch.randn(1, 3, 9, 8), lambda m, x: m(x)[0, :, 2, 3])
        # Row 2 * 2 - 1 + 1 and column 3 - 1 + 0; points (x, y) of 2 * (-0, 1) and 2 * (-1, 0, 1), shifted by 2 * 0.25.
        expected = [(2 + 2 * x + 0.5, 4 + 2 * y) for x in (0, 1) for y in (-1, 0, 1)]
        np.testing.assert_allclose(sorted(map(tuple, found.points)), sorted(expected), atol=1e-5)

    def test_strength_is_zero_on_a_constant_map_and_known_on_a_ramp(self):
        """On a ramp of slope (2, 3) a sample of weight 1/9 changes the response, all three channels, by that much."""
        model, node = Deformable((0.3, 0.2)), FeatureNode('dcn', (7, 6))
        constant = effective_sampling_locations(model, torch.full((1, 3, 14, 15), 5.0), node)
        assert len(constant.strength) == 9 and np.abs(constant.strength).max() < 1e-5
        y, x = torch.meshgrid(torch.arange(14.0), torch.arange(15.0), indexing='ij')
        ramp = effective_sampling_locations(model, (2 * x + 3 * y).expand(1, 3, 14, 15), node)
        np.testing.assert_allclose(ramp.strength, 3**0.5 * 13**0.5 / 9, rtol=1e-4)
        np.testing.assert_allclose(ramp.weights, 1 / 9, rtol=1e-6)

    def test_the_strength_is_the_derivative_by_the_place(self):
        """Finite differences: the offsets move by a thousandth of a pixel, one point of the window at a time."""
        torch.manual_seed(1)
        model = Deformable((0.4, 0.3), strides=(2,), offset_scale=1.5).double()
        model.dcn.mask.bias.data = torch.randn(9).double()
        image, node = torch.randn(1, 3, 24, 22).double(), FeatureNode('dcn', (10, 12))
        found = effective_sampling_locations(model, image, node)
        with torch.no_grad():
            before, expected = node(model, image), []
            for point in range(9):
                change = []
                for axis in range(2):
                    model.dcn.offset.bias[2 * point + axis] += 0.001
                    change.append((node(model, image) - before) / (0.001 * 1.5))
                    model.dcn.offset.bias[2 * point + axis] -= 0.001
                expected.append(float(torch.stack(change).norm()))
        np.testing.assert_allclose(found.strength, sorted(expected, reverse=True), rtol=1e-6)

    @pytest.mark.parametrize(
        'options',
        [
            dict(kernel_size=3, padding=1),
            dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
            dict(kernel_size=(2, 3), stride=(2, 3), padding='valid', groups=2),
            dict(kernel_size=3, padding='same', dilation=2),
        ],
        ids=str,
    )
    def test_a_plain_convolution_is_a_deformable_one_with_zero_offsets(self, options):
        torchvision = pytest.importorskip('torchvision')
        torch.manual_seed(0)
        conv = nn.Conv2d(4, 6, **options).double()
        image, at = torch.randn(1, 4, 11, 10).double(), (0, slice(None), 1, 2)
        found = effective_sampling_locations(conv, image, lambda m, x: m(x)[at], layers=[''], strongest=10**6)
        padding = (2, 2) if options['padding'] == 'same' else (0, 0) if options['padding'] == 'valid' else conv.padding
        size, points = conv(image).shape[2:], conv.kernel_size[0] * conv.kernel_size[1]
        # At whole pixels the deformable operator has two slopes; a small offset takes the one to the next pixel.
        offset = torch.full((1, 2 * points, *size), 1e-9).double().requires_grad_()
        output = torchvision.ops.deform_conv2d(
            image, offset, conv.weight, conv.bias, conv.stride, padding, conv.dilation
        )
        squares = sum(torch.autograd.grad(v, offset, retain_graph=True)[0].square() for v in output[at])
        expected = squares[0, :, 1, 2].reshape(points, 2).sum(1).sqrt()
        assert found.samples == points
        inside = found.strength > 0  # samples in the padding: zero here, the border's slope with an offset
        for place, strength in zip(found.points[inside], found.strength[inside], strict=True):
            y, x = np.indices(conv.kernel_size).reshape(2, -1)
            x = 2 * conv.stride[1] - padding[1] + x * conv.dilation[1]
            y = 1 * conv.stride[0] - padding[0] + y * conv.dilation[0]
            (point,) = np.flatnonzero((x == place[0]) & (y == place[1]))
            assert strength == pytest.approx(float(expected[point]), rel=1e-6)
        assert inside.sum() == ((x >= 0) & (y >= 0)).sum()

    def test_stacked_layers_and_what_is_kept(self):
        torch.manual_seed(0)
        model = nn.Sequential(DCNv3(4, group=2), DCNv3(4, group=1))
        for layer in model:
            nn.init.normal_(layer.offset.weight, std=0.1)

        def node(model, image):
            return model(F.pad(image, (0, 0, 0, 0, 0, 1)).permute(0, 2, 3, 1))[0, 5, 6]

        image = torch.randn(1, 3, 12, 13)
        whole = effective_sampling_locations(model, image, node, strongest=10**6)
        assert whole.layers == ['0', '1'] and whole.share == 1
        assert (whole.layer == 1).sum() == 9 and (whole.layer == 0).sum() == whole.samples - 9 > 9 * 2 * 9
        np.testing.assert_allclose(whole.layer_strength, [whole.strength[whole.layer == i].sum() for i in (0, 1)])
        best = effective_sampling_locations(model, image, node, strongest=20)
        np.testing.assert_array_equal(best.strength, whole.strength[:20])
        assert best.share == pytest.approx(whole.strength[:20].sum() / whole.strength.sum())
        one = effective_sampling_locations(model, image, node, layers=['1'])
        assert one.layers == ['1'] and len(one.points) == 9

    def test_the_heat_has_the_strength_at_its_places(self):
        found = effective_sampling_locations(
            Deformable((0.25, 0.5)), torch.randn(1, 3, 14, 15), FeatureNode('dcn', (7, 6))
        )
        heat = found.heat()
        assert heat.shape == (14, 15) and heat.sum() == pytest.approx(found.strength.sum())
        x = (heat * np.arange(15)).sum() / heat.sum()
        assert x == pytest.approx((found.points[:, 0] * found.strength).sum() / found.strength.sum())


class TestRoIPools:
    def pooled(self, pool, *features):
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.pool = pool

            def forward(self, image):
                x = image[:, :1].expand(-1, pool.channels, -1, -1)
                return self.pool(x, image.new_tensor([[0, 4, 6, 16, 26]]))

        return Model()

    @pytest.mark.parametrize('kind', [DeformRoIPoolPack, ModulatedDeformRoIPoolPack])
    def test_bins_of_a_planted_offset(self, kind):
        pool = kind((2, 3), output_channels=1, deform_fc_channels=4, sampling_ratio=2, gamma=0.5)
        pool.channels = 1
        pool.offset_fc[4].bias.data = torch.tensor([0.2] * 6 + [-0.1] * 6)  # x of all bins, then y
        y, x = torch.meshgrid(torch.arange(40.0), torch.arange(30.0), indexing='ij')
        image = (3 * x + 4 * y).expand(1, 3, 40, 30)
        found = effective_sampling_locations(self.pooled(pool), image, lambda m, x: m(x).flatten())
        # Box of 12 x 20 at (4, 6): bins of 4 x 10, whose centres are shifted by 0.5 * (0.2 * 12, -0.1 * 20).
        expected = [(4 + 4 * i + 2 - 0.5 + 1.2, 6 + 10 * j + 5 - 0.5 - 1.0) for i in range(3) for j in range(2)]
        np.testing.assert_allclose(sorted(map(tuple, found.points)), sorted(expected), atol=1e-5)
        weight = 0.5 if kind is ModulatedDeformRoIPoolPack else 1.0
        np.testing.assert_allclose(found.strength, 5 * weight, rtol=1e-5)
        np.testing.assert_allclose(found.weights, weight)
        (numbers,) = offset_numbers(self.pooled(pool), image)
        assert numbers.mean_offset == pytest.approx((1.2**2 + 1) ** 0.5, rel=1e-5)
        assert numbers.entropy == pytest.approx(1) and numbers.outside == 0 and numbers.samples == 6

    def test_position_sensitive_bins_of_each_class(self):
        pool = DeformPSRoIPoolPack((2, 2), in_channels=8, classes=2, sampling_ratio=2, gamma=0.1)
        pool.channels = 8
        pool.offset_conv.bias.data = torch.arange(16.0) / 10
        y, x = torch.meshgrid(torch.arange(40.0), torch.arange(30.0), indexing='ij')
        found = effective_sampling_locations(
            self.pooled(pool), (x + 2 * y).expand(1, 3, 40, 30), lambda m, x: m(x)[0, 1, 0, 1]
        )
        # Output 1 has class 1: of its bin (0, 1) the x offset is channel 2 * 4 + 1, the y offset 4 further on.
        place = (4 + 6 + 3 - 0.5 + 0.1 * 0.9 * 12, 6 + 5 - 0.5 + 0.1 * 1.3 * 20)
        np.testing.assert_allclose(found.points[0], place, rtol=1e-5)
        assert found.strength[0] == pytest.approx(5**0.5, rel=1e-5) and found.strength[1:].max() == 0


class TestSalientRegion:
    def test_of_a_network_that_crops_is_the_crop(self):
        square = np.zeros((96, 120), bool)
        square[24:72, 40:88] = True
        image = 1 + torch.rand(1, 3, 96, 120)

        def node(model, image):
            return image[:, :, 24:72, 40:88].mean()

        found = salient_region(nn.Identity(), image, node, bound=0.01, cell=8)
        np.testing.assert_array_equal(found.mask, square)
        assert found.error == 0 and found.inside(square) == 1 and found.area() == 48 * 48
        # At 0.1 three of its 36 cells may go.
        loose = salient_region(nn.Identity(), image, node, bound=0.1, cell=8)
        assert square.sum() - 4 * 64 <= loose.mask.sum() < square.sum() and not (loose.mask & ~square).any()

    @pytest.mark.parametrize('seed', range(20))
    def test_both_guarantees(self, seed):
        model = small_network(seed)
        image = torch.randn(1, 3, 20 + seed, 33)
        bound, cell = (0.1, 0.02)[seed % 2], (4, 7)[seed // 2 % 2]
        node = ScoreNode(2) if seed % 3 == 0 else lambda model, image: model(image)[0]
        fill = (0.0, [0.1, -0.2, 0.3], 'blur')[seed % 3] if seed > 5 else 0.0
        found = salient_region(model, image, node, bound, cell, fill=fill)

        def error(mask):
            if fill == 'blur':
                from internimage.analysis.support.views import _filled

                other = _filled(image, fill, cell)
            else:
                other = torch.tensor(fill).reshape(1, -1, 1, 1)
            r, s = node(model, image), node(model, torch.where(torch.from_numpy(mask), image, other))
            return float((r - s).abs() / r.abs() if r.numel() == 1 else 1 - F.cosine_similarity(r, s, dim=0))

        with torch.no_grad():
            assert found.error == pytest.approx(error(found.mask), abs=1e-5)
            assert found.error <= bound
            for top in range(0, image.shape[2], cell):
                for left in range(0, image.shape[3], cell):
                    less = found.mask.copy()
                    less[top : top + cell, left : left + cell] = False
                    if not np.array_equal(less, found.mask):
                        assert error(less) > bound - 1e-6
        assert found.mask.any()

    def test_batches_change_nothing(self):
        model, image = small_network(3), torch.randn(1, 3, 24, 32)
        one, many = (salient_region(model, image, ScoreNode(1), 0.05, 4, batch=batch) for batch in (1, 16))
        np.testing.assert_array_equal(one.mask, many.mask)


class TestNodes:
    def test_a_point_names_the_node_whose_cell_holds_it(self):
        model, image = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.ReLU()), torch.randn(1, 3, 24, 32)
        whole = model[0](image)
        for point, (row, column) in {(0, 0): (0, 0), (11.9, 4): (1, 2), (31, 23.5): (5, 7)}.items():
            torch.testing.assert_close(FeatureNode('0', point)(model, image), whole[0, :, row, column])

    def test_the_model_runs_no_further_than_the_module(self):
        class Fails(nn.Module):
            def forward(self, x):
                raise AssertionError('runs')

        model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), Fails())
        assert FeatureNode('0', (1, 1))(model, torch.rand(1, 3, 4, 4)).shape == (5,)

    def test_channels_last_maps_are_recognised(self):
        model, image = Deformable(strides=(2,)), torch.randn(1, 3, 6, 6)  # the map is 3 x 3 x 3
        torch.testing.assert_close(FeatureNode('dcn', (4, 1))(model, image), model(image)[0, :, 0, 2])

    def test_a_box_of_a_map(self):
        image = torch.rand(1, 3, 20, 24)
        response = BoxNode((4, 8, 12, 16), '', bins=2)(nn.Identity(), image).reshape(3, 2, 2)
        torch.testing.assert_close(response[:, 1, 0], image[0, :, 12:16, 4:8].mean((1, 2)))
        assert BoxNode((1, 2, 3, 4), lambda model, images, box: images.new_tensor([box]))(None, image).tolist() == [
            1, 2, 3, 4,
        ]  # fmt: skip

    def test_scores(self):
        model, image = small_network(0), torch.randn(1, 3, 16, 24)
        torch.testing.assert_close(ScoreNode(3)(model, image), model(image)[0, 3])
        scores = nn.Conv2d(3, 4, 2, 2)
        torch.testing.assert_close(ScoreNode(2, (5, 9))(scores, image), scores(image)[0, 2, 4, 2])


def test_numbers_of_offsets():
    model = Deformable((3.0, 4.0), strides=(2,))
    (numbers,) = offset_numbers(model, torch.rand(1, 3, 16, 24))
    assert (numbers.layer, numbers.group, numbers.samples) == ('dcn', 0, 8 * 12 * 9)
    assert numbers.mean_offset == pytest.approx(10) and numbers.offset_95 == pytest.approx(10)
    assert numbers.entropy == pytest.approx(1)
    # Map positions x + dx + 3 for x in 0..11, y + dy + 4 for y in 0..7; the map's last is at 22 and 14 of the image.
    x, y = (np.add.outer(np.arange(n), [-1, 0, 1]) + o for n, o in ((12, 3), (8, 4)))
    inside_x, inside_y = (2 * x < 23.5).mean(), (2 * y < 15.5).mean()
    assert numbers.outside == pytest.approx(1 - inside_x * inside_y)
    model.dcn.mask.bias.data = torch.tensor([50.0] + [0.0] * 8)
    assert offset_numbers(model, torch.rand(1, 3, 16, 24))[0].entropy < 1e-6


def test_results_are_saved_whole(tmp_path):
    model, image = Deformable(), torch.randn(1, 3, 14, 15)
    node = FeatureNode('dcn', (7, 6))
    results = (
        effective_receptive_field(model, image, node),
        effective_sampling_locations(model, image, node),
        salient_region(model, image, node, cell=4),
    )
    for result, array in zip(results, ('map', 'points', 'mask'), strict=True):
        result.save(tmp_path / 'new' / f'{array}.npz')
        np.testing.assert_array_equal(np.load(tmp_path / 'new' / f'{array}.npz')[array], getattr(result, array))
    assert len(list((tmp_path / 'new').iterdir())) == 3


class TestBadInput:
    image = torch.rand(1, 3, 16, 20)

    @pytest.mark.parametrize(
        'node, message',
        [
            (FeatureNode('stem', (20, 3)), r'inside the image of 20 x 16 pixels, got \(20, 3\)'),
            (FeatureNode('dcm', (3, 3)), "no module 'dcm'; the most similar are dcn"),
            (FeatureNode('dcn.offset_', (3, 3)), r'no module .*most similar are dcn\.offset'),
            (FeatureNode('dcn.input_proj', (3, 3), 1), None),
            (BoxNode((3, 4, 3, 8), 'dcn'), r'must have an area.*\(3, 4, 3, 8\)'),
            (BoxNode((3, float('nan'), 5, 8), 'dcn'), 'must have an area'),
            (BoxNode((30, 4, 34, 8), 'dcn'), 'on the image of 20 x 16'),
            (ScoreNode(0), r'must be \(B, classes\)'),
            (ScoreNode(3, (1, 1)), 'from 0 to 2, got 3'),
            (lambda model, image: None, 'a node must return a floating-point tensor'),
            (lambda model, image: model(image).detach(), 'no gradient'),
        ],
    )
    def test_of_nodes(self, node, message):
        if message is None:
            assert len(node(Deformable(), self.image)) == 3  # an index beyond a single map is not looked at
            return
        for view in (effective_receptive_field, effective_sampling_locations):
            with pytest.raises(SupportError, match=message) as error:
                view(Deformable(), self.image, node)
            assert '\n' not in str(error.value)

    def test_no_deformable_layer(self):
        with pytest.raises(SupportError, match='Sequential has no deformable layer; name plain convolutions'):
            effective_sampling_locations(ones_convolutions(2), torch.rand(1, 1, 9, 9), FeatureNode('1', (3, 3)))

    def test_a_layer_that_does_not_sample(self):
        model = Deformable(strides=(2,))
        node = FeatureNode('dcn', (3, 3))
        with pytest.raises(SupportError, match='neither a deformable layer nor a convolution: Linear'):
            effective_sampling_locations(model, self.image, node, layers=['dcn.offset'])
        with pytest.raises(SupportError, match='does not depend on any of the layers dcn'):
            effective_sampling_locations(model, self.image, FeatureNode('stem', (3, 3)))

    @pytest.mark.parametrize(
        'options, message',
        [
            (dict(bound=0), 'bound must be larger than 0'),
            (dict(cell=2.5), 'whole number of pixels'),
            (dict(fill='grey'), "numbers or 'blur', got 'grey'"),
            (dict(fill=[1, 2]), 'one number or 3'),
        ],
    )
    def test_of_the_region(self, options, message):
        with pytest.raises(SupportError, match=message):
            salient_region(Deformable(), self.image, FeatureNode('dcn', (3, 3)), **options)

    def test_an_image_that_is_none(self):
        for image in (self.image[0], self.image.to(torch.uint8), np.zeros((1, 3, 4, 4))):
            with pytest.raises(SupportError, match=r'tensor \(1, 3, H, W\)'):
                effective_receptive_field(Deformable(), image, FeatureNode('dcn', (1, 1)))


def test_the_points_of_a_layer_at_a_pixel():
    model = Deformable((0.5, -0.25), strides=(2,))
    (points,) = layer_points(model, torch.rand(1, 3, 16, 24), (9.2, 6.6))
    # The nearest window is that of the map's pixel (5, 3), of which the middle is at (10, 6).
    expected = [(10 + 2 * dx, 6 + 2 * dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    np.testing.assert_allclose(points.regular, expected, atol=1e-5)
    np.testing.assert_allclose(points.places - points.regular, [(1, -0.5)] * 9, atol=1e-5)
    np.testing.assert_allclose(points.weights, 1 / 9, rtol=1e-5)
    assert points.layer == 'dcn'
