"""Pictures that open again."""
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.cityscapes import CITYSCAPES
from config.errors import UserError
from tests.properties import seeds, sizes
from utils.visualize import colourise, grid, overlay, with_caption, write_picture


def test_indices_without_a_class_are_black():
    picture = colourise(np.array([[0, 10, 250]], np.uint8), CITYSCAPES.colours)
    assert picture.tolist() == [[[128, 64, 128], [70, 130, 180], [0, 0, 0]]]


def test_overlay_does_not_change_unlabelled_pixels():
    image = np.full((1, 2, 3), 100, np.uint8)
    mixed = overlay(image, np.array([[0, 250]], np.uint8), CITYSCAPES.colours, strength=0.5)
    assert mixed.tolist() == [[[114, 82, 114], [100, 100, 100]]]


@pytest.mark.tried(
    "Numbers", "colours of random label maps, alone and laid over pictures",
    "each class in its colour, and no other pixel touched",
)
@given(size=sizes(12), classes=st.integers(1, 250), strength=st.floats(0, 1), seed=seeds)
def test_colours_of_random_label_maps(outcomes, size, classes, strength, seed):
    rng = np.random.default_rng(seed)
    colours = [*rng.integers(0, 256, (classes - 1, 3)).tolist(), [0, 0, 0]]  # the last class is black, too
    label, image = rng.integers(0, 256, size, dtype=np.uint8), rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    painted, mixed = colourise(label, colours), overlay(image, label, colours, strength)
    for place in np.ndindex(size):
        colour = np.array(colours[label[place]] if label[place] < classes else [0, 0, 0])
        assert (painted[place] == colour).all()
        expected = image[place] * (1 - strength) + colour * strength if colour.any() else image[place]
        assert np.abs(mixed[place] - expected).max() <= (0.5 + 1e-3 if colour.any() else 0)
    outcomes["each class in its colour, and no other pixel touched"] += 1


def test_picture_round_trip_and_unknown_ending(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    write_picture(tmp_path / "new" / "a.png", image)
    assert (cv2.imread(str(tmp_path / "new" / "a.png"))[..., ::-1] == image).all()
    with pytest.raises(UserError, match="a.nothing: pictures cannot be written as .nothing; use .png"):
        write_picture(tmp_path / "a.nothing", image)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a.png: cannot be written"):
        write_picture(tmp_path / "file" / "a.png", image)


def test_grid_and_caption():
    tile = with_caption(np.zeros((10, 20, 3), np.uint8), "text")
    assert tile.shape == (34, 20, 3) and tile.any()
    assert grid([[tile, tile], [tile, tile]]).shape == (68, 40, 3)
