"""CamVid: the published split number by number, mistakes in both layouts, and the real label files."""
from pathlib import Path

import numpy as np
import pytest

from config.camvid import CAMVID
from config.errors import UserError
from dataloaders.find_camvid import find_camvid, split_of
from dataloaders.images import label_table, read_ids, read_image

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "camvid"
DOOR = "Data"
SPLIT = {
    "train": [f"0001TP_{n:06d}" for n in range(6690, 8521, 30)] + [f"0006R0_f{n:05d}" for n in range(930, 3931, 30)],
    "val": [f"0016E5_{n:05d}" for n in range(7959, 8160, 2)],
    "test": [f"0001TP_{n:06d}" for n in range(8550, 10381, 30)] + [f"Seq05VD_f{n:05d}" for n in range(0, 5101, 30)],
}


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("split, count", [("train", 62 + 101), ("val", 101), ("test", 233)])
def test_published_names_are_in_their_split(split, count):
    assert len(SPLIT[split]) == count
    assert {split_of(name) for name in SPLIT[split]} == {split}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_video_layout_is_split_by_name(tmp_path, split):
    for names in SPLIT.values():
        for name in (names[0], names[-1]):
            touch(tmp_path / "frames" / name.split("_")[0] / f"{name}.png")
            touch(tmp_path / "label_id" / f"{name}_L.png")
    assert {frame.name for frame in find_camvid(tmp_path, split, 0)} == {SPLIT[split][0], SPLIT[split][-1]}


@pytest.mark.tried(DOOR, "frame missing in the middle of a sequence", "the past ends there, so no clip crosses the gap")
def test_video_gap_ends_the_past(tmp_path):
    for number in (7956, 7958, 7959):
        touch(tmp_path / f"frames/0016E5/0016E5_{number:05d}.png")
    touch(tmp_path / "label_id/0016E5_07959_L.png")
    (frame,) = find_camvid(tmp_path, "val", 4)
    assert [path.stem for path in frame.frames] == ["0016E5_07958", "0016E5_07959"]


@pytest.mark.tried(DOOR, "CamVid label without its frame", "refused in one line")
def test_video_label_without_its_frame_is_an_error(tmp_path):
    touch(tmp_path / "label_id/0016E5_07959_L.png")
    message = "0016E5/0016E5_07959.png: missing, but .*0016E5_07959_L.png labels it; restore it, or remove"
    with pytest.raises(UserError, match=message):
        find_camvid(tmp_path, "val", 4)


@pytest.mark.tried(DOOR, "CamVid folder without labels of the split", "refused in one line, with what is there")
def test_video_split_without_labels_is_an_error(tmp_path):
    touch(tmp_path / "frames/0016E5/0016E5_07959.png")
    touch(tmp_path / "label_id/0016E5_07959_L.png")
    message = "holds no labels NAME_L.png of the train split; .*label_id holds 0016E5_07959_L.png"
    with pytest.raises(UserError, match=message):
        find_camvid(tmp_path, "train", 0)


@pytest.mark.tried(DOOR, "CamVid label without its frame", "refused in one line")
def test_still_without_its_frame_is_an_error(tmp_path):
    touch(tmp_path / "valannot/0016E5_07959.png")
    with pytest.raises(UserError, match="val/0016E5_07959.png: missing"):
        find_camvid(tmp_path, "val", 0)


@pytest.mark.tried(DOOR, "CamVid folder without labels of the split", "refused in one line, with what is there")
@pytest.mark.parametrize("there, said", [([], "is empty"), (["a.PNG", "b.jpg"], "holds a.PNG, b.jpg")])
def test_empty_label_folder_is_an_error(tmp_path, there, said):
    (tmp_path / "valannot").mkdir()
    for name in there:
        touch(tmp_path / "valannot" / name)
    with pytest.raises(UserError, match=f"valannot: holds no labels .NAME.png.; .*valannot {said}"):
        find_camvid(tmp_path, "val", 0)


@pytest.mark.tried(DOOR, "CamVid split in another place", "refused in one line, with what is there")
def test_missing_split_is_an_error(tmp_path):
    for name in ("train/0001TP_000010.png", "trainannot/0001TP_000010.png"):
        touch(tmp_path / name)
    message = f"no CamVid here; .* val/NAME.png with valannot/NAME.png, .*; {tmp_path} holds train, trainannot$"
    with pytest.raises(UserError, match=message):
        find_camvid(tmp_path, "val", 0)


@pytest.mark.tried(DOOR, "hidden files among the data, as `._a.png` of an archive", "skipped")
@pytest.mark.parametrize("layout", ["stills", "video"])
def test_hidden_labels_are_skipped(tmp_path, layout):
    frames, labels, end = ("val", "valannot", "") if layout == "stills" else ("frames/0016E5", "label_id", "_L")
    for name in ("0016E5_07959", "._0016E5_07959"):
        touch(tmp_path / labels / f"{name}{end}.png")
    touch(tmp_path / frames / "0016E5_07959.png")
    assert [frame.name for frame in find_camvid(tmp_path, "val", 0)] == ["0016E5_07959"]


@pytest.mark.tried(DOOR, "folder that cannot be listed", "refused in one line")
@pytest.mark.parametrize("labels", ["valannot", "label_id"])
def test_closed_folder_is_an_error(tmp_path, monkeypatch, labels):
    (tmp_path / labels).mkdir()
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    message = f"{labels}: cannot be listed .Permission denied.; check the path and its permissions"
    with pytest.raises(UserError, match=message):
        find_camvid(tmp_path, "val", 0)


@pytest.mark.tried(DOOR, "frame missing in the middle of a sequence", "the past ends there, so no clip crosses the gap")
def test_gap_among_stills_ends_the_past(tmp_path):
    for number in (7959, 7961, 7965, 7967):
        touch(tmp_path / f"val/0016E5_{number:05d}.png")
        touch(tmp_path / f"valannot/0016E5_{number:05d}.png")
    assert [len(frame.frames) for frame in find_camvid(tmp_path, "val", 4)] == [1, 2, 1, 2]


def test_stills_of_two_sequences_are_not_joined(tmp_path):
    for name in ("0001TP_000010", "0006R0_f00011"):
        touch(tmp_path / f"train/{name}.png")
        touch(tmp_path / f"trainannot/{name}.png")
    assert [len(frame.frames) for frame in find_camvid(tmp_path, "train", 4)] == [1, 1]


def test_past_of_a_still_has_the_requested_length(tmp_path):
    for number in range(7959, 7980, 2):
        touch(tmp_path / f"val/0016E5_{number:05d}.png")
        touch(tmp_path / f"valannot/0016E5_{number:05d}.png")
    last = find_camvid(tmp_path, "val", 4)[-1]
    assert [path.stem for path in last.frames] == [f"0016E5_{number:05d}" for number in range(7971, 7980, 2)]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the CamVid images are not next to this repository")
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_labels_hold_classes_and_void_at_the_size_of_their_frames(split):
    table, seen = label_table(CAMVID), set()
    for frame in find_camvid(SHARED, split, 0)[::20]:
        label = table[read_ids(frame.label)]
        assert label.shape == read_image(frame.frames[-1]).shape[:2] == (360, 480)
        seen |= set(np.unique(label).tolist())
    assert seen == set(range(11)) | {250}
