"""Warping by known flow."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.warp import grid_flow, warp
from tests.properties import generator, seeds, sizes, upsampled

modes = st.sampled_from(["bilinear", "nearest"])


def naive_warp(x, flow, mode):
    """x (N,C,h,w) at p + flow(p), pixel by pixel in float64; zeros outside.

    Across a single row or column there is no direction to move in, so that displacement does not count.
    """
    count, _, height, width = x.shape
    x, flow = x.double().numpy(), flow.double().numpy()
    out = np.zeros_like(x)
    for n in range(count):
        for row in range(height):
            for column in range(width):
                at_x = column + flow[n, 0, row, column] if width > 1 else 0.0
                at_y = row + flow[n, 1, row, column] if height > 1 else 0.0
                for y, share_y in taps(at_y, mode):
                    for x_, share_x in taps(at_x, mode):
                        if 0 <= y < height and 0 <= x_ < width:
                            out[n, :, row, column] += share_y * share_x * x[n, :, y, x_]
    return torch.from_numpy(out).float()


def taps(position, mode):
    """The pixels along one axis that `position` lies between, and their shares."""
    if mode == "nearest":
        return [(round(position), 1.0)]
    low = math.floor(position)
    return [(low, low + 1 - position), (low + 1, position - low)]


def random_flow(rng, shape, reach):
    """Flow up to `reach` pixels, never halfway between two pixels, where rounding would decide which one is nearest."""
    flow = (torch.rand(shape, generator=rng, dtype=torch.float64) * 2 - 1) * reach
    return (flow.round() + (flow - flow.round()) * 0.98).float()


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("dx, dy", [(0, 0), (1, 0), (0, -2), (-3, 2)])
def test_whole_pixel_shift_is_exact_and_zero_outside(dx, dy, mode):
    x = torch.rand(2, 3, 9, 13) + 1
    flow = torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1).expand(2, 2, 9, 13)
    expected = torch.zeros_like(x)
    for row in range(9):
        for column in range(13):
            if 0 <= row + dy < 9 and 0 <= column + dx < 13:
                expected[..., row, column] = x[..., row + dy, column + dx]
    assert torch.allclose(warp(x, flow, mode), expected, atol=1e-4)


def test_half_pixel_is_the_mean_of_both_neighbours():
    x = torch.rand(1, 1, 4, 6)
    flow = torch.zeros(1, 2, 4, 6)
    flow[:, 0] = 0.5
    assert torch.allclose(warp(x, flow)[..., :-1], (x[..., :-1] + x[..., 1:]) / 2, atol=1e-5)


def test_network_flow_counts_quarter_pixels():
    assert torch.allclose(grid_flow(torch.full((1, 2, 2, 4), 8.0), (8, 16)), torch.full((1, 2, 8, 16), 2.0))


def test_one_flow_serves_several_maps():
    x, flow = torch.rand(3, 2, 6, 8), torch.randn(1, 2, 6, 8)
    assert torch.allclose(warp(x, flow), warp(x, flow.expand(3, -1, -1, -1)), atol=1e-6)


@pytest.mark.tried("Numbers", "warping a single row or column by zero flow", "nothing moves")
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1)])
def test_single_row_or_column(size):
    x = torch.rand(1, 2, *size)
    assert torch.allclose(warp(x, torch.zeros(1, 2, *size)), x)


@pytest.mark.tried(
    "Numbers", "warping by random flow, bilinear and to the nearest pixel: 1 x 1 pixels and up, far outside too",
)
@given(size=sizes(9), count=st.integers(1, 3), shared=st.booleans(), classes=st.integers(1, 4),
       reach=st.sampled_from([0.5, 2, 12, 1000]), mode=modes, seed=seeds)
def test_random_flow_samples_what_a_naive_warp_samples(outcomes, size, count, shared, classes, reach, mode, seed):
    rng = generator(seed)
    x = torch.randn(count, classes, *size, generator=rng)
    flow = random_flow(rng, (1 if shared else count, 2, *size), reach)
    found = warp(x, flow, mode)
    assert found.shape == x.shape and found.dtype == torch.float32
    assert torch.allclose(found, naive_warp(x, flow.expand(count, -1, -1, -1), mode), atol=2e-4)
    outcomes["equal to a naive warp"] += 1


@pytest.mark.tried("Numbers", "warping by a random number of whole pixels", "exactly that many, and zeros outside")
@given(size=sizes(40, 2), shift=st.tuples(st.integers(-45, 45), st.integers(-45, 45)), mode=modes, seed=seeds)
def test_random_whole_shift_is_exact(outcomes, size, shift, mode, seed):
    (height, width), (dx, dy) = size, shift
    x = torch.rand(1, 2, *size, generator=generator(seed)) + 1
    expected = torch.zeros_like(x)
    to_y, to_x = (slice(max(0, -d), max(0, side - max(0, d))) for d, side in ((dy, height), (dx, width)))
    from_y, from_x = (slice(max(0, d), max(0, side - max(0, -d))) for d, side in ((dy, height), (dx, width)))
    expected[..., to_y, to_x] = x[..., from_y, from_x]
    flow = torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, *size)
    found = warp(x, flow, mode)
    assert torch.equal(found, expected) if mode == "nearest" else torch.allclose(found, expected, atol=1e-4)
    outcomes["exactly that many, and zeros outside"] += 1


@pytest.mark.tried("Numbers", "warping a weighted sum of random maps", "the weighted sum of the warped maps")
@given(
    size=sizes(12), weights=st.tuples(st.floats(-3, 3), st.floats(-3, 3)), reach=st.sampled_from([0.5, 4]), mode=modes,
    seed=seeds,
)
def test_warping_is_linear(outcomes, size, weights, reach, mode, seed):
    rng, (a, b) = generator(seed), weights
    x, y = torch.randn(2, 1, 3, *size, generator=rng)
    flow = random_flow(rng, (1, 2, *size), reach)
    assert torch.allclose(warp(a * x + b * y, flow, mode), a * warp(x, flow, mode) + b * warp(y, flow, mode), atol=1e-4)
    outcomes["the weighted sum of the warped maps"] += 1


@pytest.mark.tried("Numbers", "warping by zero flow, before and after a random warp", "nothing moves")
@given(size=sizes(40), reach=st.sampled_from([0.5, 4]), mode=modes, seed=seeds)
def test_zero_flow_moves_nothing(outcomes, size, reach, mode, seed):
    rng = generator(seed)
    x, still = torch.randn(1, 2, *size, generator=rng), torch.zeros(1, 2, *size)
    moved = warp(x, random_flow(rng, (1, 2, *size), reach), mode)
    for maps in (x, moved):
        found = warp(maps, still, mode)
        assert torch.equal(found, maps) if mode == "nearest" else torch.allclose(found, maps, atol=1e-4)
    outcomes["nothing moves"] += 1


@pytest.mark.tried(
    "Numbers", "a flow network's output at random sizes",
    "resized with corners aligned, a quarter pixel a unit",
)
@given(coarse=sizes(8), size=sizes(24), count=st.integers(1, 2), seed=seeds)
def test_network_flow_is_resized_and_divided_by_four(outcomes, coarse, size, count, seed):
    flow = torch.randn(count, 2, *coarse, generator=generator(seed))
    assert np.allclose(grid_flow(flow, size).numpy(), upsampled(flow, size) / 4, atol=1e-5)
    outcomes["resized with corners aligned, a quarter pixel a unit"] += 1
