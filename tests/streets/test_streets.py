"""Synthetic streets: reproducible pixels, true flow, correct labels, and motion that makes copying lose."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from config.cityscapes import CITYSCAPES
from config.errors import UserError
from dataloaders.flow_pairs import read_flow
from streets import StreetFrame, StreetSettings, ensure_streets, generate, render_sequence, write_flow
from streets.__main__ import main
from streets.texture import Label

DOOR = "Data"
SMALL = StreetSettings(height=64, width=128, train=2, val=1, length=3, seed=5)
CLASSES = np.array([int(label) for label in Label])


@pytest.fixture(scope="module")
def clips() -> list[list[StreetFrame]]:
    """Six sequences of six frames at 128x256."""
    settings = StreetSettings(height=128, width=256, length=6, seed=3)
    return [list(render_sequence(settings, "train", index)) for index in range(6)]


def follow(frames: list[StreetFrame], now: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each pixel of frame `now` was `steps` frames earlier, rows and columns (H,W), by true flows."""
    height, width = frames[now].label.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    row, column = y.astype(int), x.astype(int)
    for frame in range(now, now - steps, -1):
        flow = frames[frame].flow
        assert flow is not None
        step = flow[row, column]
        x, y = x + step[..., 0], y + step[..., 1]
        row = np.clip(np.rint(y), 0, height - 1).astype(int)
        column = np.clip(np.rint(x), 0, width - 1).astype(int)
    return row, column


def mean_iou(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the mean IoU over classes, pooled over (truth, guess) pairs of labelIds."""
    truth = np.searchsorted(CLASSES, np.concatenate([pair[0].ravel() for pair in pairs]))
    guess = np.searchsorted(CLASSES, np.concatenate([pair[1].ravel() for pair in pairs]))
    table = np.bincount(truth * 19 + guess, minlength=361).reshape(19, 19)
    union = table.sum(0) + table.sum(1) - np.diag(table)
    return float((np.diag(table)[union > 0] / union[union > 0]).mean())


def assert_same(first: list[StreetFrame], second: list[StreetFrame]) -> None:
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_classes_are_those_of_cityscapes() -> None:
    assert [label.name.lower() for label in Label] == [name.split()[-1] for name in CITYSCAPES.classes]
    assert Label.ROAD == 7 and Label.BICYCLE == 33


def test_frames_have_the_documented_form() -> None:
    frames = list(render_sequence(SMALL, "val", 0))
    assert len(frames) == 3
    assert frames[0].flow is None and frames[0].visible is None
    for frame in frames:
        assert frame.image.shape == (64, 128, 3) and frame.image.dtype == np.uint8
        assert frame.label.shape == (64, 128) and frame.label.dtype == np.uint8
        assert np.isin(frame.label, CLASSES).all()
    for frame in frames[1:]:
        assert frame.flow.shape == (64, 128, 2) and frame.flow.dtype == np.float32
        assert np.isfinite(frame.flow).all()
        assert frame.visible.shape == (64, 128) and frame.visible.dtype == bool


def test_rendering_is_deterministic_and_sequences_differ() -> None:
    first = list(render_sequence(SMALL, "train", 1))
    assert_same(first, list(render_sequence(SMALL, "train", 1)))
    for split, index in (("val", 1), ("train", 0)):
        other = next(render_sequence(SMALL, split, index))
        assert (other.label != first[0].label).mean() > 0.1


def test_content_scales_with_resolution() -> None:
    coarse = next(render_sequence(StreetSettings(height=64, width=128), "train", 0)).label
    fine = next(render_sequence(StreetSettings(height=256, width=512), "train", 0)).label
    shrunk = cv2.resize(fine, (128, 64), interpolation=cv2.INTER_NEAREST)
    assert (coarse == shrunk).mean() > 0.88


def test_all_classes_appear(clips: list[list[StreetFrame]]) -> None:
    seen = np.bincount(np.concatenate([frame.label.ravel() for clip in clips for frame in clip]), minlength=256)
    missing = [Label(value).name for value in CLASSES if seen[value] == 0]
    assert not missing


def test_flow_carries_labels_and_colours(clips: list[list[StreetFrame]]) -> None:
    for clip in clips:
        for now in range(1, len(clip)):
            frame, before = clip[now], clip[now - 1]
            row, column = follow(clip, now, 1)
            agree = frame.label == before.label[row, column]
            assert agree[frame.visible].mean() > 0.98
            assert frame.visible.mean() > 0.75
            # Uncovered surfaces have no true source: there the fetched labels are often wrong.
            assert agree[~frame.visible].mean() < 0.8
            smooth, smooth_before = (cv2.GaussianBlur(part.image, (0, 0), 1.2) / 255 for part in (frame, before))
            moved = np.abs(smooth - smooth_before[row, column]).mean(axis=-1)[frame.visible].mean()
            stayed = np.abs(smooth - smooth_before).mean(axis=-1)[frame.visible].mean()
            assert moved < 0.75 * stayed


def test_flow_ahead_leads_to_the_same_labels_and_back(clips: list[list[StreetFrame]]) -> None:
    for clip in clips:
        before, frame = clip[0], clip[1]
        assert before.ahead is None and frame.ahead is not None
        assert frame.ahead_visible is not None and frame.flow is not None
        height, width = frame.label.shape
        y, x = np.mgrid[:height, :width]
        row = np.rint(y + frame.ahead[..., 1]).clip(0, height - 1).astype(int)
        column = np.rint(x + frame.ahead[..., 0]).clip(0, width - 1).astype(int)
        assert (frame.label[row, column] == before.label)[frame.ahead_visible].mean() > 0.98
        there_and_back = frame.ahead + frame.flow[row, column]
        assert np.median(np.hypot(*np.moveaxis(there_and_back[frame.ahead_visible], -1, 0))) < 0.1


def test_points_that_leave_the_picture_are_not_visible(clips: list[list[StreetFrame]]) -> None:
    for clip in clips:
        frame = clip[1]
        height, width = frame.label.shape
        y, x = np.mgrid[:height, :width]
        then_x, then_y = x + frame.flow[..., 0], y + frame.flow[..., 1]
        outside = (then_x < -0.51) | (then_x > width - 0.49) | (then_y < -0.51) | (then_y > height - 0.49)
        assert not frame.visible[outside].any()


def test_motion_is_substantial(clips: list[list[StreetFrame]]) -> None:
    lengths = np.concatenate(
        [np.hypot(frame.flow[..., 0], frame.flow[..., 1]).ravel() for clip in clips for frame in clip[1:]]
    )
    # These pictures are half the standard width, so lengths are half of those at 256x512.
    assert 1.0 < np.median(lengths) < 4.0
    assert 4.0 < np.percentile(lengths, 90) < 14.0


def test_copying_loses_to_warping_and_warping_to_truth(clips: list[list[StreetFrame]]) -> None:
    copied, warped = [], []
    for steps in (1, 2, 3, 4):
        sources = [(clip, now) for clip in clips for now in range(4, len(clip))]
        copied.append(mean_iou([(clip[now].label, clip[now - steps].label) for clip, now in sources]))
        fetched = [clip[now - steps].label[follow(clip, now, steps)] for clip, now in sources]
        warped.append(mean_iou([(clip[now].label, label) for (clip, now), label in zip(sources, fetched, strict=True)]))
    below_warp, below_truth = np.subtract(warped, copied), 1 - np.array(warped)
    assert (below_warp > 0.1).all() and below_warp[3] > below_warp[0]
    assert (below_truth > 0.05).all() and (np.diff(below_truth) > 0.02).all()
    assert (np.diff(copied) < 0).all()


def test_flow_file_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flow = rng.uniform(-400, 400, (10, 14, 2)).astype(np.float32)
    flow[0, 0] = (1.5, -2.25)
    valid = rng.random((10, 14)) < 0.7
    valid[0, 0] = True
    path = tmp_path / "a_flow.png"
    write_flow(path, flow, valid)
    read, kept = read_flow(path)
    assert read.dtype == np.float32 and kept.dtype == bool
    np.testing.assert_array_equal(kept, valid)
    assert np.abs(read - flow).max() <= 1 / 128 + 1e-6
    # In the file red is x, green is y, blue is the valid bit; OpenCV reads blue first.
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[0, 0].tolist() == [1, 2**15 - 144, 2**15 + 96]


def test_flow_beyond_the_format_is_not_valid(tmp_path: Path) -> None:
    flow = np.zeros((4, 4, 2), np.float32)
    flow[1, 2, 0] = 600
    write_flow(tmp_path / "far_flow.png", flow, np.ones((4, 4), bool))
    valid = read_flow(tmp_path / "far_flow.png")[1]
    assert not valid[1, 2] and valid.sum() == 15


@pytest.mark.tried(
    DOOR, "flow file that is missing, empty, text, or a huge picture by its header", "refused in one line"
)
def test_unreadable_flow_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no_flow.png"):
        read_flow(tmp_path / "no_flow.png")


@pytest.mark.slow
def test_data_set_layout_and_worker_count(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert ensure_streets(alone, SMALL, workers=1) == alone
    ensure_streets(shared, SMALL, workers=2)
    files = sorted(path.relative_to(alone) for path in alone.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(shared) for path in shared.rglob("*") if path.is_file())
    assert all((alone / path).read_bytes() == (shared / path).read_bytes() for path in files)
    assert len(files) == 3 * (3 + 3 + 2) + 2 + 1  # val has the flow ahead too
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "shared"]

    frames = list(render_sequence(SMALL, "train", 1))
    stem = "train/streets/streets_000001_000002"
    image = cv2.imread(str(alone / "leftImg8bit_sequence" / f"{stem}_leftImg8bit.png"))
    np.testing.assert_array_equal(image[..., ::-1], frames[2].image)
    label = cv2.imread(str(alone / "gtFine" / f"{stem}_gtFine_labelIds.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(label, frames[2].label)
    flow, valid = read_flow(alone / "flow" / f"{stem}_flow.png")
    assert np.abs(flow - frames[2].flow)[valid].max() <= 1 / 128 + 1e-6
    np.testing.assert_array_equal(valid, frames[2].visible)
    assert not list((alone / "flow").rglob("*_000000_flow.png"))


@pytest.mark.tried(DOOR, "synthetic streets in a folder of other data", "refused in one line, nothing touched")
def test_data_set_is_reused_and_other_settings_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "streets"
    settings = StreetSettings(height=64, width=128, train=1, val=0, length=2, seed=5)
    ensure_streets(root, settings, workers=1)
    picture = next(root.rglob("*_leftImg8bit.png"))
    stamp = picture.stat().st_mtime_ns
    ensure_streets(root, settings, workers=1)
    assert picture.stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="streets.*--data-path") as caught:
        ensure_streets(root, StreetSettings(height=64, width=128, train=1, val=0, length=2, seed=6), workers=1)
    assert "\n" not in str(caught.value)


@pytest.mark.tried(DOOR, "synthetic streets in a folder of other data", "refused in one line, nothing touched")
@pytest.mark.parametrize(
    "name, content",
    [("notes.txt", "mine"), ("synthetic.json", "{"), ("synthetic.json", "[" * 99_999), ("synthetic.json", "3")],
)
def test_foreign_folder_is_refused_and_not_changed(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    message = f"{tmp_path.name}: holds other data .*; remove the folder or choose another --data-path"
    with pytest.raises(UserError, match=message):
        ensure_streets(tmp_path, SMALL, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == content


@pytest.mark.tried(DOOR, "synthetic streets in a folder of other data", "refused in one line, nothing touched")
def test_removing_another_data_set_is_never_advised(tmp_path: Path) -> None:
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(UserError) as caught:
        ensure_streets(tmp_path, SMALL, workers=1)
    message = "holds other data than the requested synthetic streets; it looks like --dataset camvid"
    assert str(caught.value) == f"{tmp_path}: {message}"


@pytest.mark.tried("Flags", "python -m streets with invalid options", "refused in one line, status 2, nothing written")
@pytest.mark.parametrize(
    "words, message",
    [
        (["--height", "0"], "--height must be at least 16, not 0"),
        (["--width", "99999"], "--width must be at most 16384, not 99999"),
        (["--length", "0"], "--length must be at least 1, not 0"),
        (["--train", "-1"], "--train must be at least 0, not -1"),
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--workers", "0"], "--workers must be at least 1, not 0"),
        (["--height", "tall"], "argument --height: must be a whole number, not 'tall'; --help lists all options"),
        (["--hight", "64"], "unknown option --hight (did you mean --height?); --help lists all"),
        (["--root", "file"], "file: a file, not a folder; choose another --data-path"),
        (["--root", "file/below"], "file: File exists"),
    ],
)
def test_invalid_options_of_the_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["--root", "streets", "--train", "1", "--val", "0", "--length", "1", *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.tried("Processes and disks", "interrupt while the synthetic streets are rendered", "nothing written")
def test_interrupted_build_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("streets.generate._write_sequence", fail)
    with pytest.raises(KeyboardInterrupt):
        ensure_streets(tmp_path / "streets", SMALL, workers=1)
    assert not list(tmp_path.iterdir())


def test_folder_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "streets"
    settings = StreetSettings(height=64, width=128, train=1, val=0, length=1, seed=5)
    build = generate._build

    def build_late(*arguments: object) -> None:
        build(*arguments)
        root.mkdir()
        (root / "synthetic.json").write_text(json.dumps(generate._record(settings)))

    monkeypatch.setattr(generate, "_build", build_late)
    assert ensure_streets(root, settings, workers=1) == root
    assert [path.name for path in tmp_path.iterdir()] == ["streets"]
    assert [path.name for path in root.iterdir()] == ["synthetic.json"]
