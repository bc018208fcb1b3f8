"""Frames of videos, pictures, cameras, and the rendered street."""
import logging
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from config.errors import UserError
from dataloaders.frames import open_frames
from utils.logging import logger
from utils.video import VideoFile


def picture(number: int, size: tuple[int, int] = (16, 24)) -> np.ndarray:
    return np.full((*size, 3), (10 * number, 100, 200 - 10 * number), np.uint8)


def write_pictures(folder: Path, names: list[str], **how) -> None:
    """Pictures numbered in the order of `names`."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture(number, **how)[..., ::-1])


def write_video(path: Path, count: int = 5, fps: float = 29.97, size: tuple[int, int] = (16, 24)) -> Path:
    with VideoFile(path, fps) as video:
        for i in range(count):
            video.write(picture(i, size))
    return path


@pytest.fixture
def log(caplog, monkeypatch):
    """What the program says, as `messages`."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger.name)
    return caplog


class FakeCamera:
    """Stands in for cv2.VideoCapture: camera 1 sends three frames, others do not open."""

    def __init__(self, number: int):
        self.frames = [picture(i)[..., ::-1] for i in range(3)] if number == 1 else []

    def read(self):
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def get(self, what):
        return {cv2.CAP_PROP_FPS: 0.0, cv2.CAP_PROP_FRAME_COUNT: -1}[what]

    def release(self):
        pass


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


def test_pictures_that_differ_in_their_endings_only(tmp_path):
    write_pictures(tmp_path, ["a.jpg", "a.png"])
    with pytest.raises(UserError, match="a.jpg and .*a.png differ in their endings only"):
        open_frames(str(tmp_path))


def test_pictures_may_change_their_size(tmp_path):
    write_pictures(tmp_path, ["0.png"])
    write_pictures(tmp_path, ["1.png"], size=(8, 8))
    assert [image.shape[:2] for image in open_frames(str(tmp_path))] == [(16, 24), (8, 8)]


def test_broken_picture_is_named_when_its_turn_comes(tmp_path):
    write_pictures(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "1.png").write_bytes(b"torn")
    images = iter(open_frames(str(tmp_path)))
    next(images)
    with pytest.raises(UserError, match=r"1.png: not a readable picture \(4 bytes\)"):
        next(images)


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("size", [(16, 24), (17, 23)])
def test_video_file_gives_all_its_frames(tmp_path, ending, size):
    path = write_video(tmp_path / f"a{ending}", size=size)
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
    upright, turned = (b"".join((v << 16).to_bytes(4, "big", signed=True) for v in m) for m in ((1, 0, 0, 0, 1), (0, 1, 0, -1, 0)))
    head, track = path.read_bytes().split(b"tkhd")
    assert upright in track
    path.write_bytes(head + b"tkhd" + track.replace(upright, turned, 1))
    frames = open_frames(str(path))
    assert frames.size == (64, 16) and all(image.shape == (64, 16, 3) for image in frames)


def test_video_that_ends_early_says_so(tmp_path, log):
    path = write_video(tmp_path / "a.avi", count=40, size=(64, 64))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    found = len(list(open_frames(str(path))))
    assert 0 < found < 40
    assert log.messages[-1] == f"{path}: ends after {found} of the 40 frames that it announces"


def test_rendered_street():
    frames = open_frames("demo")
    first = next(iter(frames))
    assert (frames.name, frames.count, frames.size) == ("demo", 30, (256, 512))
    assert first.shape == (256, 512, 3) and first.dtype == np.uint8


def test_camera_sends_until_it_stops(monkeypatch, log):
    monkeypatch.setattr("dataloaders.frames.cv2.VideoCapture", FakeCamera)
    frames = open_frames("1")
    assert (frames.name, frames.count, frames.size, frames.fps) == ("camera 1", None, (16, 24), 30.0)
    assert all((image == picture(i)).all() for i, image in enumerate(frames))
    assert log.messages == ["camera 1: stopped sending after 3 frames"]
    assert open_frames("1", fps=15).fps == 15
    with pytest.raises(UserError, match="camera 0: does not open, or sends nothing; cameras count from 0"):
        open_frames("0")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("missing.mp4", None, "missing.mp4: no such file; wanted is a video file, a folder or a quoted glob"),
        ("*.png", None, r"\*.png: no pictures there \(.bmp, .jpeg, .jpg"),
        ("", None, "no pictures there"),
        ("junk.mp4", bytes(500), r"junk.mp4: cannot be read as a video \(500 bytes; damaged, or of another kind\)"),
        ("empty.avi", b"", r"empty.avi: cannot be read as a video \(0 bytes"),
        ("notes.txt", b"some words\n" * 50, r"notes.txt: cannot be read as a video \(550 bytes"),
        ("junk.png", b"junk", r"junk.png: not a readable picture \(4 bytes\)"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        open_frames(str(tmp_path / name) if name else str(tmp_path))
    assert re.search(message, str(error.value))


def test_video_without_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", count=1)
    content = path.read_bytes()
    at = content.index(b"mdat") + 4
    size = int.from_bytes(content[at - 8 : at - 4], "big") - 8
    path.write_bytes(content[:at] + bytes(size) + content[at + size :])
    with pytest.raises(UserError, match=r"a.mp4: (a video without a frame|cannot be read as a video)"):
        open_frames(str(path))
