"""--check 1: it lists every defect, still reads all other files, and accepts clean data."""
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from config.camvid import CAMVID
from dataloaders.dataset_check import scan_file
from dataloaders.find_cityscapes import find_cityscapes
from dataloaders.reader import Reader
from main import main
from tests import pictures
from utils.visualize import legend

DOOR = "Data"
ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 24, 32
READER = Reader(CAMVID)
IDS = np.repeat(np.arange(12, dtype=np.uint8), HEIGHT * WIDTH // 12).reshape(HEIGHT, WIDTH)  # the 11 classes and void


def write(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)
    return path


def image(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def clean(root: Path) -> Path:
    """CamVid's stills layout: four frames of train that are not consecutive, six of val that are."""
    for split, numbers in (("train", range(30, 150, 30)), ("val", range(7959, 7971, 2))):
        for number in numbers:
            write(root / split / f"0016E5_{number:05d}.png", image(number))
            write(root / f"{split}annot" / f"0016E5_{number:05d}.png", IDS)
    return root


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """The clean tree with every defect added to its train split; class 10, bicyclist, occurs nowhere."""
    root = clean(tmp_path_factory.mktemp("camvid") / "broken")
    frames, labels = root / "train", root / "trainannot"
    ids = np.where(IDS == 10, 255, IDS).astype(np.uint8)
    for path in root.glob("*annot/*.png"):
        write(path, ids)
    odd = np.where(IDS == 3, 77, ids).astype(np.uint8)
    given = dict(bits=ids.astype(np.uint16), colour=np.dstack([ids] * 3), small=ids[:12], odd=odd, cut=ids,
                 flipped=ids, cutframe=ids, empty=ids, twin=ids, copy=ids % 8, lost1=ids, lost2=ids)
    for number, (name, label) in enumerate(given.items()):
        write(labels / f"{name}.png", label)
        if not name.startswith("lost"):
            write(frames / f"{name}.png", image(number))
    write(labels / "large.png", np.zeros((48, 64), np.uint8))
    write(frames / "large.png", image(7, 48, 64))
    for number in range(4):
        write(frames / f"bare{number}.png", image(90 + number))
    cut(labels / "cut.png")
    flip(labels / "flipped.png")
    cut(frames / "cutframe.png")
    (frames / "empty.png").write_bytes(b"")
    for name, number in (("twin", 7961), ("copy", 7963)):
        (frames / f"{name}.png").write_bytes((root / f"val/0016E5_{number:05d}.png").read_bytes())
    return root


def run(root: Path, output: Path, *words: str, dataset: str = "camvid") -> tuple[int, dict]:
    status = main(["--check", "1", "--dataset", dataset, "--data-path", str(root), "--output", str(output), *words])
    path = output / "check.json"
    return status, json.loads(path.read_text()) if path.is_file() else {}


def test_clean_data_has_no_problems(tmp_path, capsys):
    status, content = run(clean(tmp_path / "data"), tmp_path / "check", "--pictures", "2", "--num-worker", "2")
    console = capsys.readouterr()
    assert (status, content["problems"], console.err) == (0, [], "")
    assert console.out.splitlines()[-1] == "0 problems"
    val = content["splits"]["val"]
    assert (val["labelled_frames"], val["videos"]) == (6, 1)
    assert val["frames_before"] == {"0": 1, "1": 1, "2": 1, "3": 1, "4": 2}
    assert content["splits"]["train"]["frames_before"] == {"0": 4, "1": 0, "2": 0, "3": 0, "4": 0}
    before = "1 with 0, 1 with 1, 1 with 2, 1 with 3, 2 with 4 or more"
    assert f"videos: 1; frames before the labelled ones: {before}\n" in console.out
    assert val["frame_sizes"] == {"32 x 24": 6} and "6 labelled frames; sizes: 32 x 24 (6)" in console.out
    path = str(tmp_path / "data/valannot/0016E5_07959.png")
    first = {"name": "sky", "ids": [0], "pixels": 6 * 64, "files": 6, "first": path}
    share, weight = pytest.approx(1 / 11), pytest.approx(1 / math.log(1.02 + 1 / 11))
    assert val["classes"][0] == first | {"share": share, "weight": weight}
    assert val["unknown_ids"] == [first | {"name": "void", "ids": [11]}]
    assert val["pictures"] == ["val_0_0016E5_07959.png", "val_1_0016E5_07965.png"]
    assert sorted(path.name for path in (tmp_path / "check").glob("val*")) == val["pictures"]


def test_pictures_show_frame_label_and_legend(tmp_path):
    run(clean(tmp_path / "data"), tmp_path / "check", "--split", "val", "--pictures", "1")
    picture = cv2.imread(str(tmp_path / "check" / "val_0_0016E5_07959.png"))[..., ::-1]
    strip = legend(CAMVID.classes, CAMVID.colours, 960)
    assert picture.shape == (24 + 360 + len(strip), 960, 3) and (picture[-len(strip) :] == strip).all()
    shown = {tuple(pixel) for pixel in strip.reshape(-1, 3).tolist()}
    assert set(CAMVID.colours) <= shown
    frame, painted = picture[24:384, :480], picture[24:384, 480:]
    assert (frame[-25:] == painted[-25:]).all()  # void
    assert (frame[:25] != painted[:25]).any()


@pytest.mark.tried(
    DOOR, "every defect of labels at once, through --check 1", "each listed and counted, status 1"
)
def test_every_defect_is_listed_and_counted(broken, tmp_path, capsys):
    status, content = run(broken, tmp_path)
    console = capsys.readouterr().out
    frames, labels = broken / "train", broken / "trainannot"
    damaged = (labels / "cut.png", labels / "flipped.png", frames / "cutframe.png")
    size = {path.stem: path.stat().st_size for path in damaged}
    restore = "restore the file from the data set"
    expected = [
        *(("labels without a frame",
           f"{frames}/{name}.png: missing, but {labels}/{name}.png labels it; restore it, or remove the label")
          for name in ("lost1", "lost2")),
        ("frames without a label", f"4 unused: {frames}/bare0.png, {frames}/bare1.png, {frames}/bare2.png, ..."),
        ("labels that hold no ids",
         f"{labels}/bits.png: this label is a PNG of 16 bits a channel; save it with 8 bits"),
        ("unreadable files", f"{labels}/cut.png: not a readable picture ({size['cut']} bytes); {restore}"),
        ("unreadable files", f"{frames}/cutframe.png: not a readable picture ({size['cutframe']} bytes); {restore}"),
        ("unreadable files", f"{frames}/empty.png: not a readable picture (0 bytes); {restore}"),
        ("unreadable files", f"{labels}/flipped.png: not a readable picture ({size['flipped']} bytes); {restore}"),
        ("labels of another size than their frame",
         f"{labels}/small.png: 32 x 12 pixels, but {frames}/small.png has 32 x 24"),
        ("ids without a class",
         f"77: 64 pixels; files: 1, first {labels}/odd.png; ignored: add the id to a class, or use 255 for void"),
        ("classes that never occur", "bicyclist"),
    ]
    twins = [
        f"{broken}/val/0016E5_07961.png is {frames}/twin.png, with the same label",
        f"{broken}/val/0016E5_07963.png is {frames}/copy.png, with another label",
    ]
    found = [(problem["kind"], problem["text"]) for problem in content["problems"] if problem["split"] == "train"]
    assert found == expected
    rest = [tuple(problem.values()) for problem in content["problems"][len(found) :]]
    assert rest == [("frames that are also in train", "val", text) for text in twins]
    for kind, text in expected:
        count = sum(kind == other for other, _ in expected)
        assert f"\n{kind} ({count})\n" in console and f"\n  train: {text}\n" in console
    assert status == 1 and console.splitlines()[-1] == f"{len(expected) + 2} problems"
    train = content["splits"]["train"]
    assert (train["labelled_frames"], train["videos"], train["frames_before"]["0"]) == (15, 15, 15)
    assert [row["name"] for row in train["unknown_ids"]] == ["void", "no class", "void"]
    assert train["classes"][3]["files"] == 10


def test_many_problems_of_a_kind_are_all_in_the_file_but_not_on_the_console(tmp_path, capsys):
    root = clean(tmp_path / "data")
    for number in range(30):
        (root / f"valannot/lost{number}.png").touch()
    status, content = run(root, tmp_path / "check")
    console = capsys.readouterr().out
    assert status == 1 and len(content["problems"]) == 30
    assert console.count("annot/lost") == 20 and "\n  ... and 10 more, in check.json\n" in console


@pytest.mark.tried(DOOR, "split missing, through --check 1", "listed, the other split checked")
def test_one_split_is_checked_without_the_other(tmp_path, capsys):
    root = clean(tmp_path / "data")
    (root / "trainannot").rename(root / "elsewhere")
    status, content = run(root, tmp_path / "check")
    (problem,) = content["problems"]
    assert (status, problem["kind"], problem["split"]) == (1, "missing or misplaced files", "train")
    assert "no CamVid here" in problem["text"] and content["splits"]["val"]["labelled_frames"] == 6
    assert run(root, tmp_path / "check", "--split", "val")[0] == 0
    capsys.readouterr()
    assert run(root, tmp_path / "check", "--split", "train")[0] == 2
    assert capsys.readouterr().err.startswith(f"error: {root}: no CamVid here")


@pytest.mark.tried(DOOR, "all frames missing, through --check 1", "each label listed, status 1")
def test_labels_without_any_frame_are_all_listed(tmp_path):
    root = clean(tmp_path / "data")
    for path in (root / "val").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    status, content = run(root, tmp_path / "check", "--split", "val")
    kinds = [problem["kind"] for problem in content["problems"]]
    assert status == 1 and kinds == ["labels without a frame"] * 6 + ["frames without a label"]


@pytest.mark.tried(DOOR, "--check 1 with invalid options", "refused in one line, status 2, nothing written")
@pytest.mark.parametrize(
    "words, message",
    [
        (["--dataset", "camvid", "--data-path", "nowhere"],
         "nowhere: no such folder; --data-path must be the folder of camvid"),
        (["--dataset", "synthetic", "--data-path", "nowhere"],
         "nowhere: no such folder; generate the streets with: python -m streets --root nowhere"),
        (["--dataset", "custom"], "--dataset custom requires --data-path FILE.yaml"),
        (["--dataset", "kitti"], "--dataset: invalid value 'kitti'; choose from cityscapes_2k, "),
        (["--dataset", "camvid", "--splits", "val"], "unknown option --splits (did you mean --split?)"),
        (["--dataset", "camvid", "--split"], "argument --split: expected at least one argument"),
        (["--dataset", "camvid", "--num-worker", "-1"], "--num-worker must be at least 0"),
        (["--dataset", "camvid", "--data-path", "data", "--output", "taken"], "taken: File exists"),
    ],
)
def test_invalid_options_are_refused_in_one_line_with_status_2(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    clean(tmp_path / "data")
    (tmp_path / "taken").touch()
    assert main(["--check", "1", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "taken"]


def test_synthetic_streets_are_checked_and_not_changed(streets, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in streets.rglob("*"))
    _, content = run(streets, tmp_path, dataset="synthetic")
    assert sorted((path, path.stat().st_mtime_ns) for path in streets.rglob("*")) == before
    counts = {split: (part["labelled_frames"], part["videos"]) for split, part in content["splits"].items()}
    assert counts == {"train": (18, 3), "val": (12, 2)}
    assert {problem["kind"] for problem in content["problems"]} <= {"classes that never occur"}


def test_video_layouts_may_leave_frames_without_labels_but_not_labels_without_frames(tmp_path):
    for number in range(7950, 7962):
        write(tmp_path / f"camvid/frames/0016E5/0016E5_{number:05d}.png", image(number))
        name = f"val/ulm/ulm_000004_{number:06d}_leftImg8bit.png"
        write(tmp_path / "cityscapes/leftImg8bit_sequence" / name, image(number))
    for number in (7959, 7961, 7963):
        write(tmp_path / f"camvid/label_id/0016E5_{number:05d}_L.png", np.where(IDS == 0, 0, IDS + 20).astype(np.uint8))
        write(tmp_path / f"cityscapes/gtFine/val/ulm/ulm_000004_{number:06d}_gtFine_labelIds.png", IDS)
    # Frames of the split: CamVid's at 15 Hz, Cityscapes' all.
    for dataset, name, bare in (("camvid", "camvid", 0), ("cityscapes_2k", "cityscapes", 10)):
        _, content = run(tmp_path / name, tmp_path / "check", "--split", "val", dataset=dataset)
        part = content["splits"]["val"]
        kinds = [problem["kind"] for problem in content["problems"] if problem["kind"] != "classes that never occur"]
        assert kinds == ["labels without a frame"] and "7963" in content["problems"][0]["text"]
        assert part["labelled_frames"] == 2 and {row["name"] for row in part["unknown_ids"]} == {"void"}
        assert part["frames_without_label"] == bare


def describe(root: Path, **splits) -> Path:
    classes = {str(i): {"id": i} for i in range(10)} | {"last": {"ids": [10, 11]}}
    (root / "own.yaml").write_text(yaml.safe_dump({"classes": classes, **splits}))
    return root / "own.yaml"


def test_custom_data_of_one_split_with_a_damaged_past(tmp_path, capsys):
    for t in range(1, 6):
        write(tmp_path / f"f/a/{t}.png", image(t))
    write(tmp_path / "l/a/5.png", IDS)
    file = describe(tmp_path, val={"frames": "f/*/*.png", "labels": "l/*/*.png"})
    status, content = run(file, tmp_path / "check", dataset="custom")
    assert (status, list(content["splits"]), content["dataset"]) == (0, ["val"], "own")
    assert content["splits"]["val"]["classes"][10]["ids"] == [10, 11]
    assert content["splits"]["val"]["frames_without_label"] == 4
    assert "4 frames of videos have no label" in capsys.readouterr().out
    flip(tmp_path / "f/a/2.png")
    write(tmp_path / "f/a/3.png", image(3, 12))
    status, content = run(file, tmp_path / "check", dataset="custom")
    assert [(problem["kind"], problem["text"].split(":")[0]) for problem in content["problems"]] == [
        ("unreadable files", str(tmp_path / "f/a/2.png")), ("frames of different sizes", str(tmp_path / "f/a/5.png"))
    ]


def test_problem_of_the_finder_is_listed_and_the_rest_checked(tmp_path):
    for name in ("f/1.png", "f/2.png"):
        write(tmp_path / name, image(1))
    for name in ("l/a/1.png", "l/b/1.png", "l/a/2.png"):
        write(tmp_path / name, IDS)
    stills = {"frames": "f/*.png", "labels": "l/*/*.png", "video": False}
    status, content = run(describe(tmp_path, train=stills), tmp_path / "check", dataset="custom")
    (problem,) = content["problems"]
    assert (status, problem["kind"]) == (1, "missing or misplaced files")
    assert "two labels for this frame" in problem["text"] and content["splits"]["train"]["labelled_frames"] == 2


def test_all_problems_of_a_finder_are_listed(tmp_path):
    for name in ("f/a/x1.png", "f/a/x.png", "f/b/x1.png"):
        write(tmp_path / name, image(1))
    for name in ("l/x1.png", "l/x7.png", "l/x8.png"):
        write(tmp_path / name, IDS)
    parts = [{"frames": "f/*/*.png", "labels": "l/*.png", "step": 1}, {"frames": "g/*.png", "labels": "l/*.png"}]
    _, content = run(describe(tmp_path, val=parts), tmp_path / "check", dataset="custom")
    texts = [problem["text"] for problem in content["problems"] if problem["kind"] != "classes that never occur"]
    expected = ("two frames for this label", "l/x7.png: no frame", "l/x8.png: no frame", "no number in 'x'",
                "g/*.png matches no file")
    assert len(texts) == len(expected) and all(part in text for part, text in zip(expected, texts))
    assert content["splits"]["val"]["labelled_frames"] == 1


def test_misnamed_cityscapes_label_is_listed_though_training_skips_it(tmp_path):
    for name in ("ulm_000000_000001", "ulm_1"):
        write(tmp_path / f"leftImg8bit/val/ulm/{name}_leftImg8bit.png", image(1))
        write(tmp_path / f"gtFine/val/ulm/{name}_gtFine_labelIds.png", IDS + 20)
    assert len(find_cityscapes(tmp_path, "val", 0)) == 1
    _, content = run(tmp_path, tmp_path / "check", "--split", "val", dataset="cityscapes_2k")
    kinds = {problem["kind"]: problem["text"] for problem in content["problems"]}
    assert "ulm_1_gtFine_labelIds.png: not named CITY_SEQ_FRAME_gtFine" in kinds["labels without a frame"]
    assert kinds["frames without a label"] == f"1 unused: {tmp_path}/leftImg8bit/val/ulm/ulm_1_leftImg8bit.png"


@pytest.mark.tried(DOOR, "PNG damaged or cut at every seventh byte, through --check 1", "reported as unreadable")
@pytest.mark.parametrize("is_label", [True, False])
def test_no_damage_crashes(outcomes, tmp_path, is_label):
    path = write(tmp_path / "a.png", IDS if is_label else image(0))
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        for content in (whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :], whole[:place]):
            path.write_bytes(content)
            assert scan_file(path, is_label, READER).problem
            outcomes["reported as unreadable"] += 1
    path.write_bytes(whole)
    assert scan_file(path, is_label, READER).size == "32 x 24"


@pytest.mark.tried(
    DOOR, "hostile pictures, folders, pipes and broken links, through --check 1", "each listed, status 1"
)
@pytest.mark.parametrize("is_label", [True, False])
def test_hostile_files_are_listed(tmp_path, is_label):
    root = clean(tmp_path / "data")
    folder = root / ("trainannot" if is_label else "train")
    contents = {**pictures.HOSTILE, **pictures.BOMBS, **pictures.BROKEN}
    for number, content in enumerate(contents.values()):
        for side in ("train", "trainannot"):
            write(root / side / f"bad{number:02d}.png", IDS)
        (folder / f"bad{number:02d}.png").write_bytes(content)
    status, content = run(root, tmp_path / "check", "--split", "train", "--pictures", "0")
    kinds = ("unreadable files", "labels that hold no ids")
    faults = [problem for problem in content["problems"] if problem["kind"] in kinds]
    assert status == 1 and [problem["text"].split(":")[0] for problem in faults] == [
        str(folder / f"bad{number:02d}.png") for number in range(len(contents))
    ]
    for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")):
        make(tmp_path / "other.png")
        assert scan_file(tmp_path / "other.png", is_label, READER).problem.text.startswith(f"{tmp_path}/other.png: ")
        (tmp_path / "other.png").rename(tmp_path / f"before_{make!r}".replace("/", ""))


@pytest.mark.tried(DOOR, "frames that EXIF data rotate in viewers, through --check 1", "each listed, status 1")
def test_turned_frames_are_listed(tmp_path):
    write(tmp_path / "l/1.png", IDS)
    (tmp_path / "f").mkdir()
    (tmp_path / "f/1.jpg").write_bytes(pictures.FRAMES["turned JPEG"][0])
    stills = {"frames": "f/*.jpg", "labels": "l/*.png", "video": False}
    status, content = run(describe(tmp_path, val=stills), tmp_path / "check", dataset="custom")
    (problem,) = content["problems"]
    assert (status, problem["kind"]) == (1, "frames that viewers rotate")
    assert problem["text"] == f"{tmp_path}/f/1.jpg: rotated by EXIF data; its label is read as stored"


@pytest.mark.tried(DOOR, "trainIds in place of labelIds, through --check 1", "each listed, status 1")
def test_train_ids_are_listed(tmp_path):
    for number in (1, 2):
        name = f"val/ulm/ulm_000000_{number:06d}"
        write(tmp_path / f"leftImg8bit/{name}_leftImg8bit.png", image(number))
        ids = np.where(IDS == 11, 255, IDS).astype(np.uint8) if number == 1 else IDS + 20
        write(tmp_path / f"gtFine/{name}_gtFine_labelIds.png", ids)
    status, content = run(tmp_path, tmp_path / "check", "--split", "val", dataset="cityscapes_2k")
    texts = [problem["text"] for problem in content["problems"] if problem["kind"] == "labels of another kind"]
    label = f"{tmp_path}/gtFine/val/ulm/ulm_000000_000001_gtFine_labelIds.png"
    assert status == 1 and texts == [f"{label}: looks like trainIds (0 to 18, 255); labelIds are required"]


@pytest.mark.tried(DOOR, "link to a missing file, through --check 1", "listed, the rest checked")
def test_broken_link_among_custom_data_is_listed(tmp_path):
    for t in range(1, 4):
        write(tmp_path / f"f/{t}.png", image(t))
        write(tmp_path / f"l/{t}.png", IDS)
    (tmp_path / "f/4.png").symlink_to("nowhere")
    file = describe(tmp_path, val={"frames": "f/*.png", "labels": "l/*.png"})
    status, content = run(file, tmp_path / "check", dataset="custom")
    (problem,) = content["problems"]
    assert status == 1 and problem["text"].startswith(f"{tmp_path}/f/4.png: a link to a missing file")
    assert content["splits"]["val"]["labelled_frames"] == 3


@pytest.mark.slow
def test_as_a_program(broken, tmp_path):
    command = [sys.executable, str(ROOT / "main.py"), "--check", "1", "--dataset", "camvid", "--data-path", str(broken)]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "13 problems" and (tmp_path / "check" / "check.json").is_file()
