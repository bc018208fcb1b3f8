"""Sources that are damaged, missing, forbidden, or of another kind; cameras that stop."""
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from config.errors import UserError
from inference.video_input import open_frames
from tests.films import picture, write_pictures, write_video
from utils.logging import logger

ROOT = Path(__file__).resolve().parents[2]
OPENED = """
import sys
from inference.video_input import open_frames
for source in sys.argv[1:]:
    try:
        open_frames(source)
    except Exception as error:
        print(type(error).__name__, error)
"""
UNREADABLE = "file that is no video: empty, words, random bytes, a picture cut short, a video without its index"


@pytest.fixture
def log(caplog, monkeypatch):
    """The log lines, as `messages`."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger.name)
    return caplog


class FakeCamera:
    """Stands in for cv2.VideoCapture: camera 1 sends three frames, 2 continues with larger ones, others do not open."""

    def __init__(self, number: int):
        sizes = {1: [(16, 24)] * 3, 2: [(16, 24)] * 3 + [(32, 48)] * 2}.get(number, [])
        self.frames = [picture(i, size)[..., ::-1] for i, size in enumerate(sizes)]

    def read(self):
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def get(self, what):
        return {cv2.CAP_PROP_FPS: 0.0, cv2.CAP_PROP_FRAME_COUNT: -1}[what]

    def release(self):
        pass


@pytest.mark.tried("Video", "pictures whose label maps would have one name", "refused in one line")
def test_pictures_that_differ_in_their_endings_only(tmp_path):
    write_pictures(tmp_path, ["a.jpg", "a.png"])
    with pytest.raises(UserError, match="a.jpg and .*a.png differ in their endings only"):
        open_frames(str(tmp_path))


@pytest.mark.tried("Video", "picture in a folder that is damaged, or vanishes midway",
                   "named when its turn comes, in one line")
def test_broken_picture_is_named_when_its_turn_comes(tmp_path):
    write_pictures(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "1.png").write_bytes(b"torn")
    images = iter(open_frames(str(tmp_path)))
    next(images)
    with pytest.raises(UserError, match=r"1.png: not a readable picture \(4 bytes\)"):
        next(images)


@pytest.mark.tried("Video", "picture in a folder that is damaged, or vanishes midway",
                   "named when its turn comes, in one line")
def test_picture_that_vanishes_is_named_when_its_turn_comes(tmp_path):
    write_pictures(tmp_path, ["0.png", "1.png"])
    images = iter(open_frames(str(tmp_path)))
    (tmp_path / "1.png").unlink()
    next(images)
    with pytest.raises(UserError, match=r"1.png: cannot be opened \(No such file or directory\)"):
        next(images)


@pytest.mark.tried("Video", "pictures of one channel, with alpha, of 16 bits, with a palette", "frames of 8-bit RGB")
@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_of_other_kinds(tmp_path, ending, channels, dtype):
    assert cv2.imwrite(str(tmp_path / f"a{ending}"), np.full((9, 7, channels), np.iinfo(dtype).max // 2, dtype))
    (frame,) = open_frames(str(tmp_path / f"a{ending}"))
    assert frame.shape == (9, 7, 3) and frame.dtype == np.uint8
    assert 126 <= frame.min() and frame.max() <= 128


@pytest.mark.tried("Video", "picture of floats", "refused in one line")
def test_picture_of_floats(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), np.full((9, 7, 3), 0.5, np.float32))
    with pytest.raises(UserError, match="a.tif: its pixels are float32"):
        open_frames(str(tmp_path))


@pytest.mark.tried("Video", "pictures of one channel, with alpha, of 16 bits, with a palette", "frames of 8-bit RGB")
def test_pictures_with_a_palette(tmp_path):
    Image.fromarray(picture(3)).quantize(4).save(tmp_path / "a.png")
    (frame,) = open_frames(str(tmp_path))
    assert (frame == picture(3)).all()


@pytest.mark.tried("Video", "video of one channel, of 16 bits, with alpha", "frames of 8-bit RGB")
@pytest.mark.parametrize("code, dtype", [("MJPG", np.uint8), ("FFV1", np.uint16)])
def test_grey_videos(tmp_path, code, dtype):
    how = [cv2.VIDEOWRITER_PROP_IS_COLOR, 0, cv2.VIDEOWRITER_PROP_DEPTH,
           cv2.CV_16U if dtype == np.uint16 else cv2.CV_8U]
    writer = cv2.VideoWriter(str(tmp_path / "a.mkv"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 25, (24, 16), how)
    for _ in range(3):
        writer.write(np.full((16, 24), np.iinfo(dtype).max // 2, dtype))
    writer.release()
    frames = list(open_frames(str(tmp_path / "a.mkv")))
    assert [(frame.shape, frame.dtype) for frame in frames] == [((16, 24, 3), np.uint8)] * 3
    assert all(120 <= frame.min() and frame.max() <= 135 for frame in frames)


@pytest.mark.tried("Video", "video of one channel, of 16 bits, with alpha", "frames of 8-bit RGB")
def test_video_with_alpha(tmp_path):
    film = cv2.Animation()
    film.frames = [np.full((16, 24, 4), 60 + 20 * i, np.uint8) for i in range(3)]
    film.durations = [40] * 3
    assert cv2.imwriteanimation(str(tmp_path / "a.apng"), film)
    frames = list(open_frames(str(tmp_path / "a.apng")))
    assert [(frame.shape, frame.dtype) for frame in frames] == [((16, 24, 3), np.uint8)] * 3


@pytest.mark.tried("Video", "stream whose frames change their size midway",
                   "all frames, scaled to the first one's size")
@pytest.mark.parametrize("kind", ["mjpeg", "ts"])
def test_stream_that_changes_its_size(tmp_path, kind):
    sizes = [(32, 48)] * 3 + [(48, 64)] * 3
    parts = [cv2.imencode(".jpg", picture(i, size))[1].tobytes() for i, size in enumerate(sizes)]
    if kind == "ts":
        parts = []
        for size in ((32, 48), (48, 64)):
            path = tmp_path / "part.ts"
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, size[::-1])
            for i in range(3):
                writer.write(picture(i, size))
            writer.release()
            parts.append(path.read_bytes())
    (tmp_path / f"a.{kind}").write_bytes(b"".join(parts))
    frames = open_frames(str(tmp_path / f"a.{kind}"))
    assert [image.shape for image in frames] == [(32, 48, 3)] * 6 and frames.size == (32, 48)


def test_damaged_frames_are_counted(tmp_path, log):
    path = write_video(tmp_path / "a.avi", count=8, size=(64, 64), codec="mjpeg")
    first, *pictures = path.read_bytes().split(b"\xff\xd8\xff")
    for number in (3, 5):
        pictures[number] = bytes(600) + pictures[number][600:]
    path.write_bytes(first + b"".join((b"abc" if x[:9] == bytes(9) else b"\xff\xd8\xff") + x for x in pictures))
    assert len(list(open_frames(str(path)))) == 6
    assert log.messages[0] == f"{path}: 2 frames are damaged, and left out"


@pytest.mark.tried("Video", "AVI cut short", "its frames until there, and a log line")
@pytest.mark.parametrize("part", [0.55, 0.67, 0.75, 0.85])
def test_video_that_ends_early_is_reported(tmp_path, log, part):
    path = write_video(tmp_path / "a.avi", count=40, size=(64, 64), codec="mjpeg")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    found = len(list(open_frames(str(path))))
    assert 0 < found < 40
    assert log.messages[-1] == f"{path}: ends after {found} of the 40 frames that its header announces"


@pytest.mark.tried("Video", "header that announces more frames than there are",
                   "the frames that there are, and a log line")
def test_header_that_promises_too_much(tmp_path, log):
    path = write_video(tmp_path / "a.avi")
    content = bytearray(path.read_bytes())
    for chunk, place in ((b"avih", 16), (b"strh", 32)):  # where the main header and the stream's say how many
        at = content.index(chunk) + 8 + place
        content[at : at + 4] = (4000).to_bytes(4, "little")
    path.write_bytes(content)
    frames = open_frames(str(path))
    assert frames.count == 4000 and len(list(frames)) == 5
    assert log.messages == [f"{path}: ends after 5 of the 4000 frames that its header announces"]


@pytest.mark.tried("Video", "header with a frame rate that cannot be", "taken as 30 a second")
@pytest.mark.parametrize("scale, rate", [(1_000_000, 1), (1, 2_000_000_000)])
def test_header_with_a_rate_that_cannot_be(tmp_path, scale, rate):
    path = write_video(tmp_path / "a.avi")
    content = bytearray(path.read_bytes())
    at = content.index(b"strh") + 8 + 20
    content[at : at + 8] = scale.to_bytes(4, "little") + rate.to_bytes(4, "little")
    path.write_bytes(content)
    frames = open_frames(str(path))
    assert frames.fps == 30 and len(list(frames)) >= 1


NAMES = ["12:30.mp4", "http:x.mp4", "pipe:0.mp4", "-i.mp4", "50%d.mp4", "a b.mp4", "two\nlines.mp4", "straße.mp4",
         "x.MP4"]


@pytest.mark.tried("Video", "file names that mean something else to FFmpeg or the shell", "read and written as files")
@pytest.mark.parametrize("name", NAMES)
def test_unusual_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(Path(name))
    assert os.listdir(tmp_path) == [name] and len(list(open_frames(name))) == 5


@pytest.mark.tried("Video", "file names that are not UTF-8", "refused in one line")
@pytest.mark.parametrize("kind", ["video", "picture"])
def test_names_that_are_not_utf8(tmp_path, kind):
    name = os.fsdecode(b"a\xff") + (".mp4" if kind == "video" else ".png")
    try:
        (tmp_path / name).write_bytes(b"something")
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(UserError, match=r"a\\udcff.*: its name is not UTF-8; rename it"):
        open_frames(str(tmp_path / name if kind == "video" else tmp_path))
    with pytest.raises(UserError, match="its name is not UTF-8; rename it"):
        write_video(tmp_path / os.fsdecode(b"b\xff.mp4"))


@pytest.mark.tried("Video", "source without permission to read", "refused in one line")
def test_source_without_permission(tmp_path, outcomes):
    sources = [str(tmp_path / name) for name in ("a.mp4", "a.png", "folder", "closed/a.mp4")]
    write_video(tmp_path / "a.mp4")
    write_pictures(tmp_path, ["a.png", "folder/a.png"])
    write_video(tmp_path / "closed" / "a.mp4")
    for name in ("a.mp4", "a.png", "folder", "closed"):
        (tmp_path / name).chmod(0)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command = [*powerless, sys.executable, "-c", OPENED, *sources]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    for name in ("folder", "closed"):
        (tmp_path / name).chmod(0o700)
    if "setpriv:" in done.stderr:
        pytest.skip("root cannot drop its capabilities here (setpriv)")
    assert len(done.stdout.splitlines()) == len(sources), done.stderr
    for line, source in zip(done.stdout.splitlines(), sources):
        assert line.startswith(f"UserError {source}: cannot be opened (Permission denied)"), line
        outcomes["refused in one line"] += 1


@pytest.mark.tried("Video", "camera that stops, or never sends",
                   "frames until then, and a log line; or refused in one line")
def test_camera_sends_until_it_stops(monkeypatch, log):
    monkeypatch.setattr("inference.video_input.cv2.VideoCapture", FakeCamera)
    frames = open_frames("1")
    assert (frames.name, frames.count, frames.size, frames.fps) == ("camera 1", None, (16, 24), 30.0)
    assert all((image == picture(i)).all() for i, image in enumerate(frames))
    assert log.messages == ["camera 1: stopped sending after 3 frames"]
    assert open_frames("1", fps=15).fps == 15
    with pytest.raises(UserError, match="camera 0: does not open, or sends nothing; .*check its number"):
        open_frames("0")


@pytest.mark.tried("Video", "camera whose frames change their size midway", "stops there, with a log line")
def test_camera_that_changes_its_size(monkeypatch, log):
    monkeypatch.setattr("inference.video_input.cv2.VideoCapture", FakeCamera)
    assert [image.shape for image in open_frames("2")] == [(16, 24, 3)] * 3
    assert log.messages == ["camera 2: stopped after 3 frames of 24 x 16 pixels; the next has 48 x 32"]


@pytest.mark.tried("Video", "camera numbers that there are not", "refused in one line")
@pytest.mark.parametrize("number", ["97", "100", "2147483648", "99999999999999999999"])
def test_camera_that_is_not_there(number):
    with pytest.raises(UserError, match=f"camera {number}: (does not open, or sends nothing|no such camera); "):
        open_frames(number)


@pytest.mark.tried("Video", "source that is neither file nor folder, or has an impossible name", "refused in one line")
@pytest.mark.parametrize(
    "name, message",
    [
        ("queue.mp4", "queue.mp4: neither a file nor a folder; --video takes"),
        ("nowhere.mp4", "nowhere.mp4: no such file; --video takes"),
        ("round.mp4", "round.mp4: (no such file|cannot be opened)"),
        ("a.mp4/b.mp4", "a.mp4/b.mp4: no such file"),
        ("a" * 300, r"aaa: cannot be opened \(File name too long\)"),
        ("a/" * 3000, r"a/a/: cannot be opened \(File name too long\)"),
    ],
)
def test_source_that_is_no_file(tmp_path, name, message):
    os.mkfifo(tmp_path / "queue.mp4")
    (tmp_path / "nowhere.mp4").symlink_to("gone.mp4")
    (tmp_path / "round.mp4").symlink_to("round.mp4")
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UserError, match=message):
        open_frames(f"{tmp_path}/{name}")


@pytest.mark.tried("Video", "PNG renamed to .mp4", "read as the one frame that it is")
def test_picture_that_is_called_a_video(tmp_path):
    write_pictures(tmp_path, ["a.png"])
    os.replace(tmp_path / "a.png", tmp_path / "a.mp4")
    assert [(image == picture(0)).all() for image in open_frames(str(tmp_path / "a.mp4"))] == [True]


@pytest.mark.tried("Video", UNREADABLE, "refused in one line")
@pytest.mark.parametrize("ending", [".mp4", ".avi", ".mkv", ""])
def test_random_bytes(tmp_path, ending):
    (tmp_path / f"a{ending}").write_bytes(np.random.default_rng(len(ending)).bytes(50_000))
    with pytest.raises(UserError, match=r"cannot be read as a video \(50000 bytes; damaged, cut off, or not a video\)"):
        open_frames(str(tmp_path / f"a{ending}"))


@pytest.mark.tried("Video", UNREADABLE, "refused in one line")
def test_video_without_its_index(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moov") - 4])
    with pytest.raises(UserError, match=r"a.mp4: cannot be read as a video \(\d+ bytes; damaged"):
        open_frames(str(path))


@pytest.mark.tried("Video", UNREADABLE, "refused in one line")
@pytest.mark.parametrize(
    "name, content, message",
    [
        ("words.mp4", b"some words\n" * 50, r"words.mp4: cannot be read as a video \(550 bytes"),
        ("missing.mp4", None, "missing.mp4: no such file; --video takes a video file, an address, a folder"),
        ("*.png", None, r"\*.png: no pictures found \(.bmp, .jpeg, .jpg"),
        ("", None, "no pictures found"),
        ("junk.mp4", bytes(500), r"junk.mp4: cannot be read as a video \(500 bytes; damaged, cut off, or not a"),
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


@pytest.mark.tried("Video", "video without a frame", "refused in one line")
@pytest.mark.parametrize("ending", [".mp4", ".avi", ".mkv"])
def test_video_of_no_frames(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, (24, 16)).release()
    with pytest.raises(UserError,
                       match=rf"a{ending}: (no frame of the video can be read|cannot be read as a video) \("):
        open_frames(str(path))


@pytest.mark.tried("Video", "video without a frame", "refused in one line")
def test_video_without_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", count=1)
    content = path.read_bytes()
    at = content.index(b"mdat") + 4
    size = int.from_bytes(content[at - 8 : at - 4], "big") - 8
    path.write_bytes(content[:at] + bytes(size) + content[at + size :])
    with pytest.raises(UserError, match=r"a.mp4: (no frame of the video|cannot be read as a video)"):
        open_frames(str(path))
