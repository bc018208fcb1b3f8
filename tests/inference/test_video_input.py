"""Frames of videos, pictures, and the rendered street."""

import numpy as np
import pytest

from inference.video_input import open_frames
from tests.films import picture, write_pictures, write_video


@pytest.mark.parametrize("pattern", ["", "*", "frame_*.png"])
def test_pictures_come_in_natural_order(tmp_path, pattern):
    write_pictures(tmp_path, ["frame_2.png", "frame_9.png", "frame_10.png", "frame_100.png"])
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    frames = open_frames(str(tmp_path / pattern))
    assert (frames.count, frames.fps, frames.size) == (4, 30.0, (16, 24))
    assert [frames.title(i) for i in range(4)] == ["frame_2", "frame_9", "frame_10", "frame_100"]
    for number, image in enumerate(frames):
        assert image.dtype == np.uint8 and (image == picture(number)).all()


def test_single_picture_and_other_rate(tmp_path):
    write_pictures(tmp_path, ["a.b.png"])
    frames = open_frames(str(tmp_path / "a.b.png"), fps=17)
    assert (frames.count, frames.fps, frames.title(0), len(list(frames))) == (1, 17, "a.b", 1)


def test_pictures_of_several_folders_keep_folders_together_and_names_apart(tmp_path):
    names = ["city_2/left/000001.jpg", "city_2/left/000002.jpg", "city_10/left/000001.jpg"]
    write_pictures(tmp_path, names)
    frames = open_frames(str(tmp_path / "*" / "left" / "*.jpg"))
    assert [path.relative_to(tmp_path).as_posix() for path in frames.files] == names
    assert [frames.title(i) for i in range(3)] == [name.removesuffix(".jpg") for name in names]
    assert len(set(frames.names)) == 3
    assert open_frames(str(tmp_path / "**" / "*2.jpg")).names == ["000002"]


def test_pictures_may_change_their_size(tmp_path):
    write_pictures(tmp_path, ["0.png"])
    write_pictures(tmp_path, ["1.png"], size=(8, 8))
    assert [image.shape[:2] for image in open_frames(str(tmp_path))] == [(16, 24), (8, 8)]


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("codec, size", [("h264", (16, 24)), ("mjpeg", (17, 23))])
def test_video_file_yields_all_its_frames(tmp_path, ending, codec, size):
    path = write_video(tmp_path / f"a{ending}", size=size, codec=codec)
    frames = open_frames(str(path))
    assert (frames.name, frames.count, frames.size, frames.files) == (str(path), 5, size, (path,))
    assert frames.fps == pytest.approx(29.97, abs=1e-3)
    images = list(frames)
    assert len(images) == 5 and frames.title(4) == "frame_000004"
    for number, image in enumerate(images):
        assert image.shape == (*size, 3)
        assert np.abs(image.astype(int) - picture(number, size)).max() < 16  # RGB; what the codec lost


def test_turned_video_has_the_size_that_is_seen(tmp_path):
    path = write_video(tmp_path / "a.mp4", size=(16, 64))
    # A phone turns the matrix in the track's header: a, b, u, c, d in 16.16 fixed point.
    upright, turned = (b"".join((v << 16).to_bytes(4, "big", signed=True) for v in m) for m in ((1, 0, 0, 0, 1),
                                                                                                (0, 1, 0, -1, 0)))
    head, track = path.read_bytes().split(b"tkhd")
    assert upright in track
    path.write_bytes(head + b"tkhd" + track.replace(upright, turned, 1))
    frames = open_frames(str(path))
    assert frames.size == (64, 16) and all(image.shape == (64, 16, 3) for image in frames)


def test_rendered_street():
    frames = open_frames("demo")
    first = next(iter(frames))
    assert (frames.name, frames.count, frames.size) == ("demo", 30, (256, 512))
    assert first.shape == (256, 512, 3) and first.dtype == np.uint8
