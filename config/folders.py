"""What lies in a folder, for the answers to a wrong --data-path: a few of its entries, and which data set it looks like."""
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from config.errors import UserError

CITYSCAPES = ("cityscapes_2k", "synthetic")  # data sets in the Cityscapes layout
SHOWN = 5  # entries of a folder in a line
LEVELS = 3  # folders above that are looked at
MOST_BELOW = 1000  # entries below that are looked at


def listed(folder: Path) -> list[Path]:
    """The folder's entries in order, without hidden ones, which are no data: `._a.png` beside a.png, say. Raises UserError."""
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); mend the path or its permissions") from error


def contents(folder: Path) -> str:
    """A few of a folder's entries, for a line: "data/camvid holds test, train, val and 2 more"."""
    try:
        names = [printable(path.name) for path in listed(folder)]
    except UserError as error:
        return error.line
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{folder} holds {', '.join(names[:SHOWN])}{more}" if names else f"{folder} is empty"


def nearest(path: Path) -> Path:
    """The last folder on the way to `path` that exists."""
    return next((folder for folder in path.parents if folder.is_dir()), Path("."))


def kind_of(folder: Path) -> str:
    """The data set whose layout `folder` has; empty where it has none."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:
        return ""
    if "synthetic.json" in names:
        return "synthetic"
    if "gtFine" in names and names & {"leftImg8bit", "leftImg8bit_sequence"}:
        return "cityscapes_2k"
    if "label_id" in names or names & {"trainannot", "valannot"}:
        return "camvid"
    return "custom" if "dataset.yaml" in names else ""


def advice(root: Path, wanted: Iterable[str]) -> str:
    """"; ..." for the end of an error line where `root` is another data set, or one of those `wanted` is a little above or
    below it; else empty."""
    found, wanted = kind_of(root), set(wanted)
    if found:
        return "" if found in wanted else f"; it looks like --dataset {found}"
    for folder in _entries(root)[:MOST_BELOW]:
        if folder.is_dir() and kind_of(folder) in wanted:
            return f"; --data-path {folder} looks right"
    for folder in islice(root.absolute().parents, LEVELS):
        if kind_of(folder) in wanted:
            return f"; --data-path {folder} looks right"
    return ""


def natural(path: Path) -> list:
    """Sorts paths with numbers by value: frame_2 before frame_10."""
    words = re.split(r"([0-9]+)", str(path))
    return [int(word) if i % 2 else word for i, word in enumerate(words)]


def printable(name: str) -> str:
    """A file's name as a line can show it."""
    return name if name.isprintable() else repr(name)


def _entries(folder: Path) -> list[Path]:
    try:
        return listed(folder)
    except UserError:
        return []
