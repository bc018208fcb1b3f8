"""Labelled frames found in folders."""
from pathlib import Path

import pytest

from config.errors import UserError
from dataloaders.clips import with_past
from dataloaders.find_camvid import find_camvid, split_of
from dataloaders.find_cityscapes import find_cityscapes
from dataloaders.loaders import labelled_frames

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "camvid"


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def cityscapes(root: Path, frames, labelled=(19,)) -> Path:
    for t in frames:
        touch(root / f"leftImg8bit_sequence/val/ulm/ulm_000004_{t:06d}_leftImg8bit.png")
    for t in labelled:
        touch(root / f"gtFine/val/ulm/ulm_000004_{t:06d}_gtFine_labelIds.png")
        touch(root / f"gtFine/val/ulm/ulm_000004_{t:06d}_gtFine_color.png")
    return root


def test_cityscapes_frame_comes_with_its_past(tmp_path):
    (frame,) = find_cityscapes(cityscapes(tmp_path, range(30)), "val", 4)
    assert [path.name.split("_")[2] for path in frame.frames] == [f"{t:06d}" for t in range(15, 20)]
    assert frame.name == "ulm_000004_000019" and frame.prediction == "ulm_000004_000019_pred_labelIds.png"


@pytest.mark.tried(
    "Data", "frame missing in the middle of a sequence", "the past ends there, so no clip crosses the gap"
)
def test_cityscapes_gap_ends_the_past(tmp_path):
    (frame,) = find_cityscapes(cityscapes(tmp_path, [10, 11, 17, 18, 19]), "val", 4)
    assert len(frame.frames) == 3
    assert with_past([frame], 2) and not with_past([frame], 3)


@pytest.mark.tried("Data", "Cityscapes label without its frame", "refused in one line")
def test_cityscapes_label_without_its_frame_is_an_error(tmp_path):
    with pytest.raises(UserError, match="ulm_000004_000019_leftImg8bit.png: missing"):
        find_cityscapes(cityscapes(tmp_path, [18]), "val", 4)


@pytest.mark.tried("Data", "Cityscapes split in another place", "refused in one line, with what is there")
def test_cityscapes_in_another_layout_is_an_error(tmp_path):
    with pytest.raises(UserError, match="--data-path must hold gtFine/val/CITY"):
        find_cityscapes(tmp_path, "val", 4)


def test_camvid_stills_form_runs_where_they_are_consecutive(tmp_path):
    for number in (7959, 7961, 7963, 7999):
        touch(tmp_path / f"val/0016E5_{number:05d}.png")
        touch(tmp_path / f"valannot/0016E5_{number:05d}.png")
    frames = find_camvid(tmp_path, "val", 4)
    assert [len(frame.frames) for frame in frames] == [1, 2, 3, 1]
    assert len(find_camvid(tmp_path, "val", 0)[2].frames) == 1


def test_camvid_video_layout(tmp_path):
    for number in range(6684, 6691):
        touch(tmp_path / f"frames/0001TP/0001TP_{number:06d}.png")
    for number in range(925, 931):
        touch(tmp_path / f"frames/0006R0/0006R0_f{number:05d}.png")
    touch(tmp_path / "label_id/0001TP_006690_L.png")
    touch(tmp_path / "label_id/0006R0_f00930_L.png")
    frames = {frame.name: frame for frame in find_camvid(tmp_path, "train", 4)}
    assert {name: len(frame.frames) for name, frame in frames.items()} == {"0001TP_006690": 5, "0006R0_f00930": 5}
    assert frames["0006R0_f00930"].frames[0].name == "0006R0_f00926.png"


@pytest.mark.tried("Data", "CamVid split in another place", "refused in one line, with what is there")
def test_camvid_elsewhere_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no CamVid here"):
        find_camvid(tmp_path, "train", 0)


@pytest.mark.parametrize(
    "name, split",
    [("0001TP_006690", "train"), ("0001TP_008520", "train"), ("0001TP_008550", "test"), ("0006R0_f03930", "train"),
     ("0016E5_00390", "train"), ("0016E5_08640", "train"), ("0016E5_00901", "train"), ("0016E5_07959", "val"),
     ("0016E5_08159", "val"),
     ("Seq05VD_f05100", "test"), ("elsewhere", None)],
)
def test_camvid_split(name, split):
    assert split_of(name) == split


def test_real_camvid_has_its_367_and_101_frames():
    if not SHARED.is_dir():
        pytest.skip("the CamVid images are not next to this repository")
    train = labelled_frames(dataset="camvid", root=SHARED, split="train", past=4)
    val = labelled_frames(dataset="camvid", root=SHARED, split="val", past=4)
    assert (len(train), len(val)) == (367, 101)
    assert {split_of(frame.name) for frame in train} == {"train"} and {split_of(frame.name) for frame in val} == {"val"}
    assert [len(with_past(val, k)) for k in range(5)] == [101, 100, 99, 98, 97]
