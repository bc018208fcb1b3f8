"""DIS as a flow: direction, units and sizes; the methods that use it; label maps that are carried."""
import cv2
import numpy as np
import pytest
import torch

from models.flow_dis import DISFlow
from models.resize import grid_size, nearest
from models.warp import warp_labels


def texture(height, width, dx=0, dy=0):
    """A smooth random picture (H,W,3), seen `dx`, `dy` pixels further to the right and down."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    large = cv2.resize(noise, (width + 80, height + 80), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[40 + dy : 40 + dy + height, 40 + dx : 40 + dx + width])


@pytest.mark.parametrize("size, side", [((256, 384), 256), ((256, 384), 128), ((200, 330), 64), ((96, 160), 256)])
@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_flow_points_from_the_current_frame_to_the_previous_in_grid_pixels(size, side, preset):
    dis, (dx, dy) = DISFlow(side, preset), (6, -4)
    previous, current = texture(*size), texture(*size, dx, dy)  # a point at p was at p + (dx, dy)
    grid = grid_size(*size)
    flow = dis.between(dis.look(previous), dis.look(current), grid)
    assert flow.shape == (2, *grid) and flow.dtype == np.float32
    expected = dx * (grid[1] - 1) / (size[1] - 1), dy * (grid[0] - 1) / (size[0] - 1)
    inner = flow[:, 1:-1, 1:-1]
    assert np.allclose(np.median(inner, axis=(1, 2)), expected, atol=0.06), np.median(inner, axis=(1, 2))
    assert np.array_equal(flow, dis.between(dis.look(previous), dis.look(current), grid))  # nothing is remembered


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (16, 16), (300, 9)])
def test_small_and_narrow_frames(size):
    dis = DISFlow()
    looks = [dis.look(np.full((*size, 3), value, np.uint8)) for value in (10, 200)]
    flow = dis.between(*looks, grid_size(*size))
    assert flow.shape == (2, *grid_size(*size)) and np.isfinite(flow).all()


def test_flow_of_a_clip_is_that_of_its_neighbours():
    dis = DISFlow(64)
    clip = np.stack([texture(128, 192, dx) for dx in (0, 4, 12)])
    found = dis.along(clip)
    assert found.shape == (2, 2, 64, 96)
    assert np.allclose(np.median(found[:, 0], axis=(1, 2)), [2, 4], atol=0.2)


def test_labels_come_from_the_nearest_pixel_and_stay_inside():
    labels = torch.arange(12, dtype=torch.uint8).view(1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0], flow[:, 1] = 1.4, -0.6
    expected = [[1, 2, 3, 3], [1, 2, 3, 3], [5, 6, 7, 7]]
    assert warp_labels(labels, flow)[0].tolist() == expected
    both = warp_labels(labels.repeat(2, 1, 1), flow)  # one flow for all
    assert both.shape == (2, 3, 4) and both[1].tolist() == expected


def test_small_flow_moves_labels_by_its_own_share_of_the_frame():
    labels = torch.randint(0, 9, (1, 33, 65), dtype=torch.uint8)
    small, full = torch.zeros(1, 2, 5, 9), torch.zeros(1, 2, 33, 65)
    small[:, 0], full[:, 0] = 0.5, 4.0
    assert torch.equal(warp_labels(labels, small), warp_labels(labels, full))


def test_nearest_keeps_corners():
    labels = torch.arange(6).view(2, 3)
    assert nearest(labels, (3, 5)).tolist() == [[0, 0, 1, 2, 2], [0, 0, 1, 2, 2], [3, 3, 4, 5, 5]]
    assert nearest(labels, (2, 3)) is labels


@pytest.mark.parametrize("size", [(12, 200), (10, 300), (200, 12)])
def test_flow_of_frames_below_the_least_size_of_dis_is_cropped(size, monkeypatch):
    """DIS sees a padded picture; its flow is that of the pixels that were there, in their units."""
    seen = []

    class Known:
        def calc(self, current, previous, _):
            seen.append(current.shape)
            return np.dstack([np.full(current.shape, 2, np.float32), np.full(current.shape, 3, np.float32)])

    monkeypatch.setattr("models.flow_dis._engine", lambda preset: Known())
    dis = DISFlow()
    looks = [dis.look(texture(*size)) for _ in range(2)]
    flow = dis.between(*looks, size)
    assert looks[0].shape == size and seen == [tuple(max(16, side) for side in size)]
    assert (flow[0] == 2).all() and (flow[1] == 3).all()
