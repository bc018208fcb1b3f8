"""Warping by known flow."""
import pytest
import torch

from models.warp import grid_flow, warp


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


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1)])
def test_single_row_or_column(size):
    x = torch.rand(1, 2, *size)
    assert torch.allclose(warp(x, torch.zeros(1, 2, *size)), x)
