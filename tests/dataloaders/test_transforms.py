"""Augmentation against torch's own resizing of the whole frame."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from dataloaders.transforms import Augmentation, draw_augmentation, nearest_rectangle, resize_rectangle
from tests.properties import aligned_positions, generator, random_labels, seeds, sizes

SCALES = (0.75, 1.0, 1.5, 1.75)


def draw(seed, size, crop, flip=0.5):
    return draw_augmentation(np.random.default_rng(seed), size, crop=crop, scales=SCALES, continuous=False, flip=flip)


def aligned(images, size):
    return F.interpolate(images.float(), size, mode="bilinear", align_corners=True)


def whole_then_cut(images, a):
    x = aligned(images, a.scaled)
    x = aligned(x[..., a.top : a.top + a.size[0], a.left : a.left + a.size[1]], a.output)
    return x.flip(-1) if a.flip else x


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "size, crop", [((64, 128), (48, 96)), ((101, 203), (64, 96)), ((50, 60), (96, 96)), ((64, 96), None)]
)
def test_only_the_rectangle_is_computed_and_it_is_the_same(size, crop, seed):
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    a = draw(seed, size, crop)
    expected = whole_then_cut(images, a)
    assert torch.allclose(a.images(images), expected, atol=0.01)
    grid = (expected.shape[-2] // 8, expected.shape[-1] // 8)
    assert torch.allclose(a.views(images, grid), aligned(expected, grid), atol=0.01)


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
    settings = dict(crop=(64, 64), scales=(0.5, 2.0), continuous=True, flip=0)
    draws = [draw_augmentation(rng, (640, 640), **settings) for _ in range(200)]
    sides = {a.scaled[0] for a in draws}
    assert min(sides) >= 320 - 32 and max(sides) <= 1280 and len(sides) > 15


def test_image_and_label_flip_together():
    image = torch.arange(64 * 96).view(1, 1, 64, 96)
    a = Augmentation((64, 96), 0, 0, (64, 96), (64, 96), flip=True)
    assert torch.equal(a.images(image), image.flip(-1).float()) and torch.equal(a.label(image), image.flip(-1))


def test_flip_is_the_probability_of_a_flip():
    assert all(draw(seed, (64, 96), (48, 64), flip=1.0).flip for seed in range(20))
    assert not any(draw(seed, (64, 96), (48, 64), flip=0.0).flip for seed in range(20))
    share = sum(draw(seed, (64, 96), (48, 64), flip=0.2).flip for seed in range(400)) / 400
    assert 0.1 < share < 0.3


def test_without_a_crop_there_is_no_augmentation():
    """In the released program scale, crop and flip are one transform."""
    assert draw(0, (64, 96), None, flip=1.0) == Augmentation((64, 96), 0, 0, (64, 96), (64, 96), flip=False)


def test_rectangle_of_an_unscaled_frame_is_a_plain_cut():
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(resize_rectangle(x, (8, 8), 2, 3, (4, 4)), x[..., 2:6, 3:7])


@pytest.mark.parametrize("scale, crop", [(1.5, (64, 96)), (0.75, (64, 96)), (0.75, (96, 128))])
def test_positions_are_where_images_and_views_look(scale, crop):
    """On a picture whose colours are its coordinates, interpolated colours are positions."""
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(112.0), indexing="ij")
    coordinates = torch.stack([y, x, x])
    for seed in range(4):
        rng = np.random.default_rng(seed)
        draw = draw_augmentation(rng, (80, 112), crop=crop, scales=(scale,), continuous=False, flip=0.5)
        for size, found in ((draw.output, draw.images(coordinates)), ((9, 13), draw.views(coordinates, (9, 13)))):
            rows, columns = map(torch.from_numpy, draw.positions((80, 112), size))
            assert torch.allclose(found[0], rows[:, None].expand(size), atol=1e-2)
            assert torch.allclose(found[1], columns.expand(size), atol=1e-2)


@st.composite
def augmentations(draw):
    """Size of a frame, and an augmentation drawn for it: any crop or none, steps of scale or any between two."""
    size, crop, continuous = draw(sizes(100)), draw(st.none() | sizes(110, 8)), draw(st.booleans())
    scales = tuple(sorted(draw(st.tuples(st.floats(0.5, 2), st.floats(0.5, 2))))) if continuous else SCALES
    rng = np.random.default_rng(draw(seeds))
    return size, draw_augmentation(rng, size, crop=crop, scales=scales, continuous=continuous, flip=0.5)


def nearest_sources(source, scaled, first, cut, out):
    """Which source pixel each of `out` label pixels comes from, along one axis."""
    return [(first + i * cut // out) * source // scaled for i in range(out)]


def aligned_sources(source, scaled, first, cut, out):
    """Where in the source, in pixels, each of `out` picture pixels looks, along one axis."""
    step = aligned_positions(source, scaled)[1] if scaled > 1 else 0.0
    return [(first + position) * step for position in aligned_positions(cut, out)]


@pytest.mark.tried(
    "Numbers", "a picture and a label map that hold each pixel's position, through random scales, crops and flips",
    "both show the same place",
)
@given(drawn=augmentations())
def test_picture_and_label_stay_together(outcomes, drawn):
    (height, width), a = drawn
    place = torch.arange(height * width).view(1, height, width)  # a label of its own for every pixel
    label, picture = a.label(place)[0], a.images(torch.stack([place[0] // width, place[0] % width]).float())
    assert label.shape == picture.shape[1:] == a.output
    for axis, source, found in ((0, height, label // width), (1, width, label % width)):
        sides = source, a.scaled[axis], (a.top, a.left)[axis], a.size[axis], a.output[axis]
        nearest, aligned = torch.tensor(nearest_sources(*sides)), torch.tensor(aligned_sources(*sides))
        if axis == 1 and a.flip:
            nearest, aligned = nearest.flip(0), aligned.flip(0)
        rows = (-1, 1) if axis == 0 else (1, -1)
        assert torch.equal(found, nearest.view(rows).expand(a.output))
        assert torch.allclose(picture[axis], aligned.view(rows).expand(a.output), atol=1e-2)
        # A label is that of the pixel before; a resize to the crop's size samples again, at pixels of the scaled frame.
        step = source / a.scaled[axis]
        assert (found - picture[axis]).abs().max() < max(1, step) + (step if a.size != a.output else 0) + 1e-2
    outcomes["both show the same place"] += 1


@pytest.mark.tried("Numbers", "label maps through random scales, crops and flips", "no class that was not there before")
@given(drawn=augmentations(), classes=st.integers(1, 250), seed=seeds)
def test_augmentation_invents_no_class(outcomes, drawn, classes, seed):
    size, a = drawn
    label = random_labels(np.random.default_rng(seed), (2, *size), classes, 250)
    found = a.label(label)
    assert found.dtype == label.dtype and found.shape == (2, *a.output)
    assert set(found.unique().tolist()) <= set(label.unique().tolist())
    outcomes["no class that was not there before"] += 1


@pytest.mark.tried("Numbers", "pictures and their small views through random scales, crops and flips")
@given(drawn=augmentations(), grid=sizes(16), seed=seeds)
def test_random_rectangles_equal_resizing_the_whole_frame(outcomes, drawn, grid, seed):
    size, a = drawn
    images = torch.randint(0, 256, (1, 2, *size), generator=generator(seed), dtype=torch.uint8)
    expected = whole_then_cut(images, a)
    assert torch.allclose(a.images(images), expected, atol=0.02)
    assert torch.allclose(a.views(images, grid), aligned(expected, grid), atol=0.02)
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    rows, columns = map(torch.from_numpy, a.positions(size, grid))
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    assert torch.allclose(a.views(torch.stack([y, x]), grid), places, atol=1e-2)
    outcomes["equal to resizing the whole frame"] += 1


@pytest.mark.parametrize("seed", range(6))
def test_flow_is_cropped_scaled_and_flipped_like_the_frames(seed):
    """The displacement of a point of the result is, in pixels of the frame, that of the frame at that point."""
    rng, frame, size = np.random.default_rng(seed), (96, 160), (12, 17)
    a = draw_augmentation(rng, frame, crop=(96, 128), scales=(0.7, 1.6), continuous=True, flip=0.5)
    rows, columns = np.mgrid[:25, :41].astype(np.float32)  # the flow's own pixels
    own = np.stack([0.8 + 0.02 * columns - 0.01 * rows, -0.5 + 0.03 * rows])  # (2,h',w'), x first
    found = a.flow(torch.from_numpy(own)[None], frame, size)[0].numpy()  # (2,h,w)
    places = a.positions(frame, size)
    steps = [place[1] - place[0] for place in places]
    for axis in (0, 1):  # x, y
        side, whole = own.shape[2 - axis], frame[1 - axis]
        to_own = (side - 1) / (whole - 1)
        at_y, at_x = np.meshgrid(places[0] * 24 / 95, places[1] * 40 / 159, indexing="ij")
        there = 0.8 + 0.02 * at_x - 0.01 * at_y if axis == 0 else -0.5 + 0.03 * at_y
        assert np.allclose(found[axis] * steps[1 - axis], there / to_own, atol=2e-3)
