"""`--video IN --output OUT`: what is written, under which names, and what is refused."""
import os
import re
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from config.camvid import CAMVID
from config.cityscapes import CITYSCAPES
from config.command_line import parse
from config.errors import UserError
from dataloaders.images import id_table
from inference.stream import VideoSegmenter
from inference.video_input import open_frames
from inference.video_writer import VideoFile
from main import main
from streets import StreetSettings
from tests.films import padded, write_video
from tests.main.program import Program
from tests.released import write_released_files

ROOT = Path(__file__).resolve().parents[2]
SIZE = (64, 128)


@pytest.fixture
def call(weights, monkeypatch):
    """Run the program in this process with the released files; the rendered street is a small one."""
    monkeypatch.setattr("inference.video_input.DEMO_STREET", StreetSettings(*SIZE, length=7))
    common = ["--weights-dir", str(weights), "--resume", "1", "--device", "cpu"]
    return lambda *words: main(common + [str(word) for word in words])


@pytest.fixture
def expected(call, weights):
    """Class indices of the rendered street's frames, keyframes every third."""
    return list(VideoSegmenter.from_released(weights).stream(open_frames("demo")))


def opened(path: Path) -> tuple[float, list[np.ndarray]]:
    """A video's rate, and its frames, RGB."""
    reader, frames = cv2.VideoCapture(str(path)), []
    while True:
        good, frame = reader.read()
        if not good:
            assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == len(frames)
            return reader.get(cv2.CAP_PROP_FPS), frames
        frames.append(frame[..., ::-1])


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.iterdir())}


def write_pictures(folder: Path, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    folder.mkdir()
    pictures = [np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8) for i, size in enumerate(sizes)]
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"view_{number + 9}.png"), picture[..., ::-1])
    return pictures


def test_video_and_label_maps_are_what_the_segmenter_finds(call, expected, tmp_path, capsys):
    video, folder = tmp_path / "out" / "street.mp4", tmp_path / "out" / "labels"
    assert call("--video", "demo", "--output", folder, video, "--style", "colour") == 0
    maps = label_maps(folder)
    assert list(maps) == [f"frame_{i:06d}.png" for i in range(7)]
    for found, indices in zip(maps.values(), expected):
        assert found.dtype == np.uint8 and (found == id_table(CITYSCAPES)[indices]).all()
    rate, frames = opened(video)
    assert rate == 30 and len(frames) == 7
    colours = np.array(CITYSCAPES.colours, np.uint8)
    for frame, indices in zip(frames, expected):
        assert frame.shape == (*SIZE, 3)
        assert np.median(np.abs(frame.astype(int) - colours[indices])) < 12
    out = capsys.readouterr().out
    assert "demo: 128 x 64 pixels, 30 frames a second" in out
    assert re.search(r"7 frames \(3 keyframes\) in [\d.]+ s: [\d.]+ FPS .*; written: .*street.mp4, .*labels", out)
    assert sorted(os.listdir(tmp_path / "out")) == ["labels", "street.mp4"]


def test_class_indices_and_no_video(call, expected, tmp_path):
    assert call("--video", "demo", "--output", tmp_path / "labels", "--ids", "train") == 0
    assert all((a == b).all() for a, b in zip(label_maps(tmp_path / "labels").values(), expected))
    assert os.listdir(tmp_path) == ["labels"]


def test_overlay_shows_the_frame_and_side_by_side_both(call, tmp_path):
    source = write_video(tmp_path / "in.avi", count=2, size=SIZE)
    shown = list(open_frames(str(source)))
    assert call("--video", source, "--output", tmp_path / "over.mkv") == 0
    assert call("--video", source, "--output", tmp_path / "both.mp4", "--style", "side-by-side", "--fps", "12") == 0
    rate, over = opened(tmp_path / "over.mkv")
    assert rate == pytest.approx(29.97, abs=1e-3) and over[0].shape == (*SIZE, 3)
    rate, both = opened(tmp_path / "both.mp4")
    assert rate == 12 and both[0].shape == (64, 256, 3)
    for i in range(2):
        assert np.abs(both[i][:, :120].astype(int) - shown[i][:, :120]).mean() < 8
        mixed = 0.45 * shown[i] + 0.55 * both[i][:, 128:]
        assert np.median(np.abs(over[i] - mixed)) < 12


@pytest.mark.tried("Video", "small and odd frames, of 1 x 1 too, through the whole program",
                   "segmented, written in their size; as H.264 with one row or column more where it is odd")
@pytest.mark.parametrize("size, count", [((8, 8), 3), ((9, 13), 3), ((101, 67), 2), ((48, 33), 1)])
def test_odd_and_small_frames_keep_size_and_names(call, weights, tmp_path, size, count):
    pictures = write_pictures(tmp_path / "in", [size] * count)
    assert call("--video", tmp_path / "in" / "view_*.png", "--output", tmp_path / "a.mp4", tmp_path / "labels", "--ids",
                "train",
                "--fps", "17") == 0
    rate, frames = opened(tmp_path / "a.mp4")
    assert rate == 17 and [frame.shape for frame in frames] == [(*padded(size), 3)] * count
    maps = label_maps(tmp_path / "labels")
    assert sorted(maps) == sorted(f"view_{i + 9}.png" for i in range(count))
    for i, labels in enumerate(VideoSegmenter.from_released(weights).stream(pictures)):
        assert (maps[f"view_{i + 9}.png"] == labels).all()


@pytest.mark.tried("Video", "pictures of several sizes for one video", "refused in one line, with both sizes")
def test_change_of_size_ends_a_video_and_begins_a_new_stream_in_a_folder(call, tmp_path, capsys):
    write_pictures(tmp_path / "in", [(16, 24), (16, 24), (24, 16)])
    assert call("--video", tmp_path / "in", "--output", tmp_path / "a.mp4") == 2
    assert re.fullmatch(r"error: \S+a.mp4: view_11 has 16 x 24 pixels, the frames before it 24 x 16; all frames .*",
                        capsys.readouterr().err.strip())
    assert os.listdir(tmp_path) == ["in"]
    assert call("--video", tmp_path / "in", "--output", tmp_path / "labels") == 0
    assert "3 frames (2 keyframes)" in capsys.readouterr().out
    # 10, 11, 9
    assert [ids.shape for ids in label_maps(tmp_path / "labels").values()] == [(16, 24), (24, 16), (16, 24)]


@pytest.mark.parametrize(
    "words, keyframes",
    [
        (["--interval", "4"], 2),
        (["--schedule", "cut", "--interval", "4"], 3),
        (["--schedule", "cut", "--interval", "9", "--cut-threshold", "99"], 1),
        (["--schedule", "budget", "--budget", "1e-6"], 1),
        (["--schedule", "budget", "--budget", "1e6"], 8),
        (["--method", "per-frame"], 8),
    ],
)
def test_schedules(call, tmp_path, capsys, words, keyframes):
    source = tmp_path / "in.mp4"
    with VideoFile(source, 25) as video:
        for i in range(8):
            video.write(np.full((*SIZE, 3), 220 if 3 <= i else 40, np.uint8))
    assert call("--video", source, "--output", tmp_path / "labels", *words) == 0
    assert f"8 frames ({keyframes} keyframes)" in capsys.readouterr().out


@pytest.mark.slow
def test_other_data_set_without_its_folder(tmp_path, capsys):
    weights = write_released_files(tmp_path / "weights", classes=11)
    write_pictures(tmp_path / "in", [(40, 48)] * 2)
    assert main(["--dataset", "camvid", "--weights-dir", str(weights),
                 "--resume", "1",
                 "--device", "cpu", "--video", str(tmp_path / "in"), "--output", str(tmp_path / "labels")]) == 0
    assert {int(i) for ids in label_maps(tmp_path / "labels").values() for i in np.unique(ids)} <= set(CAMVID.label_ids)


@pytest.mark.tried("Video", "options of --video that contradict each other", "refused in one line")
@pytest.mark.parametrize(
    "words, message",
    [
        (["--video", "demo"], "--video requires --output: a video file"),
        (["--output", "a.mp4"], "--output requires --video IN or --check 1"),
        (["--video", "demo", "--output", "a", "b", "c"], "--output takes one video, one folder, or both, not 3 names"),
        (["--video", "demo", "--output", "a", "--evaluate", "1"],
         "--video and --evaluate 1 exclude each other; choose one"),
        (["--video", "demo", "--output", "a", "--stage", "segnet"], "--video requires --stage gsv"),
        (["--video", "demo", "--output", "a", "--budget", "20"], "--budget has an effect only with --schedule budget"),
        (["--video", "demo", "--output", "a", "--schedule", "budget"],
         "--schedule budget requires --budget MILLISECONDS"),
        (["--video", "demo", "--output", "a", "--cut-threshold", "1"],
         "--cut-threshold has an effect only with --schedule cut"),
        (["--video", "demo", "--output", "a", "--style", "color"],
         r"--style: invalid value 'color' \(did you mean colour\?\)"),
        (["--video", "demo", "--output", "a", "--fps", "-1"], "--fps must be at least 0"),
    ],
)
def test_contradicting_options(words, message):
    with pytest.raises(UserError, match=message):
        parse(words)


@pytest.mark.tried("Video", "sources, outputs and weights that cannot be", "refused in one line, nothing left")
@pytest.mark.parametrize(
    "words, message",
    [
        (["--video", "nowhere.mp4", "--output", "a.mp4"], "nowhere.mp4: no such file"),
        (["--video", "demo", "--output", "a.mp4", "b.avi"], "takes one video .*, one folder, or both"),
        (["--video", "demo", "--output", "a", "b"], "takes one video .*, one folder, or both"),
        (["--video", "demo", "--output", "a.mov"],
         "--output a.mov: not a name for a video or a folder; a video ends in .mp4, .avi, .mkv"),
        (["--video", "in", "--output", "in"], "view_9.png is read by --video and would be overwritten"),
        (["--video", "in.mp4", "--output", "x/../in.mp4"], "in.mp4 is read by --video and would be overwritten"),
        (["--video", "demo", "--output", "in.mp4/labels"], r"in.mp4/labels: cannot be written \(Not a directory\)"),
        (["--video", "demo", "--output", "a", "--resume", "0", "--method", "gsv"],
         "--video requires a trained propagation: --resume 1 .* --method per-frame"),
        (["--video", "demo", "--output", "a.mp4", "--resume", "nowhere.tar"], "nowhere.tar: not found"),
    ],
)
def test_mistakes_get_one_line_and_write_nothing(call, tmp_path, monkeypatch, capfd, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    write_pictures(tmp_path / "in", [(16, 16)])
    write_video(tmp_path / "in.mp4", count=1, fps=10)
    before = sorted(tmp_path.rglob("*"))
    capfd.readouterr()
    assert call(*words) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(f"^error: .*{message}", lines[0]), lines
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.tried("Video", "picture in a folder that is damaged, or vanishes midway",
                   "named when its turn comes, in one line")
def test_picture_that_cannot_be_read_midway_discards_the_video(call, tmp_path, capfd):
    write_pictures(tmp_path / "in", [(16, 16)] * 3)
    (tmp_path / "in" / "view_10.png").write_bytes(b"torn")
    assert call("--video", tmp_path / "in", "--output", tmp_path / "a.avi", tmp_path / "labels") == 2
    assert re.fullmatch(r"error: \S+view_10.png: not a readable picture \(4 bytes\).*", capfd.readouterr().err.strip())
    assert "a.avi" not in os.listdir(tmp_path) and not list(tmp_path.glob(".*"))


@pytest.mark.tried("Video", "SIGINT, SIGTERM and SIGHUP while it segments",
                   "what was segmented until then is written, whole; status 130, 143 or 129")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupt_completes_what_was_done(weights, tmp_path, number, status):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("SIGHUP is ignored here, as by nohup")
    source = write_video(tmp_path / "in.avi", count=3000, size=SIZE)
    program = Program(
        ["--weights-dir", str(weights), "--resume", "1", "--device", "cpu", "--engine", "eager", "--video", str(source),
         "--output", str(tmp_path / "out" / "a.mp4"), str(tmp_path / "out" / "labels")], tmp_path / "run",
    )
    program.wait_until((tmp_path / "out" / "labels" / "frame_000020.png").is_file)
    program.process.send_signal(number)
    assert (program.status(), program.errors) == (status, "")
    _, frames = opened(tmp_path / "out" / "a.mp4")
    assert 20 < len(frames) < 3000
    assert len(label_maps(tmp_path / "out" / "labels")) == len(frames)
    stopped = rf"stopped by signal {int(number)}; the frames segmented until then are written"
    assert re.search(rf"{len(frames)} frames .*\n.*{stopped}", program.output)
    assert sorted(os.listdir(tmp_path / "out")) == ["a.mp4", "labels"]


@pytest.mark.parametrize("words, message", [
    (("--output", "a.mp4", "--codec", "mjpeg", "--quality", 3), "--quality is for --codec h264 and h265, not mjpeg"),
    (("--output", "labels", "--codec", "h265"), "--codec is for a video, and --output names only a folder of label ma"),
    (("--output", "labels", "--audio", 0), "--audio is for a video, and --output names only a folder of label maps"),
])
def test_options_of_a_video_without_one(call, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert call("--video", "demo", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and "; drop it" in error and os.listdir(tmp_path) == []
