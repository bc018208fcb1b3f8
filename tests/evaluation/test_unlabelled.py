"""`--dataset unlabelled`: which videos a path names, what is evaluated of them, and what is refused."""
import os
import warnings
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from config.errors import UserError
from config.options import Options
from evaluation import unlabelled
from evaluation.metrics_json import read_metrics
from evaluation.unlabelled import StreamedFrames, VideoPart, names_of, video_parts, whole_video
from inference.video_input import videos_in
from main import main
from tests import taught
from tests.films import opened, panning, write_frames, write_video
from tests.main.program import refusal

SIZE = (48, 64)
OWN = ("--method", "copy", "--carry", "labels", "--eval-multi-step", "1", "2")


@pytest.fixture(autouse=True)
def without_charts(monkeypatch):
    """Drawing them takes longer than the evaluation of a few small frames."""
    monkeypatch.setattr("evaluation.report.svg", lambda *_: "")


def words_of(data, weights, folder, *more):
    return [
        "--evaluate", "1", "--reference", "segmenter", "--dataset", "unlabelled", "--data-path", str(data),
        "--weights-dir", str(weights), "--log-folder", str(folder / "logs"), "--device", "cpu", "--num-worker", "0",
        *OWN, *map(str, more),
    ]


def evaluated(data, weights, folder, *more):
    assert main(words_of(data, weights, folder, *more)) == 0
    return read_metrics(max((folder / "logs").glob("run/unlabelled/*/experiment_*")) / "metrics.json")


def frames_by_position(metrics):
    return {row.position: row.frames for row in metrics.positions}


@pytest.fixture
def frames():
    return panning([2] * 5, size=SIZE)


@pytest.fixture
def place(tmp_path):
    """A folder of two videos, a folder of frames, and hidden files."""
    folder = tmp_path / "place"
    folder.mkdir()
    write_video(folder / "b.mp4", count=4, size=SIZE)
    write_video(folder / "a.avi", count=3, size=SIZE)
    write_frames(folder / "walk", panning([1] * 5, size=SIZE))
    (folder / ".DS_Store").write_text("hidden")
    return folder


def test_a_path_names_one_video_or_those_in_a_folder(place, tmp_path):
    (place / "notes.md").touch()
    (place / "empty").mkdir()
    names = [Path(x).name for x in videos_in(str(place))]
    assert sorted(names) == ["a.avi", "b.mp4", "walk"]
    assert videos_in(str(place / "walk")) == [str(place / "walk")]
    assert videos_in(str(place / "b.mp4")) == [str(place / "b.mp4")]
    assert videos_in(str(place / "walk" / "*.png")) == [str(place / "walk" / "*.png")]


LISTED = """
# two videos
place/b.mp4

  place/walk
place/a*
../{outside}/film.avi
"""


@pytest.mark.parametrize("path, expected", [
    ("place/*.mp4", ["place/b.mp4"]), ("place/*.[am][vp][i4]", ["place/a.avi", "place/b.mp4"]),
    ("place", ["place/a.avi", "place/b.mp4", "place/walk"]), ("place/w*", ["place/walk"]),
    ("place/walk/00[1-3].png", ["place/walk/00[1-3].png"]), ("*.mp4", ["*.mp4"]),
])
def test_globs_name_videos_or_the_pictures_of_one(place, tmp_path, path, expected):
    assert videos_in(str(tmp_path / path)) == [str(tmp_path / name) for name in expected]


def test_list_names_videos_relative_to_itself(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    write_video(tmp_path / "film.avi", count=2, size=SIZE)
    path = tmp_path / "videos.txt"
    path.write_text(LISTED.format(outside=tmp_path.name))
    found = [Path(os.path.abspath(x)) for x in videos_in(str(path))]
    assert found == [place / "b.mp4", place / "walk", place / "a.avi", tmp_path / "film.avi"]
    (tmp_path / "all.txt").write_text(f"{place}\n")  # absolute
    assert len(videos_in(str(tmp_path / "all.txt"))) == 3


def test_list_may_name_folders_by_globs(place, tmp_path):
    (tmp_path / "videos.txt").write_text("pl*/b.mp4\n")
    assert videos_in(str(tmp_path / "videos.txt")) == videos_in(str(tmp_path / "pl*" / "b.mp4"))


@pytest.mark.parametrize("content, told", [
    ("place/b.mp4\nplace/gone.mp4\n", "lists {folder}/place/gone.mp4, which is not there"),
    ("place/b.mp4\nvideos.txt\n", "{folder}/videos.txt"), ("place/*.gone", "{folder}/place/*.gone"),
    ("# nothing\n\n", "lists no video; write one path a line"),
])
@pytest.mark.parametrize("training", [False, True])
def test_list_that_names_nothing_is_refused(place, tmp_path, capsys, content, told, training):
    (tmp_path / "videos.txt").write_text(content)
    of = taught.words_of if training else words_of
    line = refused(of(tmp_path / "videos.txt", tmp_path, tmp_path, "--segnet", taught.tiny_segmenter(tmp_path)), capsys)
    assert told.format(folder=tmp_path) in line


def test_videos_of_one_name_are_told_apart(tmp_path):
    (tmp_path / "list.txt").write_text("one/a.mp4\ntwo/a.mp4\none/b [1].mp4\n")
    for name in ("one/a.mp4", "two/a.mp4", "one/b [1].mp4"):
        write_video(tmp_path / name, count=4, size=SIZE)
    parts = video_parts(Options(data_path=str(tmp_path / "list.txt")), "all")
    expected = [f"{x}/frame_000000" for x in ("one/a.mp4", "two/a.mp4", "one/b [1].mp4")]
    assert [part.title(0) for part in parts] == expected
    parts = video_parts(Options(data_path=str(tmp_path / "one")), "all")
    assert [part.name for part in parts] == ["a.mp4", "b [1].mp4"]
    assert parts[0].video()[0].labelled.name == "a.mp4/frame_000000"
    (tmp_path / "list.txt").write_text("one\none/../one/a.mp4\n")
    with pytest.raises(UserError, match=r"one/a.mp4 and .*one/a.mp4 are one video; name it once"):
        video_parts(Options(data_path=str(tmp_path / "list.txt")), "all")


@pytest.mark.parametrize("sources, expected", [
    (["/a/b", "/mnt/a/b"], ["a/b", "mnt/a/b"]), (["/a/b/x.mp4", "/a/c/x.mp4", "/a/y"], ["b/x.mp4", "c/x.mp4", "a/y"]),
    (["/w/l_*.png", "/w/r_*.png"], ["l_*.png", "r_*.png"]), (["/w/l_*.png", "/v/*"], ["w", "v"]),
    (["http://h:80/a.mp4?t=1", "http://h:80/b.mp4?t=1"], ["a.mp4", "b.mp4"]),
    (["http://h/a?t=1", "http://h/a?t=2"], ["a?t=1", "a?t=2"]), (["rtsp://u:p@10.0.0.7:554/"], ["10.0.0.7"]),
])
def test_names_of_videos(sources, expected):
    assert names_of(sources) == expected


def test_two_videos_of_one_name_keep_their_own_predictions(weights, tmp_path, frames):
    for name in ("one", "two"):
        write_frames(tmp_path / name / "walk", frames[:3])
    (tmp_path / "list.txt").write_text("one/walk\ntwo/walk\n")
    evaluated(tmp_path / "list.txt", weights, tmp_path, "--save-predictions", tmp_path / "saved")
    one, two = (len([*(tmp_path / "saved").rglob(f"{name}/walk/*.png")]) for name in ("one", "two"))
    assert one == two > 0


@pytest.mark.parametrize("count, longest, split, expected", [
    (20, 3, "train", (0, 13)), (20, 3, "val", (16, 4)), (20, 3, "all", (0, 20)), (20, 1, "train", (0, 15)),
    (11, 2, "train", (0, 7)), (11, 2, "val", (9, 2)), (5, 3, "train", (0, 1)), (5, 3, "val", (4, 1)),
])
def test_videos_are_split_by_time_with_a_gap(monkeypatch, count, longest, split, expected):
    video = VideoPart("a", "data_path", "a", 0, count)
    monkeypatch.setattr(unlabelled, "videos_in", lambda _: ["a", "b"])
    monkeypatch.setattr(unlabelled, "whole_video", lambda *_: video)
    for part in video_parts(Options(data_path="a", multi_step=(1, longest)), split):
        assert (part.first, part.count) == expected
    for part in video_parts(Options(data_path="a", val_path="b", multi_step=(1, longest)), split):
        assert (part.first, part.count) == (0, count)  # other videos are for val


def test_val_path_names_the_videos_of_val(place, tmp_path):
    options = Options(data_path=str(place / "walk"), val_path=str(place / "b.mp4"))
    named = {split: [part.source for part in video_parts(options, split)] for split in ("train", "val", "all")}
    assert named == {"train": [options.data_path], "val": [options.val_path], "all": [options.data_path]}


@pytest.mark.parametrize("split, count, told", [
    ("train", 5, "no video has enough frames for the train"), ("val", 4, "no video has enough frames for the val"),
])
def test_too_short_videos_are_refused(tmp_path, split, count, told):
    data = write_frames(tmp_path / "film", panning([1] * (count - 1), size=SIZE))
    with pytest.raises(UserError, match=f"--data-path {data}: {told}"):
        video_parts(Options(data_path=str(data)), split)


def test_training_on_too_short_videos_is_refused_in_one_line(tmp_path, capsys, frames):
    data = write_frames(tmp_path / "film", frames[:4])
    words = taught.words_of(data, tmp_path, tmp_path, "--segnet", taught.tiny_segmenter(tmp_path), "--multi-step", 4)
    assert "no video has enough frames for the train split; name longer" in refused(words, capsys)


@pytest.mark.parametrize("split, counts", [("val", {0: 2, 1: 1, 2: 0}), ("train", {0: 4, 1: 3, 2: 2})])
def test_split_that_is_asked_for_is_evaluated(tmp_path, split, counts):
    data = write_frames(tmp_path / "film", panning([1] * 9, size=SIZE))
    segnet = taught.tiny_segmenter(tmp_path)
    metrics = evaluated(data, tmp_path, tmp_path, "--split", split, "--segnet", segnet)
    assert frames_by_position(metrics) == counts and metrics.split == split


@pytest.mark.parametrize("name", ["val-path", "frames", "label-path", "teacher-cache"])
def test_options_of_unlabelled_videos_are_refused_elsewhere(tmp_path, capsys, name):
    words = ["--dataset", "synthetic", f"--{name}", "1", "--data-path", str(tmp_path)]
    assert f"--{name} has an effect only with --dataset unlabelled" in refused(words, capsys)


def test_frames_are_counted_by_reading_them_and_read_in_order(place):
    video = whole_video(str(place / "b.mp4")).video()
    assert len(video) == len(opened(place / "b.mp4")[2]) == 4
    assert len({frame.labelled.prediction for frame in video}) == 4
    walk = panning([1] * 5, size=SIZE)
    items = [*StreamedFrames([whole_video(str(place / "walk"))])]
    assert all(np.array_equal(item["image"].numpy(), frame) for item, frame in zip(items, walk, strict=True))


def test_video_file(weights, tmp_path):
    metrics = evaluated(write_video(tmp_path / "film.mp4", count=5, size=SIZE), weights, tmp_path)
    assert frames_by_position(metrics) == {0: 5, 1: 4, 2: 3} and metrics.positions[0].pixel_accuracy == 1
    assert metrics.dataset == "unlabelled" and metrics.reference == "segmenter"
    assert metrics.reference_temporal.pairs == 4 and all(x > 0 for x in metrics.milliseconds.values())


def test_folder_of_pictures_and_a_glob_of_them_are_the_same_video(weights, tmp_path, frames):
    folder = write_frames(tmp_path / "pictures", frames)
    first, second = (evaluated(path, weights, tmp_path) for path in (folder, folder / "*.png"))
    assert frames_by_position(first) == {0: 6, 1: 5, 2: 4} and first.positions == second.positions
    assert len(whole_video(str(folder / "00[0-2].png")).video()) == 3


def test_folder_of_videos_and_of_a_folder_of_frames(place, weights, tmp_path):
    together = evaluated(place, weights, tmp_path, "--save-predictions", tmp_path / "out")
    assert frames_by_position(together) == {0: 13, 1: 10, 2: 7} and together.reference_temporal.pairs == 10
    out = tmp_path / "out"
    saved = Counter(path.relative_to(out).parts[:2] for path in out.rglob("*.png"))
    assert saved == {
        (f"position_{k}", name): count - k
        for k in range(3) for name, count in (("a.avi", 3), ("b.mp4", 4), ("walk", 6))
    }


@pytest.mark.slow
def test_scores_of_several_videos_are_those_of_their_sums(place, weights, tmp_path):
    together, *alone = (
        evaluated(path, weights, tmp_path) for path in (place, place / "b.mp4", place / "a.avi", place / "walk")
    )
    for row, *rows in zip(together.positions, *(metrics.positions for metrics in alone)):
        assert np.array_equal(row.confusion, sum(np.array(x.confusion) for x in rows))


def test_predictions_are_written_under_the_names_of_videos_and_frames(weights, tmp_path, frames):
    folder = write_frames(tmp_path / "pictures", frames[:3])
    evaluated(folder, weights, tmp_path, "--save-predictions", tmp_path / "out", "--visualization", 1)
    for position, numbers in ((0, (0, 1, 2)), (1, (1, 2)), (2, (2,))):
        found = tmp_path / "out" / f"position_{position}"
        names = sorted(str(path.relative_to(found)) for path in found.rglob("*.png"))
        assert names == [f"pictures/{number:03}_pred.png" for number in numbers]
    picture = cv2.imread(str(tmp_path / "out/position_1/pictures/002_pred.png"), cv2.IMREAD_UNCHANGED)
    assert picture.shape == SIZE and picture.dtype == np.uint8
    overlays = [*(tmp_path / "logs").rglob("visualization/**/*.png")]
    assert len(overlays) == 3


@pytest.mark.parametrize("names", [("a.mp4", "a.avi"), ("a.mp4", "a"), ("a.b", "a.c")])
def test_names_of_several_videos_do_not_collide(tmp_path, names):
    for name in names:
        if name.endswith((".mp4", ".avi")):
            write_video(tmp_path / name, count=3, size=SIZE)
        else:  # with the names that frames of a video file get
            folder = write_frames(tmp_path / name, panning([1] * 2, size=SIZE))
            for number, path in enumerate(sorted(folder.iterdir())):
                path.rename(folder / f"frame_{number:06}.png")
    found = [frame.labelled for source in videos_in(str(tmp_path)) for frame in whole_video(source).video()]
    assert len(found) == 6
    assert len({frame.prediction for frame in found}) == len({frame.name for frame in found}) == 6


@pytest.mark.parametrize("source", [".", "..", "./", "*.png", "../pictures/*.png"])
def test_predictions_stay_inside_their_folder(tmp_path, monkeypatch, frames, source):
    """Wherever the program is started: names of predictions are relative and go down."""
    folder = write_frames(tmp_path / "pictures", frames[:2])
    (folder / "inside").mkdir()
    monkeypatch.chdir(folder / "inside" if source == ".." else folder)
    for frame in whole_video(source).video():
        for name in (frame.labelled.prediction, frame.labelled.name):
            inside = os.path.abspath(tmp_path / "out" / "position_0" / name)
            assert Path(inside).is_relative_to(tmp_path / "out" / "position_0"), name
            assert not {"..", ""} & {*name.split("/")}, name


def test_val_path_is_what_is_evaluated(weights, tmp_path, frames):
    other = write_frames(tmp_path / "other", frames[:4])
    metrics = evaluated(write_frames(tmp_path / "pictures", frames), weights, tmp_path, "--val-path", other)
    assert frames_by_position(metrics) == {0: 4, 1: 3, 2: 2}


def test_released_propagation_is_evaluated_on_a_video(weights, tmp_path, frames):
    folder = write_frames(tmp_path / "pictures", frames)
    metrics = evaluated(folder, weights, tmp_path, "--method", "gsv", "--carry", "logits", "--resume", "1")
    assert metrics.method == "gsv" and frames_by_position(metrics) == {0: 6, 1: 5, 2: 4}
    assert metrics.flow == "light"  # its own


def test_labels_are_moved_along_dis(weights, tmp_path):
    folder = write_frames(tmp_path / "pictures", panning([4] * 8, size=(128, 192)))
    warped, copied = (
        evaluated(folder, weights, tmp_path, "--eval-multi-step", 4, "--method", *words)
        for words in (("warp", "--optical-flow-network", "dis"), ("copy",))
    )
    assert warped.flow == "dis" and warped.positions[0].pixel_accuracy == 1
    assert warped.positions[1].pixel_accuracy > copied.positions[1].pixel_accuracy + 0.02


def test_stream_with_a_schedule(weights, tmp_path):
    folder = write_frames(tmp_path / "pictures", panning([2] * 11, size=(96, 128)))
    metrics = evaluated(folder, weights, tmp_path, "--schedule", "residual", "--residual-threshold", "3")
    assert sum(frames_by_position(metrics).values()) == metrics.schedule.frames == 12
    assert 1 < metrics.schedule.keyframes == metrics.positions[0].frames < 12


@pytest.mark.parametrize("count", [1, 2])
def test_video_that_reaches_back_to_few_positions(weights, tmp_path, frames, count):
    metrics = evaluated(write_frames(tmp_path / "pictures", frames[:count]), weights, tmp_path)
    assert {k: n for k, n in frames_by_position(metrics).items() if n} == {k: count - k for k in range(count)}
    assert metrics.positions[0].miou == 1 and (metrics.milliseconds is None) == (count == 1)


def test_dry_run_takes_ten_frames_of_one_video(weights, tmp_path):
    for name in ("a", "b"):
        write_frames(tmp_path / "videos" / name, panning([1] * 11, size=SIZE))
    metrics = evaluated(tmp_path / "videos", weights, tmp_path, "--early-stop", 1)
    assert frames_by_position(metrics) == {0: 10, 1: 9, 2: 8}


def refused(words, capsys) -> str:
    assert main(words) == 2
    return refusal(capsys.readouterr().err)


def test_videos_may_differ_in_size(weights, tmp_path, frames):
    write_frames(tmp_path / "videos" / "a", panning([1] * 2, size=(32, 56)))
    write_frames(tmp_path / "videos" / "b", frames[:4])
    assert frames_by_position(evaluated(tmp_path / "videos", weights, tmp_path)) == {0: 7, 1: 5, 2: 3}


def test_frames_of_one_video_may_not_differ_in_size(weights, tmp_path, capsys, frames):
    folder = write_frames(tmp_path / "pictures", [*frames[:2], *panning([1], size=(32, 56))])
    line = refused(words_of(folder, weights, tmp_path), capsys)
    assert "pictures/002" in line and "56 x 32 pixels" in line and "64 x 48" in line


def bad(kind: str, folder: Path) -> Path:
    """A path that names no video."""
    path = folder / "place"
    if kind == "missing":
        return path
    if kind == "empty file":
        path.with_suffix(".mp4").touch()
        return path.with_suffix(".mp4")
    if kind in ("text", "a text that calls itself a video"):
        path = path.with_suffix(".txt" if kind == "text" else ".mp4")
        path.write_text("Nothing to see.\n" * 40)
        return path
    if kind == "no readable frame":
        content = write_video(path.with_suffix(".avi"), count=5, size=SIZE).read_bytes()
        path.with_suffix(".avi").write_bytes(content[: content.index(b"movi") + 4])
        return path.with_suffix(".avi")
    if kind == "glob of nothing":
        return folder / "*.png"
    path.mkdir()
    if kind == "folder of a text":
        (path / "notes.txt").write_text("Nothing to see.\n" * 40)
    if kind == "folder of an empty folder":
        (path / "inside").mkdir()
    if kind == "damaged picture":
        write_frames(path, panning([1] * 2, size=SIZE))
        (path / "001.png").write_bytes(b"no picture")
    return path


@pytest.mark.parametrize("kind", [
    "missing", "empty folder", "empty file", "text", "a text that calls itself a video", "no readable frame",
    "glob of nothing", "folder of a text", "folder of an empty folder", "damaged picture",
])
def test_path_without_a_video_is_named_in_one_line(kind, weights, tmp_path, capsys):
    path = bad(kind, tmp_path)
    assert str(path) in refused(words_of(path, weights, tmp_path), capsys)


@pytest.mark.parametrize("kind", ["missing", "empty folder", "glob of nothing", "no readable frame"])
def test_no_other_option_is_blamed(kind, weights, tmp_path, capsys):
    assert "--video" not in refused(words_of(bad(kind, tmp_path), weights, tmp_path), capsys)


def test_number_is_no_camera(weights, tmp_path, capsys, monkeypatch):
    """A camera never ends: its frames could not be counted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: pytest.fail("a camera was opened"))
    assert "--data-path 0" in refused(words_of("0", weights, tmp_path), capsys)


@pytest.mark.parametrize("words, told", [
    (("--evaluate", "1", "--method", "copy", "--reference", "labels"), "--reference labels: --dataset unlabelled has"),
    (("--video", "demo", "--output", "o.mp4"), "--dataset unlabelled works with"),
    (("--export", "folder", "--resume", "1"), "--dataset unlabelled works with"),
    (("--check", "1"), "--dataset unlabelled works with"),
    (("--benchmark", "eval"), "--dataset unlabelled works with"),
    (("--stage", "segnet"), "--dataset unlabelled works with"),
    (("--evaluate", "1", "--method", "copy", "--frames", "5"), "--frames is for training, and has no effect with"),
    (("--evaluate", "1", "--method", "copy", "--label-path", "pictures"), "--label-path is for training"),
    (("--evaluate", "1", "--method", "copy", "--split", "test"), "--split test: --dataset unlabelled has train, val"),
    (("--reference", "segmenter"), "--reference has an effect only with --evaluate 1"),
])
def test_what_needs_labels_is_refused(words, told, tmp_path, monkeypatch, capsys, frames):
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "pictures", frames[:2])
    assert told in refused(["--dataset", "unlabelled", *words], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_nothing_is_warned_about(weights, tmp_path, frames):
    folder = write_frames(tmp_path / "pictures", frames[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluated(folder, weights, tmp_path)


def test_empty_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no pictures found .*, and no videos; name a file or folder"):
        video_parts(Options(data_path=str(tmp_path)), "all")


def test_items_are_those_of_labelled_videos(tmp_path, frames):
    (item,) = StreamedFrames([whole_video(str(write_frames(tmp_path / "pictures", frames[:1])))])
    assert item["image"].dtype == torch.uint8 and item["image"].shape == (*SIZE, 3)
    assert {name: x.numel() for name, x in item.items() if name != "image"} == {"label": 0, "ahead": 0, "visible": 0}
