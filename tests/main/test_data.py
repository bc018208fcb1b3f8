"""Data in the wrong place, of the wrong kind, damaged or hostile, through every use of every data set."""
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from main import main
from tests import pictures
from tests.main.program import experiment, refusal, training

DOOR = "Data"
ONE_LINE = "one line, status 2, no files"
ONE_LINE_WHOLE = "one line that names the file, status 2, only whole files"
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "camvid"
FRAME, LABEL = "leftImg8bit.png", "gtFine_labelIds.png"
USES = {
    "gsv": [],
    "segnet": ["--stage", "segnet", "--pretrained-backbone", "0"],
    "flow": ["--stage", "flow"],
    "gsv on stills": ["--clip-source", "stills"],
    "flow on stills": ["--stage", "flow", "--clip-source", "stills"],
    "evaluate": ["--evaluate", "1", "--method", "copy"],
}


@pytest.fixture
def data(streets, tmp_path) -> Path:
    """A copy of the tiny streets, to be damaged."""
    return Path(shutil.copytree(streets, tmp_path / "data" / "streets"))


@pytest.fixture
def call(weights, tmp_path, capsys) -> Callable[..., tuple[int, str]]:
    """Run the program on a folder of data; returns its exit status and what it wrote to standard error."""

    def run(use: str, root: Path, *more: str, dataset: str = "synthetic") -> tuple[int, str]:
        words = [*training(root, weights, tmp_path / "logs"), *USES[use], "--dataset", dataset, *more]
        capsys.readouterr()
        status = main(words)
        return status, capsys.readouterr().err

    return run


def spoil(root: Path, ending: str, change: Callable[[Path], object]) -> None:
    for path in root.rglob(f"*{ending}"):
        change(path)


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: (path.unlink(), make(path))


def resized(width: int, height: int) -> Callable[[Path], object]:
    return lambda path: cv2.imwrite(
        str(path), cv2.resize(
            cv2.imread(str(path), cv2.IMREAD_UNCHANGED), (width, height), interpolation=cv2.INTER_NEAREST
        )
    )


def assert_whole(logs: Path) -> None:
    """Every file of a refused run can be read, and none contains results."""
    files = [path for path in logs.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".tmp" or path.name in ("metrics.json", "report.html")]
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.name.endswith(".pth.tar"):
            torch.load(path, weights_only=True)


PLACES: dict[str, Callable[[Path], Path]] = {
    "missing": lambda folder: folder / "nowhere",
    "empty": lambda folder: (folder / "empty").mkdir() or folder / "empty",
    "a file": lambda folder: (folder / "data.zip").write_bytes(b"PK") and folder / "data.zip",
    "another data set": lambda folder: folder / "data" / "other",
    "too shallow": lambda folder: folder / "data",
}


@pytest.mark.tried(
    DOOR, "--data-path: missing, empty, a file, another data set, one folder off; each data set and use", ONE_LINE
)
@pytest.mark.parametrize("use", ["gsv", "segnet", "flow on stills", "evaluate", "check"])
@pytest.mark.parametrize("dataset", ["cityscapes_2k", "camvid", "custom"])
@pytest.mark.parametrize("place", PLACES)
def test_data_in_another_place(data, call, tmp_path, capsys, monkeypatch, dataset, place, use):
    monkeypatch.chdir(tmp_path)
    for name in ("train/a.png", "trainannot/a.png") if dataset != "camvid" else ("gtFine/a.png", "leftImg8bit/a.png"):
        (data.parent / "other" / name).parent.mkdir(parents=True)
    root = PLACES[place](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    if use == "check":
        status, errors = main(["--check", "1", "--dataset", dataset, "--data-path", str(root)]), capsys.readouterr().err
    else:
        status, errors = call(use, root, dataset=dataset)
    line = refusal(errors)
    assert status == 2 and str(root) in line and sorted(tmp_path.rglob("*")) == before
    if place == "another data set":
        assert line.endswith(f"; it looks like --dataset {'cityscapes_2k' if dataset == 'camvid' else 'camvid'}")
    if place == "too shallow" and dataset == "cityscapes_2k":
        assert line.endswith(f"; --data-path {data} looks right")


@pytest.mark.tried(DOOR, "--data-path of the synthetic streets that is other data, or a file", ONE_LINE)
@pytest.mark.parametrize("use", ["segnet", "evaluate"])
def test_streets_in_another_place(data, call, tmp_path, use):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    (tmp_path / "file").touch()
    for root, message in ((tmp_path / "mine", "holds other data than the requested synthetic streets"),
                          (tmp_path / "file", "a file, not a folder"),
                          (data.parent, f"--data-path {data} looks right")):
        status, errors = call(use, root)
        assert status == 2 and message in refusal(errors)
    assert (tmp_path / "mine/thesis.tex").is_file() and not (tmp_path / "logs").exists()


DAMAGE = {
    "frame of zero bytes": (FRAME, content(b""), "not a readable picture .0 bytes"),
    "frame that is text": (FRAME, content(b"no picture"), "not a readable picture"),
    "hostile frame": (FRAME, content(pictures.HOSTILE["PNG with too few rows"]), "not a readable picture"),
    "bomb as frame": (FRAME, content(pictures.BOMBS["PNG"]), "65535 x 65535 pixels by its header"),
    "folder as frame": (FRAME, replaced(Path.mkdir), "a folder or a device, not a picture"),
    "broken link as frame": (FRAME, replaced(lambda path: path.symlink_to("nowhere")), "cannot be opened"),
    "hostile label": (LABEL, content(pictures.HOSTILE["PNG with an unknown filter"]), "not a readable picture"),
    "bomb as label": (LABEL, content(pictures.BOMBS["palette PNG"]), "65535 x 65535 pixels by its header"),
    "JPEG as label": (LABEL, content(pictures.NO_IDS["grey JPEG"]), "this label is a JPEG, whose compression"),
    "colours as label": (LABEL, content(pictures.NO_IDS["RGB PNG"]), "one 8-bit channel of class ids, this one has 3"),
    "pipe as label": (LABEL, replaced(os.mkfifo), "a folder or a device, not a picture"),
    "label of another size": (LABEL, resized(100, 64), "100 x 64 pixels, but its frame .* has 128 x 64"),
}


@pytest.mark.tried(
    DOOR, "damaged, hostile, misplaced or misshapen frames and labels, in training and evaluation", ONE_LINE_WHOLE
)
@pytest.mark.parametrize(
    "damage, use", [
        *zip(DAMAGE, itertools.cycle(["gsv", "segnet", "gsv on stills"])), *((damage, "evaluate") for damage in DAMAGE)
    ]
)
def test_damaged_files(data, call, tmp_path, damage, use):
    ending, change, message = DAMAGE[damage]
    spoil(data, ending, change)
    status, errors = call(use, data, "--use-crop", "0")
    line = refusal(errors)
    named = line.removeprefix("error: ").split(": ")[0]
    assert status == 2 and named.startswith(str(data)) and named.endswith(ending)
    assert re.search(message, line)
    assert_whole(tmp_path / "logs")


@pytest.mark.tried(
    DOOR, "damaged, hostile, misplaced or misshapen frames and labels, in training and evaluation", ONE_LINE_WHOLE
)
@pytest.mark.parametrize(
    "use, damage", [("segnet", "hostile frame"), ("gsv", "label of another size"), ("evaluate", "pipe as label")]
)
def test_damaged_files_in_a_loaders_process(data, call, tmp_path, use, damage):
    ending, change, _ = DAMAGE[damage]
    spoil(data, ending, change)
    status, errors = call(use, data, "--use-crop", "0", "--num-worker", "1")
    assert status == 2 and str(data) in refusal(errors)
    assert_whole(tmp_path / "logs")


@pytest.mark.tried(DOOR, "damaged flow, or of another size or kind, in the flow stage", ONE_LINE_WHOLE)
@pytest.mark.parametrize(
    "change, message",
    [(content(b""), "not a readable picture"), (content(pictures.NO_IDS["RGBA PNG"]), "not a flow PNG"),
     (resized(64, 32), "64 x 32 pixels, but its frame")],
)
def test_damaged_flow(data, call, tmp_path, change, message):
    spoil(data / "flow", "_flow.png", change)
    status, errors = call("flow", data)
    assert status == 2 and message in refusal(errors)
    assert_whole(tmp_path / "logs")


@pytest.mark.tried(DOOR, "frames of different sizes in a video, in an evaluation", ONE_LINE_WHOLE)
def test_video_of_two_sizes(data, call, tmp_path):
    frame = "val/streets/streets_000000_000002"
    for path in (data / f"leftImg8bit_sequence/{frame}_{FRAME}", data / f"gtFine/{frame}_{LABEL}"):
        resized(64, 64)(path)
    status, errors = call("evaluate", data, "--temporal", "0")
    assert status == 2 and "64 x 64 pixels, but" in refusal(errors) and "of the same video has 128 x 64" in errors
    assert_whole(tmp_path / "logs")


@pytest.mark.tried(DOOR, "labels at half their frames' size, in an evaluation", "evaluated at the label's size")
def test_half_size_labels_are_evaluated(data, call, tmp_path):
    spoil(data, LABEL, resized(64, 32))
    assert call("evaluate", data, "--save-predictions", str(tmp_path / "out"))[0] == 0
    sizes = {cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape for path in (tmp_path / "out").rglob("*.png")}
    metrics = json.loads((experiment(tmp_path / "logs") / "metrics.json").read_text())
    assert sizes == {(32, 64)} and [row["frames"] for row in metrics["positions"]] == [12, 10]


@pytest.mark.tried(
    DOOR, "frame missing in the middle of a sequence", "counted and logged for each interval and position"
)
def test_gap_is_counted(data, call, tmp_path, capsys):
    for split in ("train", "val"):
        for path in data.rglob(f"{split}/streets/streets_000000_000003_*"):
            path.unlink()
    # The data set is searched first, the missing weights are found later.
    assert main(training(data, tmp_path, tmp_path / "logs", "--evaluate", "1", "--resume", "0", "--method", "copy",
                         "--eval-multi-step", "1", "3", "--segnet-weights", str(tmp_path / "none"))) == 2
    output = capsys.readouterr().out
    assert "val: 8 of 11 labelled frames have 1 frames before them" in output
    assert "val: 3 of 11 labelled frames have 3 frames before them" in output


@pytest.mark.tried(DOOR, "no labelled frame with enough frames before it", ONE_LINE)
@pytest.mark.parametrize("use, more, message", [
    ("gsv", ["--multi-step", "7"], "no labelled train frame has 7 frames before it, which --multi-step 7 requires"),
    ("evaluate", ["--eval-single", "0", "--eval-multi-step", "7"], "no labelled val frame has 7 frames before it"),
])
def test_no_clip_is_long_enough(data, call, tmp_path, use, more, message):
    status, errors = call(use, data, *more)
    assert status == 2 and message in refusal(errors) and not (tmp_path / "logs").exists()


@pytest.mark.tried(DOOR, "description of custom data that is damaged or hostile, through the whole program", ONE_LINE)
@pytest.mark.parametrize("use", ["segnet", "evaluate"])
@pytest.mark.parametrize(
    "text, message",
    [
        ("", "must have classes, train and val"), ("[1, 2]", "must have classes, train and val"),
        ("classes:\n\ta: 1", "line 2: not YAML"),
        ("classes: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor for the tag"),
        ("a: &a [1]\n" + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n"
                                for x, y in itertools.pairwise("abcdefghijk")),
         "unknown key a"),
        ("clases: {}", "unknown key clases (did you mean classes?)"),
        (
            yaml.safe_dump({"classes": {"a": {"id": 1}, "b": {"id": 1}}, "val": {"frames": "*", "labels": "*"}}),
            "id 1 belongs to a already",
        ),
    ],
)
def test_damaged_description(call, tmp_path, monkeypatch, text, message, use):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(text)
    status, errors = call(use, tmp_path / "own.yaml", dataset="custom")
    assert status == 2 and message in refusal(errors)
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]


@pytest.mark.tried(DOOR, "--cache-dir that is a file", "one line, status 2")
@pytest.mark.parametrize("use", ["segnet", "evaluate"])
def test_cache_folder_that_is_a_file(data, call, tmp_path, use):
    (tmp_path / "cache").touch()
    status, errors = call(use, data, "--cache-dir", str(tmp_path / "cache"))
    assert status == 2 and f"{tmp_path}/cache" in refusal(errors)
    assert_whole(tmp_path / "logs")


@pytest.mark.tried(
    DOOR, "cache of decoded frames whose entries are cut short or pickles", "the same result as without a cache"
)
def test_damaged_cache_does_not_change_the_result(data, call, tmp_path):
    cache = tmp_path / "cache"
    for run in range(3):
        assert call("evaluate", data, *(["--cache-dir", str(cache)] if run else []))[0] == 0
        for number, path in enumerate(sorted(cache.rglob("*.npy"))):
            np.save(path, np.array([{}], object)) if number % 2 else path.write_bytes(path.read_bytes()[:-9])
    found = [
        json.loads((experiment(tmp_path / "logs", run) / "metrics.json").read_text())["positions"] for run in range(3)
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the CamVid images are not in shared/ next to this repository")
@pytest.mark.tried(DOOR, "--data-path of CamVid one folder off", ONE_LINE)
@pytest.mark.parametrize("root", [SHARED.parent, SHARED / "val"])
def test_camvid_one_folder_off(call, tmp_path, root):
    status, errors = call("evaluate", root, dataset="camvid")
    assert status == 2 and refusal(errors).endswith(f"; --data-path {SHARED} looks right")
    assert not (tmp_path / "logs").exists()


@pytest.mark.tried(
    DOOR, "labels all of another kind (void, trainIds), in every use that learns or measures by them", ONE_LINE
)
@pytest.mark.parametrize("use", ["gsv", "segnet", "gsv on stills", "evaluate"])
@pytest.mark.parametrize(
    "ids, message", [((0, 3), "holds no id of a class of synthetic, only 0, 3"), ((0, 8, 255), "looks like trainIds")]
)
def test_labels_of_another_kind(data, call, tmp_path, ids, message, use):
    picture = np.resize(np.uint8(ids), (64, 128))
    spoil(data, LABEL, lambda path: cv2.imwrite(str(path), picture))
    status, errors = call(use, data)
    assert status == 2 and message in refusal(errors) and not (tmp_path / "logs").exists()
