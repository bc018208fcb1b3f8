"""A user's own data set, described by a small YAML file (docs/custom_data.md)."""
import itertools
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from config.errors import UserError, did_you_mean
from config.folders import advice, contents, nearest, printable
from config.schema import DatasetConfig
from config.yaml_file import read_mapping

FILE = "dataset.yaml"  # looked for if --data-path is a folder
GUIDE = "docs/custom_data.md"
SPLITS = ("train", "val", "test")
ROLES = ("movable", "ground", "sky")
MOST_CLASSES = DatasetConfig.ignore  # class indices stay below the value of unlabelled pixels
LONGEST_NAME, LONGEST_GLOB = 100, 1000
LEVELS = range(0, 256, 36)  # of red, green and blue, for generated colours
WILDCARD = re.compile(r"\*+|\?|\[[^]]+]")


@dataclass(frozen=True)
class Part:
    """Frames and their labels, as globs relative to the description's folder. video: whether the frames of a folder are
    consecutive. step: how much the numbers of two consecutive frames may differ at most, None for any. list: a file
    with one pair `frame label` a line, which replaces the labels' glob, or with one stem a line, which chooses labels.
    """

    frames: str
    labels: str
    video: bool = True
    step: int | None = None
    list: str = ""


@dataclass(frozen=True)
class CustomData:
    """The content of the description `file`: the classes, and the files of each split."""

    file: Path
    config: DatasetConfig
    splits: Mapping[str, tuple[Part, ...]]


class _Class(NamedTuple):
    ids: list[int]  # in the label files; predictions are written with the first
    colour: tuple[int, int, int] | None
    weight: float
    role: str | None


def _whole(value: Any, low: float, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _list_of(value: Any, count: int, low: int, high: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(_whole(x, low, high) for x in value)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {  # key -> test of a value, and what it must be
    "ids": (lambda x: isinstance(x, list) and bool(x), "a list of numbers"),
    "colour": (lambda x: _list_of(x, 3, 0, 255), "[RED, GREEN, BLUE], each 0..255"),
    "weight": (lambda x: isinstance(x, (int, float)) and x is not True and 0 < x < math.inf, "a number above 0"),
    "role": (lambda x: x in ROLES, f"one of {', '.join(ROLES)}, or left out for classes that stand still"),
    "crop": (lambda x: x is None or _list_of(x, 2, 32, 16384), "[HEIGHT, WIDTH] in pixels, each 32..16384"),
    "video": (lambda x: isinstance(x, bool), "true or false"),
    "step": (lambda x: x is None or _whole(x, 1), "a whole number, at least 1"),
    "ignore": (lambda x: isinstance(x, list) and all(_whole(i, 0, 255) for i in x), "a list of ids, each 0..255"),
    "bits": (lambda x: _whole(x, 9, 16), "the bits that frames in 16-bit files have, 9..16"),
}


def read_custom(path: str) -> CustomData:
    """Read the description at `path`: a YAML file, or a folder that contains dataset.yaml. Raises UserError."""
    file = _description(path)
    try:
        state = file.stat()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    return _read_custom(path, file, state.st_mtime_ns, state.st_size)


@lru_cache(8)  # a long one takes seconds, and every part of the program reads it
def _read_custom(path: str, file: Path, *_state: int) -> CustomData:
    content = read_mapping(file, "classes, train and val", GUIDE)
    _check_keys(content, ("name", "classes", *SPLITS, "crop", "ignore", "bits"), f"{file}")
    classes = _classes(content.get("classes"), f"{file}: classes")
    splits = {split: _parts(content[split], f"{file}: {split}") for split in SPLITS if content.get(split) is not None}
    if not splits:
        raise UserError(f"{file}: no train, val or test is there; add one: train: {{frames: GLOB, labels: GLOB}}")
    crop = _value(content, "crop", f"{file}")
    void = _value(content, "ignore", f"{file}", [])
    for name, entry in classes.items():
        if both := {*entry.ids} & {*void}:
            raise UserError(f"{file}: ignore: id {min(both)} belongs to {name}; remove it from one of the two")
    given = [entry.colour for entry in classes.values() if entry.colour]
    colours = iter(distinct_colours(len(classes) - len(given), given))
    role = {role: tuple(name for name, entry in classes.items() if entry.role == role) for role in ROLES}
    config = DatasetConfig(
        name=_text(content.get("name", file.stem), f"{file}: name"),
        classes=tuple(classes),
        label_ids=tuple(entry.ids[0] for entry in classes.values()),
        colours=tuple(entry.colour or next(colours) for entry in classes.values()),
        class_weights=tuple(entry.weight for entry in classes.values()),
        default_path=str(path),
        crop=tuple(crop) if crop else None,
        also=tuple((number, index) for index, entry in enumerate(classes.values()) for number in entry.ids[1:]),
        movable=role["movable"], ground=role["ground"], sky=role["sky"], void=tuple(void),
        label_colours=tuple((entry.colour, entry.ids[0]) for entry in classes.values() if entry.colour),
        bits=_value(content, "bits", f"{file}", 0),
    )
    return CustomData(file, config, splits)


def _description(path: str) -> Path:
    if not path:
        raise UserError(f"--dataset custom requires --data-path FILE.yaml, the description of your data ({GUIDE})")
    file = Path(path)
    if file.is_dir():
        file = file / FILE
        if not file.is_file():
            here = f"{contents(Path(path))}{advice(Path(path), ['custom'])}"
            raise UserError(f"{path}: no {FILE} there; --data-path must be a description or its folder ({GUIDE}); "
                            f"{here}")
    if not file.is_file():
        here = contents(nearest(file))
        raise UserError(f"{path}: no such file; --data-path must be a description of your data ({GUIDE}); {here}")
    return file


def _shown(value: Any) -> str:
    """repr(value), shortened to fit a line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = LONGEST_NAME
    return short.repr(value)


def _check_keys(entry: Any, keys: Sequence[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: must be {{{keys[0]}: ..., ...}}, not {_shown(entry)}; known keys: {', '.join(keys)}")
    for key in entry:
        if key not in keys:
            name = printable(str(key)[:LONGEST_NAME])
            raise UserError(f"{where}: unknown key {name}{did_you_mean(str(key), keys)}; known keys: {', '.join(keys)}")


def _value(entry: Mapping[str, Any], key: str, where: str, default: Any = None) -> Any:
    """entry[key], or `default` if it is left out. Raises UserError if it is not what _KINDS asks for."""
    valid, kind = _KINDS[key]
    if key in entry and not valid(entry[key]):
        raise UserError(f"{where}: {key} must be {kind}, not {_shown(entry[key])}")
    return entry.get(key, default)


def _classes(content: Any, where: str) -> dict[str, _Class]:
    if not isinstance(content, dict) or not content:
        raise UserError(f"{where}: must have one entry per class, in order: NAME: {{id: NUMBER}}; see {GUIDE}")
    if len(content) > MOST_CLASSES:
        raise UserError(f"{where}: {len(content)} classes, the limit is {MOST_CLASSES}; join some with ids: [...]")
    classes: dict[str, _Class] = {}
    owner: dict[int, str] = {}
    for name, entry in content.items():
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: YAML does not read the class name {_shown(name)} as text; put it in quotes")
        _text(name, f"{where}: class name")
        classes[name] = _class(entry, f"{where}: {name}")
        for number in classes[name].ids:
            if number in owner:
                raise UserError(f"{where}: {name}: id {number} belongs to {owner[number]} already; use each id once")
            owner[number] = name
    if len(classes) == 1:
        hint = "add one for the other pixels, which are ignored: background: {id: 0}"
        raise UserError(f"{where}: {name} is the only class, so there is nothing to learn; {hint}")
    return classes


def _class(entry: Any, where: str) -> _Class:
    _check_keys(entry, ("id", "ids", "colour", "weight", "role"), where)
    if ("id" in entry) == ("ids" in entry):
        raise UserError(f"{where}: must have either id: NUMBER or ids: [NUMBER, ...]")
    ids = [entry["id"]] if "id" in entry else _value(entry, "ids", where)
    for number in ids:
        if not _whole(number, 0, 255):
            raise UserError(f"{where}: ids of 8-bit label files are whole numbers 0..255, not {_shown(number)}")
    colour, weight = _value(entry, "colour", where), _value(entry, "weight", where, 1)
    return _Class(ids, tuple(colour) if colour else None, float(weight), _value(entry, "role", where))


def distinct_colours(count: int, taken: Sequence[tuple[int, int, int]] = ()) -> list[tuple[int, int, int]]:
    """Return `count` RGB colours, each as far as possible from `taken`, from those before it, from black and white."""
    avoided = [(0, 0, 0), (255, 255, 255), *taken]
    distance = {x: min(math.dist(x, other) for other in avoided) for x in itertools.product(LEVELS, LEVELS, LEVELS)}
    chosen: list[tuple[int, int, int]] = []
    while len(chosen) < count:
        chosen.append(max(distance, key=distance.__getitem__))  # the first of equals
        distance = {x: min(before, math.dist(x, chosen[-1])) for x, before in distance.items()}
    return chosen


def _parts(content: Any, where: str) -> tuple[Part, ...]:
    """A split: one part, or a list of them."""
    parts = content if isinstance(content, list) and content else [content]
    return tuple(_part(part, where if len(parts) == 1 else f"{where}: part {i}") for i, part in enumerate(parts, 1))


def _part(content: Any, where: str) -> Part:
    _check_keys(content, ("frames", "labels", "video", "step", "list"), where)
    for key in ("frames", "labels"):
        if key not in content and "list" in content:
            continue
        if key not in content:
            raise UserError(f"{where}: {key} is missing; add {key}: GLOB, as {key}: \"{key}/*/*.png\"")
        glob = _text(content[key], f"{where}: {key}", LONGEST_GLOB)
        if not wildcards(glob):
            raise UserError(f"{where}: {key}: {glob} has no wildcard to tell files apart; put * in it")
        if Path(glob).parts.count("**") > 1 or Path(glob).name == "**":
            raise UserError(f"{where}: {key}: {glob} may contain ** (folders of any depth) once, before a file name")
    video, step = _value(content, "video", where, True), _value(content, "step", where)
    listed = _text(content["list"], f"{where}: list", LONGEST_GLOB) if "list" in content else ""
    return Part(content.get("frames", ""), content.get("labels", ""), video, step, listed)


def wildcards(glob: str) -> list[int]:
    """Indices of the glob's parts (folders, and the file name without its suffix) that contain wildcards."""
    path = Path(glob)
    return [i for i, part in enumerate([*path.parts[:-1], path.stem]) if WILDCARD.search(part)]


def _text(value: Any, where: str, longest: int = LONGEST_NAME) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} must be text, not {_shown(value)}; put it in quotes")
    if not value.isprintable() or len(value) > longest:
        raise UserError(f"{where} must be a line of printable text, at most {longest} characters, not {_shown(value)}")
    return value
