"""Labelled frames in the Cityscapes layout: which sequence each belongs to, and what is skipped."""
from pathlib import Path

import pytest

from config.errors import UserError
from dataloaders.find_cityscapes import find_cityscapes

DOOR = "Data"


def touch(root: Path, city: str, sequence: int, frames, labelled=()) -> Path:
    for kind, numbers, ending in (
        ("leftImg8bit_sequence", frames, "leftImg8bit"), ("gtFine", labelled, "gtFine_labelIds"),
        ("flow", labelled, "flow"),
    ):
        folder = root / kind / "val" / city
        folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            (folder / f"{city}_{sequence:06d}_{number:06d}_{ending}.png").touch()
    return root


def test_past_never_crosses_into_another_sequence_or_city(tmp_path):
    touch(tmp_path, "ulm", 4, [17, 18])
    touch(tmp_path, "ulm", 5, [19], [19])
    touch(tmp_path, "bonn", 5, [18])
    (frame,) = find_cityscapes(tmp_path, "val", 4)
    assert [path.name for path in frame.frames] == ["ulm_000005_000019_leftImg8bit.png"]


def test_frames_come_in_order_of_city_sequence_and_number(tmp_path):
    for city, sequence, number in (("ulm", 1, 3), ("bonn", 2, 1), ("bonn", 1, 9), ("bonn", 1, 2)):
        touch(tmp_path, city, sequence, [number], [number])
    names = [frame.name for frame in find_cityscapes(tmp_path, "val", 0)]
    assert names == ["bonn_000001_000002", "bonn_000001_000009", "bonn_000002_000001", "ulm_000001_000003"]


def test_past_stops_at_frame_zero(tmp_path):
    (frame,) = find_cityscapes(touch(tmp_path, "ulm", 0, range(3), [2]), "val", 9)
    assert len(frame.frames) == 3


def test_true_flow_is_taken_where_it_exists(tmp_path):
    touch(tmp_path, "ulm", 0, [0, 1], [0, 1])
    (tmp_path / "flow/val/ulm/ulm_000000_000000_flow.png").unlink()
    first, second = find_cityscapes(tmp_path, "val", 1)
    assert first.flow is None and second.flow.name == "ulm_000000_000001_flow.png"


def test_city_names_may_hold_underscores(tmp_path):
    (frame,) = find_cityscapes(touch(tmp_path, "bad_honnef", 0, [0, 1], [1]), "val", 1)
    assert frame.name == "bad_honnef_000000_000001" and len(frame.frames) == 2


@pytest.mark.tried(
    DOOR, "Cityscapes split without labels, or with other labels than labelIds",
    "refused in one line, with what is there",
)
@pytest.mark.parametrize(
    "there, said",
    [([], "is empty"), (["color", "labelTrainIds"], "holds ulm_gtFine_color.png, ulm_gtFine_labelTrainIds")],
)
def test_split_without_labels_is_an_error(tmp_path, there, said):
    touch(tmp_path, "ulm", 0, range(3))
    for kind in there:
        (tmp_path / f"gtFine/val/ulm/ulm_gtFine_{kind}.png").touch()
    message = rf"gtFine/val: holds no CITY/\*_gtFine_labelIds.png; {tmp_path}/gtFine/val/ulm {said}"
    with pytest.raises(UserError, match=message):
        find_cityscapes(tmp_path, "val", 0)


@pytest.mark.tried(DOOR, "Cityscapes split in another place", "refused in one line, with what is there")
def test_other_split_is_not_mixed_in(tmp_path):
    touch(tmp_path, "ulm", 0, [0], [0])
    with pytest.raises(UserError, match=f"gtFine/train: no such folder; .*; {tmp_path}/gtFine holds val$"):
        find_cityscapes(tmp_path, "train", 0)


@pytest.mark.tried(DOOR, "--data-path of Cityscapes one folder off", "named with the path that looks right")
@pytest.mark.parametrize("given", ["gtFine", "leftImg8bit_sequence", "leftImg8bit_sequence/val/ulm", ".."])
def test_folder_above_or_below_is_suggested(tmp_path, given):
    root = touch(tmp_path / "data" / "cityscapes", "ulm", 0, [0], [0])
    with pytest.raises(UserError, match=f"no such folder; --data-path must hold .*; --data-path {root} looks right$"):
        find_cityscapes((root / given).resolve(), "val", 0)


@pytest.mark.tried(DOOR, "hidden files among the data, as `._a.png` of an archive", "skipped")
def test_hidden_labels_are_skipped(tmp_path):
    touch(tmp_path, "ulm", 0, [0], [0])
    (tmp_path / "gtFine/val/ulm/._ulm_000000_000000_gtFine_labelIds.png").touch()
    assert [frame.name for frame in find_cityscapes(tmp_path, "val", 0)] == ["ulm_000000_000000"]


@pytest.mark.tried(DOOR, "folder that cannot be listed", "refused in one line")
def test_closed_folder_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "ulm", 0, [0], [0])
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    message = "gtFine/val: cannot be listed .Permission denied.; check the path and its permissions"
    with pytest.raises(UserError, match=message):
        find_cityscapes(tmp_path, "val", 0)


@pytest.mark.tried(DOOR, "frame missing in the middle of a sequence", "the past ends there, so no clip crosses the gap")
@pytest.mark.parametrize("missing, past", [(1, 2), (2, 1), (3, 0)])
def test_gap_ends_the_past(tmp_path, missing, past):
    touch(tmp_path, "ulm", 0, [t for t in range(5) if t != missing], [4])
    (frame,) = find_cityscapes(tmp_path, "val", 4)
    assert [int(path.name.split("_")[2]) for path in frame.frames] == list(range(4 - past, 5))


def test_stills_of_the_usual_download_are_used_without_the_sequences(tmp_path):
    name = "aachen_000001_000019"
    for folder, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        path = tmp_path / folder / "train" / "aachen" / f"{name}_{ending}.png"
        path.parent.mkdir(parents=True)
        path.touch()
    (frame,) = find_cityscapes(tmp_path, "train", 0)
    assert frame.name == name
    assert frame.frames == (tmp_path / "leftImg8bit" / "train" / "aachen" / f"{name}_leftImg8bit.png",)
