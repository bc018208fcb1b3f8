"""`--video`, `--export` and torch.hub with what cannot be: one line, nothing half-written, never a hang."""
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import pytest
import torch

from config.errors import UserError
from inference import containers, engine_choice, video
from inference.engines import Engine
from inference.video_writer import VideoFile
from tests.films import opened, padded, picture, write_pictures, write_video
from tests.tried import THOROUGH

ROOT = Path(__file__).resolve().parents[2]
ERRORS = [RuntimeError("broken\nin two lines"), MemoryError(), cv2.error("of OpenCV"), OSError(5, "Input/output error"),
          UserError("fix it"), KeyError("x"), AssertionError()]
ANY_ERROR = "error of any kind in the reading thread, the networks, the writing thread, the encoder"
SMALL = "small and odd frames, of 1 x 1 too, through the whole program"
KEPT = "segmented, written in their size; as H.264 with one row or column more where it is odd"
UNWRITABLE = "output that cannot be written: in a file's place, of the other kind, a broken link, forbidden"


@pytest.fixture(autouse=True)
def every_thread_ends():
    before = set(threading.enumerate())
    yield
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if name.startswith(("read ahead", "write behind"))}


class FakeCamera:
    """Stands in for cv2.VideoCapture: sends frames of these sizes, then nothing; slowly, so that none is dropped."""

    def __init__(self, sizes: list[tuple[int, int]]):
        self.frames = [picture(i, size) for i, size in enumerate(sizes)]

    def read(self):
        time.sleep(0.5)
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def get(self, what):
        return 0.0

    def release(self):
        pass


def install_camera(monkeypatch, sizes: list[tuple[int, int]]) -> None:
    """Let camera 0 be a fake one."""
    usual = cv2.VideoCapture
    def opened_as(which, *how):
        return FakeCamera(sizes) if which == 0 else usual(which, *how)

    monkeypatch.setattr(cv2, "VideoCapture", opened_as)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.tried("Video", "camera that stops, or never sends",
                   "frames until then, and a log line; or refused in one line")
@pytest.mark.parametrize("count", [0, 1, 5])
def test_camera_that_stops(call, tmp_path, monkeypatch, count):
    install_camera(monkeypatch, [(16, 24)] * count)
    status, err, out = call("--video", "0", "--output", tmp_path / "a.avi", tmp_path / "labels")
    if count:
        assert (status, err) == (0, []) and f"camera 0: stopped sending after {count} frames" in out
        assert len(opened(tmp_path / "a.avi")[2]) == len(list((tmp_path / "labels").iterdir())) == count
    else:
        assert (status, len(err)) == (2, 1) and err[0].startswith("error: camera 0: does not open, or sends nothing; ")
        assert files_in(tmp_path) == []


@pytest.mark.tried("Video", "camera whose frames change their size midway", "stops there, with a log line")
def test_camera_that_changes_its_size(call, tmp_path, monkeypatch):
    install_camera(monkeypatch, [(16, 24)] * 4 + [(32, 48)] * 3)
    status, err, out = call("--video", "0", "--output", tmp_path / "a.mp4", tmp_path / "labels")
    assert (status, err) == (0, [])
    assert "camera 0: stopped after 4 frames of 24 x 16 pixels; the next has 48 x 32" in out
    assert len(opened(tmp_path / "a.mp4")[2]) == len(list((tmp_path / "labels").iterdir())) == 4


@pytest.mark.tried("Video", SMALL, KEPT)
def test_pictures_of_every_small_size(call, tmp_path, outcomes):
    sizes = [(height, width) for height in (1, 2, 3, 5, 7, 8, 9) for width in (1, 2, 3, 5, 7, 8, 9)] + [(1, 600),
                                                                                                        (600, 1)]
    for number, size in enumerate(sizes):
        write_pictures(tmp_path / "in", [f"{number:02d}.png"], size=size)
    assert call("--video", tmp_path / "in", "--output", tmp_path / "labels")[:2] == (0, [])
    for number, size in enumerate(sizes):
        assert cv2.imread(str(tmp_path / "labels" / f"{number:02d}.png"), cv2.IMREAD_UNCHANGED).shape == size
        outcomes[KEPT] += 1


@pytest.mark.tried("Video", SMALL, KEPT)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (9, 13)])
@pytest.mark.parametrize("style", ["overlay", "side-by-side"])
@pytest.mark.parametrize("count", [1, 4])
def test_small_videos(call, tmp_path, size, style, count):
    source = write_video(tmp_path / "in.avi", count=count, size=size)
    assert call("--video", source, "--output", tmp_path / "a.mp4", "--style", style)[:2] == (0, [])
    height, width = padded(size)  # in.avi
    shape = padded((height, width * (2 if style == "side-by-side" else 1)))
    assert [frame.shape for frame in opened(tmp_path / "a.mp4")[2]] == [(*shape, 3)] * count


@pytest.mark.tried("Video", UNWRITABLE, "refused in one line before the weights are read, nothing left")
@pytest.mark.parametrize(
    "output, message",
    [
        ("file/a.mp4", r"file/a.mp4: cannot be written \(Not a directory\); free some space, or choose another folder"),
        ("file/deep/a.avi", r"file/deep/a.avi: cannot be written \(Not a directory\)"),
        ("file/labels", r"file/labels: cannot be written \(Not a directory\)"),
        ("file", r"file: cannot be written \(Not a directory\)"),
        ("folder.mp4", "folder.mp4: is a folder, not a video file; choose another name"),
        ("gone/labels", r"gone/labels: cannot be written \(No such file or directory\)"),
        ("gone/a.mkv", r"gone/a.mkv: cannot be written \(No such file or directory\)"),
        ("/proc/nowhere/a.mp4", r"/proc/nowhere/a.mp4: cannot be written \("),
        ("/proc/nowhere/labels", r"/proc/nowhere/labels: cannot be written \("),
        ("n" * 300 + ".mp4", r"nnn.mp4: cannot be written \(File name too long\)"),
        ("n" * 300, r"nnn: cannot be written \(File name too long\)"),
        (os.fsdecode(b"\xff.mp4"), "its name is not UTF-8; rename it"),
        (os.fsdecode(b"\xff"), "its name is not UTF-8; rename it"),
    ],
)
def test_outputs_that_cannot_be_written(call, tmp_path, monkeypatch, output, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video, "networks_for_inference", None)
    write_video(tmp_path / "in.avi")
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "gone").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    status, err, _ = call("--video", "in.avi", "--output", output)
    assert (status, len(err)) == (2, 1) and re.search(f"^error: .*{message}", err[0]), err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.tried("Video", UNWRITABLE, "refused in one line before the weights are read, nothing left")
def test_outputs_that_are_forbidden(tmp_path, outcomes):
    write_video(tmp_path / "in.avi")
    (tmp_path / "closed").mkdir(mode=0o500)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    code = "import sys; from main import main; words = ['--video', 'in.avi', '--resume', '1', '--output']; "
    code += "print([main([*words, x]) for x in sys.argv[1:]])"
    outputs = ["closed/a.mp4", "closed/labels", "closed/new/a.avi"]
    done = subprocess.run([*powerless, sys.executable, "-c", code, *outputs], cwd=tmp_path,
                          env={"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)
    if "setpriv:" in done.stderr:
        pytest.skip("root cannot drop its capabilities here (setpriv)")
    lines = done.stderr.splitlines()
    assert done.stdout == "[2, 2, 2]\n" and len(lines) == 3, done.stderr
    for line, output in zip(lines, outputs):
        assert line.startswith(f"error: {output}: cannot be written (Permission denied)")
        outcomes["refused in one line before the weights are read, nothing left"] += 1
    assert files_in(tmp_path) == ["in.avi"]


@pytest.mark.tried("Video", "frame rates from 0.01 to 1000 a second, and beyond", "refused in one line")
@pytest.mark.parametrize("rate", ["0.0099", "1e-9"])
def test_rates_that_cannot_be_written(call, tmp_path, monkeypatch, rate):
    monkeypatch.setattr(video, "networks_for_inference", None)
    source = write_video(tmp_path / "in.avi")
    status, err, _ = call("--video", source, "--output", tmp_path / "a.mp4", "--fps", rate)
    assert (status, len(err)) == (2, 1)
    assert re.match(r"error: \S+a.mp4: a video has 0.01 to 1000 frames a second, not .*; set another rate with --fps",
                    err[0])
    assert files_in(tmp_path) == ["in.avi"]


@pytest.mark.tried("Video", ANY_ERROR, "a prompt end with one line, nothing half-written")
@pytest.mark.parametrize("place", ["reader", "networks", "labels", "painter", "video", "video's end", "label map"])
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_errors_of_any_kind(call, tmp_path, monkeypatch, place, error):
    source = write_video(tmp_path / "in.avi", count=30)
    owner, name = {
        "reader": (containers, "_upright"), "networks": (Engine, "next"), "labels": (Engine, "labels"),
        "painter": (video, "overlay"),
        "video": (VideoFile, "write"), "video's end": (VideoFile, "_complete"),
        "label map": (video, "write_picture"),
    }[place]
    usual, calls = getattr(owner, name), itertools.count()

    def broken(*given, **named):
        if next(calls) >= 8 or place == "video's end":
            raise error
        return usual(*given, **named)

    monkeypatch.setattr(owner, name, broken)
    monkeypatch.setitem(video.STYLES, "overlay", lambda *given: video.overlay(*given))
    (tmp_path / "a.mp4").write_bytes(b"of before")
    status, err, _ = call("--video", source, "--output", tmp_path / "a.mp4", tmp_path / "labels")
    assert status == (1 if type(error) in (RuntimeError, KeyError, AssertionError, cv2.error) else 2)
    assert len(err) == 1 and err[0].startswith("error: "), err
    assert (tmp_path / "a.mp4").read_bytes() == b"of before"
    assert not [path for path in files_in(tmp_path) if "tmp" in path]
    for path in (tmp_path / "labels").glob("*"):
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (16, 24)


@pytest.mark.tried("Video", "engine that is not installed", "the named one refused in one line, auto does without")
def test_engine_that_is_missing(call, tmp_path, monkeypatch):
    source = write_video(tmp_path / "in.avi")
    for name in ("onnxruntime", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    status, err, _ = call("--video", source, "--output", tmp_path / "a.mp4", "--engine", "onnx")
    assert (status, len(err)) == (2, 1)
    assert re.match("error: --engine onnx: .*; install the packages: pip install onnxruntime", err[0])
    assert files_in(tmp_path) == ["in.avi"]
    status, err, out = call("--video", source, "--output", tmp_path / "a.mp4", "--engine", "auto")
    assert (status, err) == (0, []) and "--engine auto: eager; " in out
    monkeypatch.setitem(engine_choice.SET_UP, "onnx", 0.0)
    status, err, out = call("--video", source, "--output", tmp_path / "a.mp4", "--engine", "auto")
    assert (status, err) == (0, []) and "onnx skipped: " in out


@pytest.mark.slow
@pytest.mark.tried("Video", "engine whose compiler is missing or fails",
                   "the named one refused in one line, auto does without")
@pytest.mark.parametrize("compiler", ["/nowhere/g++", "/bin/false"] if THOROUGH else ["/bin/false"])
def test_compiler_that_fails(weights, tmp_path, compiler):
    source = write_video(tmp_path / "in.avi")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CXX": compiler,
                   "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    code = "import sys; from main import main; from inference import engine_choice\n"
    code += "engine_choice.SET_UP['compile'] = 0.0\n"
    command = [sys.executable, "-c", code + "sys.exit(main(sys.argv[1:]))", "--weights-dir", str(weights), "--resume",
               "1",
               "--device", "cpu", "--video", str(source), "--output", str(tmp_path / "a.mp4"), "--engine"]
    done = subprocess.run([*command, "compile"], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --engine compile does not work here: "), done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "a.mp4").exists()
    done = subprocess.run([*command, "auto"], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "compile skipped: " in done.stdout
    assert len(opened(tmp_path / "a.mp4")[2]) == 5


@pytest.mark.tried("Video", "--export into a file's place, and of a size too small",
                   "refused in one line, nothing left")
@pytest.mark.parametrize(
    "words, message",
    [
        (["--export", "file"],
         r"file: cannot be written \(File exists\); free some space, or choose another folder for --export"),
        (["--export", "file/out"], r"file/out: cannot be written \(Not a directory\)"),
        (["--export", "out", "--export-size", "31", "64"], "--export-size must be at least 32, not 31"),
        (["--export", "out", "--export-size", "64"], "--export-size: expected 2 arguments"),
    ],
)
def test_exports_that_cannot_be(call, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    status, err, _ = call(*words)
    assert (status, len(err)) == (2, 1) and re.search(f"^error: .*{message}", err[0]), err
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.tried("Video", "invalid entry points and settings of torch.hub", "refused by name")
@pytest.mark.parametrize(
    "name, settings, error, message",
    [
        ("gsvnet_swiftnett", {}, RuntimeError, "Cannot find callable gsvnet_swiftnett in hubconf"),
        ("gsvnet_swiftnet", {}, UserError, "give either weights_dir=FOLDER, of the released files, or run=FOLDER"),
        ("gsvnet_bisenet", {"weights_dir": "nowhere"}, UserError, "nowhere: no such folder"),
        ("gsvnet_swiftnet", {"run": "nowhere"}, UserError, "parameters.json: not the options of a run"),
        ("gsvnet_swiftnet", {"weights": "nowhere"}, UserError, "give either weights_dir=FOLDER"),
        ("gsvnet_swiftnet", {"weights_dir": True, "engine": "tensorrt"}, UserError,
         "no engine 'tensorrt'; choose one of: eager"),
        ("gsvnet_swiftnet", {"weights_dir": True, "amp": "half"}, UserError,
         "no precision 'half'; choose one of: fp32, bf16, fp16, int8"),
        ("gsvnet_swiftnet", {"weights_dir": True, "scale": 0}, UserError, "a number above 0, not 0"),
        ("gsvnet_swiftnet", {"weights_dir": True, "intervall": 3}, TypeError,
         "unexpected keyword argument 'intervall'"),
        ("swiftnet", {"weights": "nowhere.pt"}, UserError, "nowhere.pt: not found"),
    ],
)
def test_hub(weights, name, settings, error, message):
    given = {key: str(weights) if value is True else value for key, value in settings.items()}
    with pytest.raises(Exception, match=message) as raised:
        torch.hub.load(str(ROOT), name, source="local", **given)
    assert type(raised.value).__name__ == error.__name__
