"""Pictures and label maps from files of all kinds."""
import os
import zlib

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
from dataloaders.images import MOST_PIXELS, content_of, exif_orientation, id_table, label_table, read_ids, read_image
from tests import pictures
from tests.properties import datasets

DOOR = "Data"
READERS = {"frame": read_image, "label": read_ids}


def write(path, array):
    assert cv2.imwrite(str(path), array)
    return path


def refusal(read, path) -> str:
    """Return the error of `read` for the file at `path`: one line, without the path that it begins with."""
    with pytest.raises(UserError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


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
def test_ids_without_a_class_are_ignored_and_classes_map_back_to_their_ids(config, tmp_path):
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    label = label_table(config)[read_ids(write(tmp_path / "l.png", ids))]
    known = np.isin(ids, config.label_ids)
    assert (label[~known] == 250).all()
    assert (id_table(config)[label[known]] == ids[known]).all()
    assert sorted(label[known]) == list(range(config.num_classes))


@pytest.mark.tried(
    "Numbers", "all 256 label ids of every data set, and of random ones, with several ids a class",
    "each to its class or ignored, and back",
)
@given(config=st.sampled_from(list(DATASETS.values())) | datasets())
def test_ids_of_random_data_sets_map_to_their_class_and_back(outcomes, config):
    table, back = label_table(config), id_table(config)
    meant = dict(zip(config.label_ids, range(config.num_classes))) | dict(config.also)
    assert table.dtype == back.dtype == np.uint8 and len(table) == len(back) == 256
    assert table.tolist() == [meant.get(label_id, config.ignore) for label_id in range(256)]
    assert back[: config.num_classes].tolist() == list(config.label_ids)
    assert table[back[: config.num_classes]].tolist() == list(range(config.num_classes))
    outcomes["each to its class or ignored, and back"] += 1


@pytest.mark.tried(
    DOOR, "frame of an unusual kind: grey, alpha, palette, 1 and 16 bits, interlaced, animated, CMYK, rotated", "read"
)
@pytest.mark.parametrize("kind", pictures.FRAMES)
def test_frames_of_all_kinds_become_rgb_bytes(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(pictures.FRAMES[kind][0])
    image, expected = read_image(tmp_path / "a.png"), pictures.FRAMES[kind][1]
    assert image.shape == pictures.COLOUR.shape and image.dtype == np.uint8
    if expected is not None:
        assert (image == expected).all()
    else:
        assert np.abs(image.astype(int) - pictures.COLOUR).mean() < 3


@pytest.mark.tried(DOOR, "label of an unusual kind: palette, interlaced, animated, transparent", "read")
@pytest.mark.parametrize("kind", pictures.LABELS)
def test_labels_of_all_kinds_are_read_as_ids(tmp_path, kind):
    (tmp_path / "l.png").write_bytes(pictures.LABELS[kind])
    assert (read_ids(tmp_path / "l.png") == pictures.IDS).all()


@pytest.mark.tried(
    DOOR, "label that holds no ids: colours, alpha, 1 and 16 bits, a JPEG, which changes ids", "refused in one line"
)
@pytest.mark.parametrize("kind", pictures.NO_IDS)
def test_label_without_ids_is_refused(tmp_path, kind):
    (tmp_path / "l.png").write_bytes(pictures.NO_IDS[kind])
    read_image(tmp_path / "l.png")
    said = refusal(read_ids, tmp_path / "l.png")
    if "JPEG" in kind:
        assert said == "this label is a JPEG, whose compression changes ids; export the labels again as PNG"
    elif "bit" in kind:
        assert said == f"this label is a PNG of {kind.split('-')[0]} bits a channel; save it with 8 bits"
    else:
        assert "one 8-bit channel of class ids" in said
        assert said.endswith("use the label files that hold ids, not colours")


@pytest.mark.tried(DOOR, "label of several equal channels: alpha, RGB, GIF", "read as ids")
@pytest.mark.parametrize("kind", pictures.GREY)
def test_equal_channels_are_ids(tmp_path, kind):
    (tmp_path / "l.png").write_bytes(pictures.GREY[kind])
    assert np.array_equal(read_ids(tmp_path / "l.png"), pictures.IDS)


@pytest.mark.tried(DOOR, "not a picture: empty, text, a web page, cut short, without pixels", "refused in one line")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", pictures.BROKEN)
def test_file_that_is_not_a_picture_is_refused(tmp_path, kind, reader):
    path, content = tmp_path / ("a.jpg" if "JPEG" in kind else "a.png"), pictures.BROKEN[kind]
    path.write_bytes(content)
    said = refusal(READERS[reader], path)
    if reader == "frame" or not ("JPEG" in kind or "impossible" in kind):
        assert said == f"not a readable picture ({len(content)} bytes); restore the file from the data set"


@pytest.mark.tried(DOOR, "PNG with valid checksums around pixels that cannot be decoded", "refused in one line")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", pictures.HOSTILE)
def test_hostile_png_does_not_crash(tmp_path, kind, reader):
    (tmp_path / "a.png").write_bytes(pictures.HOSTILE[kind])
    assert refusal(READERS[reader], tmp_path / "a.png").startswith("not a readable picture")


@pytest.mark.tried(DOOR, "decompression bomb: a few bytes that claim 65535 x 65535 pixels", "refused in one line")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", pictures.BOMBS)
def test_bomb_is_refused_by_its_header(tmp_path, kind, reader):
    (tmp_path / "a.png").write_bytes(pictures.BOMBS[kind])
    said = refusal(content_of if kind == "JPEG" else READERS[reader], tmp_path / "a.png")
    assert "pixels by its header" in said and f"at most {MOST_PIXELS} are read" in said


@pytest.mark.tried(DOOR, "folder, broken link or pipe named as a picture", "refused in one line")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: path.mkdir(), "a folder or a device, not a picture"),
        (os.mkfifo, "a folder or a device, not a picture"),  # reading it would block
        (lambda path: path.symlink_to("nowhere"), "cannot be opened (No such file or directory); restore the file"),
        (lambda path: path.symlink_to(path), "cannot be opened (Too many levels of symbolic links)"),
    ],
    ids=["folder", "pipe", "broken link", "link to itself"],
)
def test_path_that_is_not_a_regular_file_is_refused(tmp_path, make, message, reader):
    make(tmp_path / "a.png")
    assert refusal(READERS[reader], tmp_path / "a.png").startswith(message)


@pytest.mark.tried(DOOR, "picture without read permission", "refused in one line")
@pytest.mark.parametrize("reader", READERS)
def test_file_without_permission_is_refused(tmp_path, monkeypatch, reader):
    write(tmp_path / "a.png", pictures.IDS)
    def denied(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    assert refusal(READERS[reader], tmp_path / "a.png").startswith("cannot be opened (Permission denied)")


def test_exif_rotation_is_recognised():
    turned = (exif_orientation(pictures.FRAMES[kind][0]) for kind in ("turned JPEG", "turned WebP"))
    assert all(orientation != 1 for orientation in turned)
    assert exif_orientation(pictures.FRAMES["JPEG"][0]) == exif_orientation(b"no picture") == 1


@pytest.mark.tried(DOOR, "picture that is missing, empty, or text", "refused in one line")
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


@pytest.mark.tried(DOOR, "PNG cut at every byte, as frame and as label", "refused in one line")
@pytest.mark.parametrize("reader", READERS)
def test_png_cut_anywhere_is_refused(outcomes, tmp_path, reader):
    whole, path = pictures.LABELS["PNG"], tmp_path / "a.png"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(READERS[reader], path)
        outcomes["refused in one line"] += 1


@pytest.mark.tried(DOOR, "label of colours, or of 16 bits", "refused in one line")
@pytest.mark.parametrize(
    "array, message",
    [(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), "one 8-bit channel"),
     (np.zeros((4, 4), np.uint16), "a PNG of 16 bits")],
)
def test_label_file_has_one_8_bit_channel(tmp_path, array, message):
    with pytest.raises(UserError, match=message):
        read_ids(write(tmp_path / "l.png", array))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_label_is_read_as_indices(tmp_path, bits):
    ids = np.random.default_rng(0).integers(0, 2**bits, (13, 17), dtype=np.uint8)
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    picture.save(tmp_path / "l.png", bits=bits)
    assert (read_ids(tmp_path / "l.png") == ids).all()


def test_label_of_few_grey_levels_is_refused_not_scaled(tmp_path):
    Image.fromarray(np.zeros((8, 8), bool)).save(tmp_path / "l.png")
    with pytest.raises(UserError, match="a PNG of 1 bits a channel; save it with 8 bits"):
        read_ids(tmp_path / "l.png")


@pytest.mark.tried(DOOR, "every byte of a small PNG changed, as frame and as label", "refused in one line")
@pytest.mark.parametrize("kind", ["PNG", "palette PNG"])
@pytest.mark.parametrize("reader", READERS)
def test_a_wrong_byte_anywhere_in_a_png_is_an_error_not_a_crash(outcomes, tmp_path, reader, kind):
    path, whole = tmp_path / "a.png", pictures.FRAMES[kind][0] if reader == "frame" else pictures.LABELS[kind]
    path.write_bytes(whole)
    READERS[reader](path)
    rng = np.random.default_rng(1)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        message = f"not a readable picture ({len(whole)} bytes); restore the file from the data set"
        assert refusal(READERS[reader], path) == message
        outcomes["refused in one line"] += 1


@pytest.mark.tried(DOOR, "every byte of a small PNG changed, with valid checksums")
@pytest.mark.parametrize("kind", [kind for kind in pictures.LABELS if "PNG" in kind])
def test_a_wrong_byte_under_right_checksums_does_not_crash(outcomes, tmp_path, kind):
    path, whole = tmp_path / "a.png", pictures.LABELS[kind]
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x21
        path.write_bytes(with_right_checksums(damaged))
        for read in READERS.values():
            try:
                outcomes["decoded" if read(path).dtype == np.uint8 else "decoded to something else"] += 1
            except UserError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
                outcomes["refused in one line"] += 1
    assert set(outcomes) <= {"decoded", "refused in one line"}


def with_right_checksums(content: bytearray) -> bytes:
    place = 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 <= len(content):
            content[end : end + 4] = zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(content)


@pytest.mark.tried(DOOR, "every byte of a small JPEG changed; it has no checksum")
def test_a_wrong_byte_anywhere_in_a_jpeg_does_not_crash(outcomes, tmp_path):
    path, whole = tmp_path / "a.jpg", pictures.FRAMES["turned JPEG"][0]
    rng = np.random.default_rng(1)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            image = read_image(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            outcomes["refused in one line"] += 1
            continue
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        outcomes["decoded, correctly or not"] += 1
        exif_orientation(bytes(damaged))  # must not raise
