"""The contents of a folder, for the answers to a wrong --data-path: a few entries, and which data set it looks like."""
import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from config.errors import UserError

CITYSCAPES = ("cityscapes_2k", "synthetic")  # data sets in the Cityscapes layout
SHOWN = 5  # entries of a folder in a line
LEVELS = 3  # parent folders to search
MOST_BELOW = 1000  # entries to search


def listed(folder: Path) -> list[Path]:
    """The folder's entries, sorted, without hidden ones such as macOS's `._a.png`. Raises UserError."""
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check the path and its permissions") from error


def contents(folder: Path) -> str:
    """A few of a folder's entries as text: "data/camvid holds test, train, val and 2 more"."""
    try:
        names = [printable(path.name) for path in listed(folder)]
    except UserError as error:
        return error.line
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{folder} holds {', '.join(names[:SHOWN])}{more}" if names else f"{folder} is empty"


def nearest(path: Path) -> Path:
    """The deepest existing folder above `path`."""
    return next((folder for folder in path.parents if folder.is_dir()), Path("."))


def kind_of(folder: Path) -> str:
    """The data set whose layout `folder` has, "" for none."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:
        return ""
    if "synthetic.json" in names:
        return "synthetic"
    if "gtFine" in names and names & {"leftImg8bit", "leftImg8bit_sequence"}:
        return "cityscapes_2k"
    if names & {"label_id", "trainannot", "valannot", "train_labels", "val_labels", "LabeledApproved_full"}:
        return "camvid"
    return "custom" if "dataset.yaml" in names else ""


def advice(root: Path, expected: Iterable[str]) -> str:
    """The end of an error line, "; ...", if `root` is a data set other than those expected, or if one of these is in a
    folder near `root`; else ""."""
    found, expected = kind_of(root), set(expected)
    if found:
        return "" if found in expected else f"; it looks like --dataset {found}"
    entries: list[Path] = []
    with contextlib.suppress(UserError):  # there may be no folder `root`
        entries = listed(root)[:MOST_BELOW]
    for folder in (*entries, *root.absolute().parents[:LEVELS]):
        if kind_of(folder) in expected:
            return f"; --data-path {folder} looks right"
    return ""


def natural(path: Path) -> list:
    """Sorting key of paths that orders numbers by value: frame_2 before frame_10."""
    words = re.split(r"([0-9]+)", str(path))
    return [int(word) if i % 2 else word for i, word in enumerate(words)]


def printable(name: str) -> str:
    """A file name as one line can show it, escaped if needed."""
    return name if name.isprintable() else repr(name)
