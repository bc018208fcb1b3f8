"""Augmentation against torch's own resizing of the whole frame."""
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dataloaders.transforms import draw_augmentation, nearest_rectangle, normalise, resize_rectangle

SCALES = (0.75, 1.0, 1.5, 1.75)


def draw(seed, size, crop, flip=0.5):
    return draw_augmentation(np.random.default_rng(seed), size, crop=crop, scales=SCALES, continuous=False, flip=flip)


def whole_then_cut(images, a):
    x = F.interpolate(images.float(), a.scaled, mode="bilinear", align_corners=True)
    x = x[..., a.top : a.top + a.size[0], a.left : a.left + a.size[1]]
    x = F.interpolate(x, a.output, mode="bilinear", align_corners=True)
    return x.flip(-1) if a.flip else x


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size, crop", [((64, 128), (48, 96)), ((101, 203), (64, 96)), ((50, 60), (96, 96)), ((64, 96), None)])
def test_only_the_rectangle_is_computed_and_it_is_the_same(size, crop, seed):
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    a = draw(seed, size, crop)
    expected = whole_then_cut(images, a)
    assert torch.allclose(a.images(images), expected, atol=0.01)
    grid = (expected.shape[-2] // 8, expected.shape[-1] // 8)
    assert torch.allclose(a.views(images, grid), F.interpolate(expected, grid, mode="bilinear", align_corners=True), atol=0.01)


@pytest.mark.parametrize("scaled", [(32, 64), (96, 160), (33, 47)])
def test_labels_are_resized_to_the_nearest(scaled):
    label = torch.randint(0, 19, (1, 64, 96), dtype=torch.uint8)
    expected = F.interpolate(label[None].float(), scaled, mode="nearest")[0].byte()
    assert torch.equal(nearest_rectangle(label, scaled, 0, 0, scaled), expected)
    assert torch.equal(nearest_rectangle(label, scaled, 3, 5, (8, 9)), expected[..., 3:11, 5:14])


@pytest.mark.parametrize("seed", range(20))
def test_draw_stays_inside_and_repeats(seed):
    a = draw(seed, (100, 200), (96, 160))
    assert a == draw(seed, (100, 200), (96, 160))
    assert all(side % 32 == 0 for side in a.scaled)
    assert a.top + a.size[0] <= a.scaled[0] and a.left + a.size[1] <= a.scaled[1]
    assert a.output == (96, 160)


def test_continuous_scale_lies_between_its_bounds():
    rng = np.random.default_rng(0)
    draws = [draw_augmentation(rng, (640, 640), crop=(64, 64), scales=(0.5, 2.0), continuous=True, flip=0) for _ in range(200)]
    sides = {a.scaled[0] for a in draws}
    assert min(sides) >= 320 - 32 and max(sides) <= 1280 and len(sides) > 15


def test_image_and_label_flip_together():
    image = torch.arange(64 * 96).view(1, 1, 64, 96)
    a = draw(0, (64, 96), None, flip=1.0)
    assert a.flip
    assert torch.equal(a.images(image), image.flip(-1).float()) and torch.equal(a.label(image), image.flip(-1))
    assert not draw(0, (64, 96), None, flip=0.0).flip


def test_normalise():
    images = torch.full((1, 3, 2, 2), 10, dtype=torch.uint8)
    assert torch.allclose(normalise(images, (10, 20, 30), (1, 2, 4))[0, :, 0, 0], torch.tensor([0.0, -5.0, -5.0]))


def test_rectangle_of_an_unscaled_frame_is_a_plain_cut():
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(resize_rectangle(x, (8, 8), 2, 3, (4, 4)), x[..., 2:6, 3:7])


@pytest.mark.parametrize("scale, crop", [(1.5, (64, 96)), (0.75, (64, 96)), (0.75, (96, 128))])
def test_positions_are_where_images_and_views_look(scale, crop):
    """On a picture whose colours are its coordinates, interpolated colours are positions."""
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(112.0), indexing="ij")
    coordinates = torch.stack([y, x, x])
    for seed in range(4):
        draw = draw_augmentation(np.random.default_rng(seed), (80, 112), crop=crop, scales=(scale,), continuous=False, flip=0.5)
        for size, found in ((draw.output, draw.images(coordinates)), ((9, 13), draw.views(coordinates, (9, 13)))):
            rows, columns = draw.positions((80, 112), size)
            assert torch.allclose(found[0], rows[:, None].expand(size), atol=1e-2)
            assert torch.allclose(found[1], columns.expand(size), atol=1e-2)
