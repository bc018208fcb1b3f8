"""Pictures and label maps from files of all kinds."""
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from config.camvid import CAMVID
from config.cityscapes import CITYSCAPES
from config.datasets import DATASETS
from config.errors import UserError
from dataloaders.images import id_table, label_table, read_ids, read_image
from tests.properties import datasets


def write(path, array):
    assert cv2.imwrite(str(path), array)
    return path


def test_colour_is_rgb(tmp_path):
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[..., 2] = 200  # OpenCV writes BGR
    assert (read_image(write(tmp_path / "a.png", picture))[0, 0] == (200, 0, 0)).all()


@pytest.mark.parametrize("shape, kind", [((4, 6), np.uint8), ((4, 6, 4), np.uint8), ((4, 6, 3), np.uint16)])
def test_grey_alpha_and_16_bit_become_rgb_bytes(tmp_path, shape, kind):
    picture = np.full(shape, 40 * (257 if kind is np.uint16 else 1), kind)
    image = read_image(write(tmp_path / "a.png", picture))
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8 and (image == 40).all()


@pytest.mark.parametrize("config", [CITYSCAPES, CAMVID])
def test_every_id_that_is_no_class_is_ignored_and_classes_go_back_to_their_ids(config, tmp_path):
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    label = label_table(config)[read_ids(write(tmp_path / "l.png", ids))]
    known = np.isin(ids, config.label_ids)
    assert (label[~known] == 250).all()
    assert (id_table(config)[label[known]] == ids[known]).all()
    assert sorted(label[known]) == list(range(config.num_classes))


@pytest.mark.tried(
    "Numbers", "all 256 label ids of every data set, and of random ones, with several ids a class", "each to its class or ignored, and back"
)
@given(config=st.sampled_from(list(DATASETS.values())) | datasets())
def test_ids_of_random_data_sets_go_to_their_class_and_back(outcomes, config):
    table, back = label_table(config), id_table(config)
    meant = dict(zip(config.label_ids, range(config.num_classes))) | dict(config.also)
    assert table.dtype == back.dtype == np.uint8 and len(table) == len(back) == 256
    assert table.tolist() == [meant.get(label_id, config.ignore) for label_id in range(256)]
    assert back[: config.num_classes].tolist() == list(config.label_ids)
    assert table[back[: config.num_classes]].tolist() == list(range(config.num_classes))
    outcomes["each to its class or ignored, and back"] += 1


@pytest.mark.parametrize(
    "content, message",
    [(None, "cannot be opened"), (b"", "not a readable picture .0 bytes"), (b"no picture", "not a readable")],
)
def test_unreadable_file_is_named(tmp_path, content, message):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"broken.png: {message}"):
        read_image(path)


def test_truncated_file_is_refused_or_read_but_never_crashes(tmp_path):
    path = write(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="a.png"):
        read_image(path)


@pytest.mark.parametrize(
    "array, message", [(np.zeros((4, 4, 3), np.uint8), "one 8-bit channel"), (np.zeros((4, 4), np.uint16), "this PNG has 16")]
)
def test_label_file_has_one_8_bit_channel(tmp_path, array, message):
    with pytest.raises(UserError, match=message):
        read_ids(write(tmp_path / "l.png", array))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_label_gives_its_indices(tmp_path, bits):
    ids = np.random.default_rng(0).integers(0, 2**bits, (13, 17), dtype=np.uint8)
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    picture.save(tmp_path / "l.png", bits=bits)
    assert (read_ids(tmp_path / "l.png") == ids).all()


def test_label_of_few_grey_levels_is_refused_not_scaled(tmp_path):
    Image.fromarray(np.zeros((8, 8), bool)).save(tmp_path / "l.png")
    with pytest.raises(UserError, match="this PNG has 1; save it as an 8-bit one"):
        read_ids(tmp_path / "l.png")


def test_a_wrong_byte_anywhere_in_a_png_is_an_error_and_not_the_end_of_the_process(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (24, 30, 3)).astype(np.uint8))
    whole, found = path.read_bytes(), read_image(path)
    rng = np.random.default_rng(1)
    for place in [*range(40), *rng.integers(40, len(whole), 60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="a.png: not a readable picture"):
            read_image(path)
    path.write_bytes(whole)
    assert (read_image(path) == found).all()
