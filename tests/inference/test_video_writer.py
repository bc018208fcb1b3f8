"""Videos and label maps that open again, whole, or are not there."""
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from config.errors import UserError
from inference.video_writer import ENDINGS, VideoFile, check_output
from tests.films import opened, padded
from utils.visualize import write_picture

ROOT = Path(__file__).resolve().parents[2]
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, {bytes})); import numpy as np; "


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """RGB (H,W,3): left half and right half of two colours, the right one brighter with every frame."""
    image = np.full((*size, 3), (200, 60, 30), np.uint8)
    image[:, size[1] // 2 :] = (20, 40, min(255, 60 + 20 * number))
    return image


@pytest.mark.parametrize("size", [(32, 64), (8, 8), (9, 13), (101, 67), (64, 33), (33, 64)])
@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_video_keeps_size_rate_count_and_colours(tmp_path, ending, codec, size):
    path = tmp_path / "new" / f"a{ending}"
    with VideoFile(path, fps=29.97, codec=codec) as video:
        for i in range(5):
            video.write(picture(i, size))
    rate, count, frames = opened(path)
    assert rate == pytest.approx(29.97, abs=1e-3) and count == len(frames) == 5
    for i, frame in enumerate(frames):
        assert frame.shape == (*(padded(size) if codec == "h264" else size), 3)
        frame = frame[: size[0], : size[1]]
        assert np.abs(frame[:, 0].astype(int) - picture(i, size)[:, 0]).max() < 24
        assert np.abs(frame[:, -1].astype(int) - picture(i, size)[:, -1]).max() < 24
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.tried("Video", "videos of 1 x 1 to 9 x 9 pixels, as MP4, AVI and Matroska",
                   "written, and read again in their size, or with one row or column more")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_smallest_sizes(tmp_path, outcomes, codec, ending):
    for size in itertools.product(range(1, 10), repeat=2):
        with VideoFile(tmp_path / f"a{ending}", 25, codec=codec) as video:
            for i in range(3):
                video.write(picture(i, size))
        _, count, frames = opened(tmp_path / f"a{ending}")
        shape = (*(padded(size) if codec == "h264" else size), 3)
        assert count == 3 and [frame.shape for frame in frames] == [shape] * 3
        outcomes["written, and read again in their size, or with one row or column more"] += 1


def test_sides_that_an_encoder_does_not_take(tmp_path):
    with VideoFile(tmp_path / "a.mkv", 25, codec="h265") as video:
        video.write(picture(0, (16, 16)))
    message = "b.mkv: FFmpeg cannot write 15 x 13 pixels at 25 frames a second with --codec h265 .*; choose another"
    with pytest.raises(UserError, match=message), VideoFile(tmp_path / "b.mkv", 25, codec="h265") as video:
        video.write(picture(0, (13, 15)))
    assert os.listdir(tmp_path) == ["a.mkv"]


@pytest.mark.tried("Video", "frames larger than H.264 knows, and than JPEG knows",
                   "written as Motion JPEG, the latter refused")
@pytest.mark.parametrize("size", [(16, 8190), (16, 8192), (8192, 16), (15, 16385), (2, 65500)])
@pytest.mark.parametrize("ending", ENDINGS)
def test_largest_sizes(tmp_path, ending, size):
    path = tmp_path / f"a{ending}"
    with VideoFile(path, 25) as video:
        video.write(picture(0, size))
    assert [frame.shape for frame in opened(path)[2]] == [(*(size if max(size) > 16384 else padded(size)), 3)]
    with pytest.raises(UserError,
                       match=f"b{ending}: a video has at most 65500 pixels a side, not 65501 x 2; scale it down"):
        VideoFile(tmp_path / f"b{ending}", 25).write(picture(0, (2, 65501)))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.tried("Video", "frame rates from 0.01 to 1000 a second, and beyond", "kept, or refused in one line")
@pytest.mark.parametrize("size", [(16, 16), (15, 15)])
@pytest.mark.parametrize("ending", ENDINGS)
def test_slowest_and_fastest_rates(tmp_path, outcomes, ending, size):
    path = tmp_path / f"a{ending}"
    for rate, count in itertools.product((0.01, 0.1, 0.3, 499, 655, 700.55, 1000), (1, 2, 5)):
        with VideoFile(path, rate) as video:
            for i in range(count):
                video.write(picture(i, size))
        found, _, frames = opened(path)
        assert found == pytest.approx(rate, rel=1e-2) and len(frames) == count
        outcomes["kept"] += 1
    for rate in (0.0, 1e-9, 0.0099, 1000.1, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError,
                           match=f"b{ending}: a video has 0.01 to 1000 frames a second, not .*; "
                                 "set another rate with --fps"):
            VideoFile(tmp_path / f"b{ending}", rate).write(picture(0, size))
        outcomes["refused in one line"] += 1
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("rate", [0.5, 12.5, 23.976, 30000 / 1001, 59.94, 120])
@pytest.mark.parametrize("size", [(16, 16), (15, 15)])
def test_rate_and_count_of_one_frame(tmp_path, rate, size):
    for ending in ENDINGS:
        with VideoFile(tmp_path / f"a{ending}", rate) as video:
            video.write(picture(0, size))
        found, count, frames = opened(tmp_path / f"a{ending}")
        assert found == pytest.approx(rate, rel=1e-4) and count == len(frames) == 1


@pytest.mark.tried("Video", "error while a video is written", "what was there before stays, nothing half-written")
def test_error_keeps_what_was_there_before(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"of before")
    with pytest.raises(ZeroDivisionError):
        with VideoFile(path, 25) as video:
            video.write(picture(0, (16, 16)))
            raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["a.mp4"] and path.read_bytes() == b"of before"


def test_without_a_frame_there_is_no_file(tmp_path):
    with VideoFile(tmp_path / "a.mp4", 25):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.tried("Video", "pictures of several sizes for one video", "refused in one line, with both sizes")
def test_frame_of_another_size_is_named_with_both_sizes(tmp_path):
    message = r"a.mp4: street_7 has 18 x 16 pixels, the frames before it 16 x 16; all frames of a video have one size"
    with pytest.raises(UserError, match=message):
        with VideoFile(tmp_path / "a.mp4", 25) as video:
            video.write(picture(0, (16, 16)))
            video.write(picture(0, (16, 18)), "street_7")
    assert os.listdir(tmp_path) == []


@pytest.mark.tried("Video", "output in a file's place, of another ending, or where a folder is",
                   "refused in one line, nothing left")
def test_places_where_no_video_can_be(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    for name, message in [
        ("a.mov", "a.mov: is not the name of a video; use one that ends in .mp4, .avi, .mkv"),
        ("file/a.mp4", r"a.mp4: cannot be written \("),
        ("folder.mp4", "folder.mp4: is a folder"),
    ]:
        with pytest.raises(UserError, match=message):
            VideoFile(tmp_path / name, 25).write(picture(0, (16, 16)))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4"]


def on_a_full_disk(code: str, room: int) -> subprocess.CompletedProcess:
    """Runs code where no file may become larger than `room` bytes."""
    code = FULL_DISK.format(bytes=room) + code  # -B: Python would keep a byte code file that is cut off
    return subprocess.run([sys.executable, "-B", "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True,
                          text=True)


@pytest.mark.tried("Video", "file that may not grow any further", "refused in one line, nothing half-written")
@pytest.mark.parametrize("size", [(64, 64), (63, 63)])
@pytest.mark.parametrize("ending", ENDINGS)
def test_full_disk_is_noticed_and_nothing_half_written_stays(tmp_path, ending, size):
    done = on_a_full_disk(
        "from inference.video_writer import VideoFile, silence_codecs\n"
        "silence_codecs(); rng = np.random.default_rng(0)\n"
        f"with VideoFile({str(tmp_path / 'a')!r} + {ending!r}, 25) as video:\n"
        f"    for _ in range(60): video.write(rng.integers(0, 255, ({size[0]}, {size[1]}, 3), np.uint8))",
        room=30_000,
    )
    assert f"a{ending}: the video could not be written completely" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.tried("Video", "disk that fills up in the middle of a long video",
                   "noticed when FFmpeg's buffer of 256 KiB is full")
def test_full_disk_is_noticed_soon(tmp_path):
    done = on_a_full_disk(
        "from inference.video_writer import VideoFile, silence_codecs\n"
        "silence_codecs(); rng = np.random.default_rng(0)\n"
        f"with VideoFile({str(tmp_path / 'a.avi')!r}, 25) as video:\n"
        "    for i in range(1000):\n"
        "        print(i, flush=True); video.write(rng.integers(0, 255, (64, 64, 3), np.uint8))",
        room=30_000,
    )
    assert "a.avi: the video could not be written completely" in done.stderr
    # 2.8 KB each
    assert int(done.stdout.split()[-1]) < 120 and os.listdir(tmp_path) == []


@pytest.mark.tried("Video", "output folder that is removed meanwhile", "refused in one line")
def test_folder_that_is_removed(tmp_path):
    with pytest.raises(UserError, match=r"a.mp4: cannot be written \(No such file or directory\)"):
        with VideoFile(tmp_path / "b" / "a.mp4", 25) as video:
            video.write(picture(0, (16, 16)))
            shutil.rmtree(tmp_path / "b")


def test_check_of_an_output_writes_nothing(tmp_path):
    for name in ("a.mp4", "new/deep/a.mp4", "labels", "new/labels"):
        check_output(tmp_path / name, 25)
    assert os.listdir(tmp_path) == []


def test_label_maps_are_written_whole(tmp_path):
    folder, ids = tmp_path / "new", np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_picture(folder / "frame_000001.png", ids)
    write_picture(folder / "aachen" / "frame_000001.png", ids)
    read = cv2.imread(str(tmp_path / "new" / "aachen" / "frame_000001.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint8 and (read == ids).all()
    assert sorted(os.listdir(tmp_path / "new")) == ["aachen", "frame_000001.png"]


@pytest.mark.tried("Video", "label maps in a file's place, or that may not grow any further",
                   "refused in one line, nothing half-written")
def test_places_where_no_label_map_can_be(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "a.png").mkdir(parents=True)
    with pytest.raises(UserError, match=r"folder/a.png: cannot be written \(Is a directory\)"):
        write_picture(tmp_path / "folder" / "a.png", np.zeros((2, 2), np.uint8))
    assert os.listdir(tmp_path / "folder") == ["a.png"]
    with pytest.raises(UserError, match=r"file/a.png: cannot be written \("):
        write_picture(tmp_path / "file" / "a.png", np.zeros((2, 2), np.uint8))
    done = on_a_full_disk(
        "from pathlib import Path; from utils.visualize import write_picture\n"
        f"path, rng = Path({str(tmp_path / 'new' / 'a.png')!r}), np.random.default_rng(0)\n"
        "write_picture(path, rng.integers(0, 255, (64, 64), np.uint8))",
        room=1000,
    )
    assert "new/a.png: cannot be written (File too large)" in done.stderr
    assert os.listdir(tmp_path / "new") == []


@pytest.mark.tried("Video", "overlay picture that may not grow any further",
                   "refused in one line, the picture of before stays")
def test_picture_that_does_not_fit(tmp_path):
    (tmp_path / "a.png").write_bytes(b"of before")
    done = on_a_full_disk(
        "from pathlib import Path; from utils.visualize import write_picture\n"
        f"rng, path = np.random.default_rng(0), Path({str(tmp_path / 'a.png')!r})\n"
        "write_picture(path, rng.integers(0, 255, (64, 64, 3), np.uint8))",
        room=1000,
    )
    assert "a.png: cannot be written (File too large)" in done.stderr
    assert os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == b"of before"
