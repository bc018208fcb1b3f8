"""Hints about a folder that is not the data set it should be."""
from pathlib import Path

import pytest

from config.errors import UserError
from config.folders import CITYSCAPES, advice, contents, kind_of, listed, nearest

SIGNS = {  # entries that identify the layouts
    "cityscapes_2k": ["gtFine", "leftImg8bit"],
    "synthetic": ["gtFine", "leftImg8bit_sequence", "synthetic.json"],
    "camvid": ["train", "trainannot"],
    "custom": ["dataset.yaml", "frames"],
}


def lay(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.mkdir(parents=True) if "." not in name else (root.mkdir(parents=True, exist_ok=True), path.touch())
    return root


@pytest.mark.parametrize("kind", SIGNS)
def test_each_layout_is_known_by_its_entries(tmp_path, kind):
    assert kind_of(lay(tmp_path / "data", *SIGNS[kind])) == kind
    assert kind_of(tmp_path) == "" and kind_of(tmp_path / "nowhere") == ""


@pytest.mark.parametrize("names", [["gtFine", "leftImg8bit_sequence"], ["frames", "label_id"], ["val", "valannot"]])
def test_other_signs_of_a_layout(tmp_path, names):
    assert kind_of(lay(tmp_path / "data", *names)) in ("cityscapes_2k", "camvid")


@pytest.mark.tried("Data", "folder of another data set", "refused with the --dataset that it looks like")
@pytest.mark.parametrize("kind, expected",
                         [(kind, expected) for kind in SIGNS for expected in (CITYSCAPES, ["camvid"], ["custom"])])
def test_another_data_set_is_recognised(tmp_path, kind, expected):
    root = lay(tmp_path / "data", *SIGNS[kind])
    assert advice(root, expected) == ("" if kind in expected else f"; it looks like --dataset {kind}")


@pytest.mark.tried("Data", "data set one or more folders above or below --data-path",
                   "refused with the path that looks right")
@pytest.mark.parametrize("kind", SIGNS)
@pytest.mark.parametrize("way", [".", "deeper", "deeper/still", "deeper/still/more"])
def test_data_set_above_or_below_is_suggested(tmp_path, kind, way):
    root = lay(tmp_path / "data" / "set", *SIGNS[kind])
    given = root.parent if way == "." else root / way
    given.mkdir(parents=True, exist_ok=True)
    assert advice(given, [kind]) == f"; --data-path {root} looks right"
    assert advice(given / "nowhere" / "at" / "all" / "of them", [kind]) == ""


def test_contents_show_a_few_names_in_one_line(tmp_path):
    assert contents(tmp_path) == f"{tmp_path} is empty"
    lay(tmp_path, "b", "a.png", ".hidden")
    assert contents(tmp_path) == f"{tmp_path} holds a.png, b"
    lay(tmp_path, *"cdefgh")
    assert contents(tmp_path) == f"{tmp_path} holds a.png, b, c, d, e and 3 more"
    message = "cannot be listed (Not a directory); check the path and its permissions"
    assert contents(tmp_path / "a.png") == f"{tmp_path}/a.png: {message}"


@pytest.mark.tried("Data", "file name with a line break", "shown in one line")
def test_name_with_a_line_break_is_shown_in_one_line(tmp_path):
    (tmp_path / "a\nb").touch()
    assert contents(tmp_path) == f"{tmp_path} holds 'a\\nb'"


@pytest.mark.tried("Data", "folder that cannot be listed", "refused in one line")
def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(UserError, match="cannot be listed .Permission denied.; check the path and its permissions"):
        listed(tmp_path)
    assert advice(tmp_path, ["camvid"]) == "" and contents(tmp_path).endswith("check the path and its permissions")


def test_nearest_is_the_deepest_existing_folder(tmp_path):
    assert nearest(tmp_path / "a" / "b") == tmp_path
    lay(tmp_path, "a")
    assert nearest(tmp_path / "a" / "b") == tmp_path / "a"
