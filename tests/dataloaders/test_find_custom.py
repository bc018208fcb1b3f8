"""Users' own data: frames and labels paired and joined to videos, and the guide's example trained from end to end."""
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from config.datasets import dataset_config
from config.errors import UserError
from dataloaders.clips import ClipDataset, with_past
from dataloaders.eval_videos import videos_of
from dataloaders.find_custom import find_custom
from dataloaders.loaders import labelled_frames, prepare_data
from main import main
from utils.logging import logger

DOOR = "Data"
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "custom_data.md"
HEIGHT, WIDTH = 72, 90
CLASSES = {"a": {"id": 0}, "b": {"id": 1}}


def describe(root: Path, files: str, **val) -> Path:
    """A folder with empty `files` and a description whose val split is `val`."""
    for name in files.split():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    root.mkdir(exist_ok=True)
    file = root / "own.yaml"
    parts = val.pop("parts", val)
    file.write_text(yaml.safe_dump({"classes": CLASSES, "val": parts}))
    return file


def found(file: Path, past: int = 9) -> dict[str, list[str]]:
    """Names of the labelled frames -> files of the frames up to them, relative to the description."""
    frames = find_custom(file, "val", past)
    return {frame.name: [str(path.relative_to(file.parent)) for path in frame.frames] for frame in frames}


def test_frames_come_in_natural_order_with_their_past(tmp_path):
    file = describe(tmp_path, "f/frame_10.jpg f/frame_9.jpg f/frame_2.jpg f/frame_1.jpg l/frame_10.png l/frame_2.png",
                    frames="f/*.jpg", labels="l/*.png")
    assert found(file) == {
        "frame_2": ["f/frame_1.jpg", "f/frame_2.jpg"],
        "frame_10": ["f/frame_1.jpg", "f/frame_2.jpg", "f/frame_9.jpg", "f/frame_10.jpg"],
    }
    assert found(file, past=1)["frame_10"] == ["f/frame_9.jpg", "f/frame_10.jpg"]
    assert found(file, past=0)["frame_10"] == ["f/frame_10.jpg"]
    (first, _) = find_custom(file, "val", 0)
    assert (first.label, first.prediction) == (tmp_path / "l/frame_2.png", "frame_2_pred.png")


def test_each_folder_is_a_video_and_repeated_names_take_their_folders(tmp_path):
    file = describe(tmp_path, "f/v10/1.jpg f/v10/2.jpg f/v9/1.jpg f/v9/2.jpg l/v10/2.png l/v9/2.png",
                    frames="f/*/*.jpg", labels="l/*/*.png")
    assert found(file) == {"v9_2": ["f/v9/1.jpg", "f/v9/2.jpg"], "v10_2": ["f/v10/1.jpg", "f/v10/2.jpg"]}
    frames = find_custom(file, "val", 9)
    assert [frame.label.parent.name for frame in frames] == ["v9", "v10"]
    assert [frame.prediction for frame in frames] == ["v9_2_pred.png", "v10_2_pred.png"]
    assert [len(video) for video in videos_of(frames)] == [2, 2]


def test_folders_whose_numbers_are_equal_stay_apart(tmp_path):
    file = describe(tmp_path, "f/v1/1.jpg f/v01/1.jpg f/v1/2.jpg f/v01/2.jpg l/v1/2.png l/v01/2.png",
                    frames="f/*/*.jpg", labels="l/*/*.png")
    assert found(file) == {"v01_2": ["f/v01/1.jpg", "f/v01/2.jpg"], "v1_2": ["f/v1/1.jpg", "f/v1/2.jpg"]}


@pytest.mark.parametrize(
    "files, frames, labels, names",
    [
        ("a/img/1.jpg b/img/1.jpg a/mask/1.png b/mask/1.png", "*/img/*.jpg", "*/mask/*.png", ["a_img_1", "b_img_1"]),
        ("a/img_1.jpg a/label_1_L.png", "a/img_*.jpg", "a/label_*_L.png", ["img_1"]),
        ("a/1.png a/1_mask.png a/2.png a/2_mask.png", "*/*.png", "*/*_mask.png", ["1", "2"]),
        ("f/a/x1.jpg f/b/x2.jpg l/x1.png l/x2.png", "f/*/*.jpg", "l/*.png", ["x1", "x2"]),
        ("f/x1.jpg f/x2.jpg l/a/x1.png l/b/x2.png", "f/*.jpg", "l/*/*.png", ["x1", "x2"]),
        ("f/a/b/1.jpg f/2.jpg l/a/b/1.png l/2.png", "f/**/*.jpg", "l/**/*.png", ["2", "1"]),
        ("f/a/c/1.jpg f/b/c/1.jpg l/a/c/1.png l/b/c/1.png", "f/**/*.jpg", "l/**/*.png", ["a_c_1", "b_c_1"]),
        ("f/0001.JPG f/0002.jpeg l/0001.png l/0002.png", "f/*", "l/????.png", ["0001", "0002"]),
        ("f/im7.jpg l/gt7.png", "f/im[0-9].jpg", "./l//gt[0-9].png", ["im7"]),
        ("f/x.left.jpg f/y.left.jpg l/x.gt.png", "f/*.left.jpg", "l/*.gt.png", ["x.left"]),
    ],
)
def test_labels_are_paired_with_frames_by_what_the_wildcards_match(tmp_path, files, frames, labels, names):
    assert list(found(describe(tmp_path, files, frames=frames, labels=labels))) == names


def test_globs_may_lead_outside_the_folder(tmp_path):
    describe(tmp_path / "data", "f/1.jpg l/1.png")
    root = tmp_path / "with [brackets]"
    for prefix in ("../data", str(tmp_path / "data")):
        (frame,) = find_custom(describe(root, "", frames=f"{prefix}/f/*.jpg", labels=f"{prefix}/l/*.png"), "val", 0)
        assert frame.frames[0].resolve() == tmp_path / "data/f/1.jpg"


def test_step_starts_a_video_at_gaps_and_other_names(tmp_path):
    files = "f/a_1.jpg f/a_3.jpg f/a_6.jpg f/a_8.jpg f/b_9.jpg l/a_3.png l/a_8.png l/b_9.png"
    file = describe(tmp_path, files, frames="f/*.jpg", labels="l/*.png", step=2)
    assert found(file) == {"a_3": ["f/a_1.jpg", "f/a_3.jpg"], "a_8": ["f/a_6.jpg", "f/a_8.jpg"], "b_9": ["f/b_9.jpg"]}
    file = describe(tmp_path, files, frames="f/*.jpg", labels="l/*.png")
    assert [len(frames) for frames in found(file).values()] == [2, 4, 5]


def test_step_compares_the_number_that_the_wildcards_match(tmp_path):
    files = "1_left8bit.png 2_left8bit.png 1_gt16.png 2_gt16.png"
    file = describe(tmp_path, files, frames="*_left8bit.png", labels="*_gt16.png", step=1)
    assert [len(frames) for frames in found(file).values()] == [1, 2]


def test_stills_have_no_past(tmp_path):
    file = describe(tmp_path, "f/1.jpg f/2.jpg l/1.png l/2.png", frames="f/*.jpg", labels="l/*.png", video=False)
    assert found(file) == {"1": ["f/1.jpg"], "2": ["f/2.jpg"]}
    assert with_past(find_custom(file, "val", 4), 1) == []


def test_parts_of_a_split_are_paired_each_by_itself(tmp_path):
    parts = [dict(frames="a/*.jpg", labels="a/*.png"), dict(frames="b/*.jpg", labels="b/*.png", video=False)]
    file = describe(tmp_path, "a/1.jpg a/2.jpg a/2.png b/1.jpg b/2.jpg b/2.png", parts=parts)
    assert found(file) == {"a_2": ["a/1.jpg", "a/2.jpg"], "b_2": ["b/2.jpg"]}


@pytest.mark.tried(DOOR, "frames and labels of custom data that do not pair", "refused in one line")
@pytest.mark.parametrize(
    "files, val, message",
    [
        ("l/1.png", dict(frames="f/*.jpg", labels="l/*.png"),
         r"own.yaml: val: frames: f/\*.jpg matches no file; it is relative to .*; .* holds l, own.yaml"),
        ("f/a/1.png l/1.png", dict(frames="f/a/*.jpg", labels="l/*.png"),
         r"f/a/\*.jpg matches no file; .*/f/a holds 1.png"),
        ("f/1.jpg", dict(frames="f/*.jpg", labels="l/*.png"), r"own.yaml: val: labels: l/\*.png matches no file"),
        ("f/a/1.jpg l/a/1.png", dict(frames="f/*", labels="l/a/*.png"), r"val: frames: f/\* matches no file"),
        ("f/1.png", dict(frames="f/*.png", labels="f/*.png"),
         r"val: f/\*.png of frames matches only the labels; add the frames' names or ending"),
        ("f/1.jpg l/1.png l/2.png", dict(frames="f/*.jpg", labels="l/*.png"),
         r"l/2.png: no frame for this label: no file of f/\*.jpg has '2' where l/\*.png has it; add the frame, or "
         r"correct the globs of .*: val"),
        ("f/1.jpg l/1_mask.png", dict(frames="f/*.jpg", labels="l/*.png"), "no file of .* has '1_mask' where"),
        ("f/a/1.jpg f/b/2.jpg l/b/1.png", dict(frames="f/*/*.jpg", labels="l/*/*.png"),
         "l/b/1.png: no frame .* has 'b/1' where"),
        ("f/a/1.jpg f/b/1.jpg l/1.png", dict(frames="f/*/*.jpg", labels="l/*.png"),
         "l/1.png: two frames for this label, .*f/a/1.jpg and .*f/b/1.jpg; narrow the glob"),
        ("f/1.jpg l/a/1.png l/b/1.png", dict(frames="f/*.jpg", labels="l/*/*.png"),
         "f/1.jpg: two labels for this frame, .*l/a/1.png and .*l/b/1.png; narrow the glob of the labels of "
         ".*own.yaml: val"),
        ("f/x.jpg f/y.jpg l/x.png", dict(frames="f/*.jpg", labels="l/*.png", step=1),
         "f/x.jpg: no number in 'x', but step compares numbers; remove step, or number the frames"),
        ("f/1.jpg f/1.png l/1.png",
         dict(parts=[dict(frames="f/*.jpg", labels="l/*.png"), dict(frames="f/*.png", labels="l/*.png")]),
         "own.yaml: val: the labelled frames .*f/1.jpg and .*f/1.png have the same name; remove one"),
    ],
)
def test_what_does_not_pair_is_named_with_its_fix(tmp_path, files, val, message):
    with pytest.raises(UserError, match=message) as caught:
        find_custom(describe(tmp_path, files, **val), "val", 4)
    assert "\n" not in str(caught.value)


@pytest.mark.tried(
    DOOR, "link to a file that is not there among the frames or labels of custom data", "refused in one line"
)
@pytest.mark.parametrize("link", ["f/2.jpg", "l/2.png"])
def test_broken_link_is_no_gap(tmp_path, link):
    file = describe(tmp_path, "f/1.jpg f/3.jpg l/3.png", frames="f/*.jpg", labels="l/*.png")
    (tmp_path / link).symlink_to("nowhere")
    with pytest.raises(UserError, match=f"{link}: a link to a missing file; restore the file, or remove the link"):
        find_custom(file, "val", 4)


@pytest.mark.tried(DOOR, "folder of custom data that cannot be listed", "refused in one line")
@pytest.mark.parametrize(
    "frames, closed", [("f/*/*.jpg", "f/b"), ("f/**/*.jpg", "f/b"), ("f/*/*.jpg", "f"), ("*/*/*.jpg", "f/b")]
)
def test_closed_folder_is_no_gap(tmp_path, monkeypatch, frames, closed):
    file = describe(tmp_path, "f/a/1.jpg f/b/1.jpg l/a/1.png", frames=frames, labels="l/*/*.png")
    assert list(found(file)) == ["1"]
    allowed = os.access  # root may list every folder
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / closed and allowed(path, mode))
    with pytest.raises(UserError, match=f"{closed}/?: cannot be listed .Permission denied.; change its permissions"):
        find_custom(file, "val", 4)


@pytest.mark.tried(DOOR, "frames missing in the middle of a custom video without step", "logged, with the fix")
def test_gap_is_logged_without_step(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logger, "info", lambda text, *words: said.append(text % words))
    files = " ".join(f"f/{t}.jpg" for t in (10, 12, 14, 16, 22, 24)) + " l/24.png"
    file = describe(tmp_path, files, frames="f/*.jpg", labels="l/*.png")
    assert len(find_custom(file, "val", 9)[0].frames) == 6
    assert said == [
        f"{file}: val: the numbers of 1 of 6 frames are more than 2 above the previous one, first at "
        f"{tmp_path}/f/22.jpg; if frames are missing, add step: 2 to begin a new video there"
    ]
    for other in (dict(step=2), dict(video=False)):
        find_custom(describe(tmp_path, "", frames="f/*.jpg", labels="l/*.png", **other), "val", 9)
    assert len(said) == 1


@pytest.mark.parametrize("names", ["1 2 3 4", "1 5 6 20", "a b c", "a_1 a_2 b_7 b_8", "7"])
def test_no_gap_is_logged_where_numbers_are_irregular(tmp_path, monkeypatch, names):
    monkeypatch.setattr(logger, "info", pytest.fail)
    files = " ".join(f"f/{name}.jpg" for name in names.split())
    find_custom(describe(tmp_path, f"{files} l/{names.split()[-1]}.png", frames="f/*.jpg", labels="l/*.png"), "val", 9)


@pytest.mark.tried(DOOR, "hidden files among the data, as `._a.png` of an archive", "skipped")
def test_hidden_files_are_skipped(tmp_path):
    files = "f/1.jpg f/._1.jpg f/.cache/2.jpg l/1.png l/._1.png"
    file = describe(tmp_path, files, frames="f/**/*.jpg", labels="l/*.png")
    assert found(file) == {"1": ["f/1.jpg"]}


@pytest.mark.tried(DOOR, "split that the description of custom data lacks", "refused in one line")
def test_undescribed_split_is_an_error(tmp_path):
    file = describe(tmp_path, "", frames="*.jpg", labels="*.png")
    with pytest.raises(UserError, match="own.yaml: describes no train split; add train: {frames: GLOB, labels: GLOB}"):
        labelled_frames(dataset="custom", root=file, split="train", past=0)


def test_missing_description_is_an_error(tmp_path):
    prepare_data(dataset="custom", root=describe(tmp_path, "", frames="*.jpg", labels="*.png"))
    with pytest.raises(UserError, match="nowhere.yaml: no such file"):
        prepare_data(dataset="custom", root=tmp_path / "nowhere.yaml")


def example(number: int) -> str:
    """One of the guide's YAML blocks."""
    return re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)[number]


@pytest.fixture(scope="module")
def harbour(tmp_path_factory) -> Path:
    """The file of the guide's example, with tiny videos for it: a boat passes a quay."""
    root = tmp_path_factory.mktemp("harbour")
    for video in ("train/pier", "train/lock", "val/ferry"):
        for kind in ("frames", "labels"):
            (root / kind / video).mkdir(parents=True)
        for t in range(1, 7):
            ids = np.full((HEIGHT, WIDTH), 1, np.uint8)
            ids[:20] = 2
            ids[40:60, 8 * t : 8 * t + 20] = (3, 4, 7)[t % 3]
            ids[-4:] = 9  # an id without a class
            image = np.stack([ids * 20, 255 - ids * 20, ids * 7], axis=2)
            cv2.imwrite(str(root / f"frames/{video}/{t:04d}.jpg"), image)
            if t != 3:
                cv2.imwrite(str(root / f"labels/{video}/{t:04d}_mask.png"), ids)
    file = root / "harbour.yaml"
    file.write_text(example(0), encoding="utf-8")
    return file


def test_example_of_the_guide_is_read_as_documented(harbour):
    config = dataset_config("custom", str(harbour))
    assert (config.name, config.classes, config.crop) == ("harbour", ("water", "quay", "boat"), (352, 480))
    frames = labelled_frames(dataset="custom", root=harbour, split="train", past=4)
    names = ["lock_0001", "lock_0002", "lock_0004", "lock_0005", "lock_0006", "pier_0001"]
    assert [frame.name for frame in frames[:6]] == names
    assert [len(frame.frames) for frame in frames[:5]] == [1, 2, 4, 5, 5]
    item = ClipDataset(frames, 4, config)[0]
    assert item["clip"].shape == (5, HEIGHT, WIDTH, 3)
    assert [int(item["label"][row, 45]) for row in (0, 30, 50, 71)] == [1, 0, 2, 250]


def test_other_example_of_the_guide_is_read_too(tmp_path):
    file = describe(tmp_path, "pier/1.jpg pier/2.jpg pier/4.jpg pier/4_mask.png stills/4.jpg stills/4_mask.png")
    file.write_text(yaml.safe_dump({"classes": CLASSES}) + example(1))
    frames = find_custom(file, "train", 4)
    assert [(frame.name, len(frame.frames)) for frame in frames] == [("pier_4", 1), ("stills_4", 1)]


@pytest.mark.slow
def test_example_of_the_guide_trains_and_evaluates(harbour, tmp_path):
    common = ["--dataset", "custom", "--data-path", str(harbour), "--log-folder", str(tmp_path), "--num-worker", "0",
              "--device", "cpu"]
    train = ["--crop-height", "64", "--crop-width", "80", "--batch-size", "2", "--epoch", "1", "--early-stop", "1"]
    assert main([*common, *train, "--stage", "segnet", "--pretrained-backbone", "0"]) == 0
    runs = tmp_path / "run" / "custom"
    weights = ["--segnet-weights", str(runs / "segnet_swiftnet_test" / "experiment_0" / "model_best.pth.tar")]
    assert main([*common, *train, *weights, "--multi-step", "1", "2", "--eval-multi-step", "1"]) == 0
    assert (runs / "swiftnet_test" / "experiment_0" / "model_best.pth.tar").is_file()
    metrics, predictions = tmp_path / "metrics.json", tmp_path / "predictions"
    evaluation = ["--evaluate", "1", "--method", "copy", "--eval-multi-step", "1", "2", "--metrics-file", str(metrics)]
    pictures = ["--save-predictions", str(predictions), "--visualization", "1"]
    assert main([*common, *weights, *evaluation, *pictures]) == 0
    content = json.loads(metrics.read_text())
    assert (content["dataset"], content["classes"]) == ("harbour", ["water", "quay", "boat"])
    assert [row["frames"] for row in content["positions"]] == [5, 4, 3]
    assert np.sum(content["positions"][0]["confusion"]) == 5 * (HEIGHT - 4) * WIDTH
    written = sorted(predictions.rglob("*.png"))
    names = [path.name for path in written if path.parent.name == "position_0"]
    assert names == [f"000{t}_pred.png" for t in (1, 2, 4, 5, 6)]
    ids = cv2.imread(str(written[0]), cv2.IMREAD_UNCHANGED)
    assert ids.shape == (HEIGHT, WIDTH) and set(np.unique(ids)) <= {1, 2, 3}


@pytest.mark.tried(DOOR, "mistake in custom data, through the whole program", "refused in one line, status 2")
def test_mistakes_reach_the_user_in_one_line(harbour, tmp_path, capsys):
    words = ["--dataset", "custom", "--log-folder", str(tmp_path), "--stage", "segnet", "--pretrained-backbone", "0"]
    words += ["--device", "cpu"]
    broken = tmp_path / "broken.yaml"
    broken.write_text(example(0).replace("frames/train", "farmes/train"))
    expected = ((broken, "broken.yaml: train: frames: .* matches no file"), (tmp_path, "no dataset.yaml there"))
    for path, message in expected:
        assert main([*words, "--data-path", str(path)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and re.match(f"error: .*{message}", lines[0]), lines
