"""A user's own data set, described by a small YAML file (docs/custom_data.md)."""
import difflib
import itertools
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import UserError
from config.folders import advice, contents, nearest, printable
from config.schema import DatasetConfig

FILE = "dataset.yaml"  # looked for where a folder is given
GUIDE = "docs/custom_data.md"
SPLITS = ("train", "val")
ROLES = ("movable", "ground", "sky")
MOST_CLASSES = DatasetConfig.ignore  # class indices stay below the value for unlabelled pixels
SMALLEST_CROP, LARGEST_CROP = 32, 16384
LONGEST_NAME, LONGEST_GLOB = 100, 1000
MOST_BYTES = 2**18  # of a description; whatever is larger is something else
LEVELS = range(0, 256, 36)  # of red, green and blue, for generated colours
WILDCARD = re.compile(r"\*+|\?|\[[^]]+]")


@dataclass(frozen=True)
class Part:
    """Frames and their labels, as globs relative to the description's folder.

    video: whether the frames of a folder follow one another. step: by how much the numbers of two consecutive frames
    differ at most, None for no such check.
    """

    frames: str
    labels: str
    video: bool = True
    step: int | None = None


@dataclass(frozen=True)
class CustomData:
    """What the description `file` says: classes, and where each split's files are."""

    file: Path
    config: DatasetConfig
    splits: Mapping[str, tuple[Part, ...]]


def read_custom(path: str) -> CustomData:
    """Read the description at `path`: a YAML file, or a folder that holds dataset.yaml. Raises UserError."""
    file = _description(path)
    content = _read(file)
    _known(content, ("name", "classes", *SPLITS, "crop"), f"{file}")
    classes = _classes(content.get("classes"), f"{file}: classes")
    splits = {split: _parts(content[split], f"{file}: {split}") for split in SPLITS if content.get(split) is not None}
    if not splits:
        raise UserError(f"{file}: has neither train nor val; it wants at least one, as train: {{frames: GLOB, labels: GLOB}}")
    ids = _ids(classes, f"{file}: classes")
    config = DatasetConfig(
        name=_text(content.get("name", file.stem), f"{file}: name"),
        classes=tuple(classes),
        label_ids=tuple(numbers[0] for numbers in ids.values()),
        colours=_colours(classes, f"{file}: classes"),
        class_weights=tuple(_weight(entry.get("weight", 1), f"{file}: classes: {name}") for name, entry in classes.items()),
        default_path=str(path),
        crop=_crop(content.get("crop"), f"{file}: crop"),
        movable=_named(classes, "movable", f"{file}: classes"),
        ground=_named(classes, "ground", f"{file}: classes"),
        sky=_named(classes, "sky", f"{file}: classes"),
        also=tuple((number, index) for index, numbers in enumerate(ids.values()) for number in numbers[1:]),
    )
    return CustomData(file, config, splits)


def _named(classes: Mapping[str, dict], role: str, where: str) -> tuple[str, ...]:
    """Names of the classes of one role in clips made from stills."""
    for name, entry in classes.items():
        if entry.get("role", role) not in ROLES:
            raise UserError(
                f"{where}: {name}: role wants one of {', '.join(ROLES)}, not {_shown(entry['role'])}; leave it out for what stands still"
            )
    return tuple(name for name, entry in classes.items() if entry.get("role") == role)


def _description(path: str) -> Path:
    if not path:
        raise UserError(f"--dataset custom wants --data-path FILE.yaml, the description of your data ({GUIDE})")
    file = Path(path)
    if file.is_dir():
        file = file / FILE
        if not file.is_file():
            raise UserError(
                f"{path}: holds no {FILE}; --data-path wants a description's file, or a folder with one ({GUIDE}); {contents(Path(path))}"
                f"{advice(Path(path), ['custom'])}"
            )
    if not file.is_file():
        raise UserError(
            f"{path}: no such file; --data-path wants the YAML file that describes your data ({GUIDE}); {contents(nearest(file))}"
        )
    return file


def _read(file: Path) -> dict:
    """The file's top level."""
    try:
        import yaml  # here, so that the other data sets do without it
    except ImportError as error:
        raise UserError(f"{file}: reading it needs PyYAML; pip install -r requirements.txt") from error
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{file}: {size} bytes, too many for a description; --data-path wants the YAML file ({GUIDE})")
        loader = yaml.SafeLoader(file.read_bytes())  # makes plain values alone, whatever tags ask for
        node = loader.get_single_node()
        _refuse_repeats(node, file, set())
        content = loader.construct_document(node) if node is not None else None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or next(iter(str(error).splitlines()), "")
        raise UserError(f"{file}{place}: not YAML ({printable(problem[:200])}); see {GUIDE}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: wants classes, train and val at its top level; see {GUIDE}")
    return content


def _refuse_repeats(node: Any, file: Path, done: set[int]) -> None:
    """YAML would silently let the later of two equal keys win. Nodes in `done`, by id, were looked at: few aliases (*a) can
    stand for very many. Merged mappings (<<) are copied, and could be as many."""
    if id(node) in done:
        return
    done.add(id(node))
    kind = getattr(node, "id", "")
    seen = set()
    for key, value in node.value if kind == "mapping" else []:
        line = f"{file}, line {key.start_mark.line + 1}"
        if key.tag == "tag:yaml.org,2002:merge":
            raise UserError(f"{line}: << is not taken; write the keys out")
        if key.id == "scalar" and key.value in seen:
            raise UserError(f"{line}: {printable(key.value)} is there twice; keep one")
        seen.add(key.value if key.id == "scalar" else id(key))
        _refuse_repeats(value, file, done)
    for value in node.value if kind == "sequence" else []:
        _refuse_repeats(value, file, done)


def _shown(value: Any) -> str:
    """A value as a line can show it: repr(value), shortened."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = LONGEST_NAME
    return short.repr(value)


def _known(entry: Any, keys: Sequence[str], where: str) -> dict:
    """`entry`, a mapping with no other keys than `keys`."""
    if not isinstance(entry, dict):
        raise UserError(f"{where}: wants {{{keys[0]}: ..., ...}}, not {_shown(entry)}; it takes: {', '.join(keys)}")
    for key in entry:
        if key not in keys:
            close = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.5)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(f"{where}: unknown key {printable(str(key)[:LONGEST_NAME])}{hint}; it takes: {', '.join(keys)}")
    return entry


def _classes(classes: Any, where: str) -> dict[str, dict]:
    if not isinstance(classes, dict) or not classes:
        raise UserError(f"{where}: wants one entry a class, in order, as NAME: {{id: NUMBER}}; see {GUIDE}")
    for name, entry in classes.items():
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: YAML reads a class's name as {_shown(name)}, which is no text; put the name in quotes")
        _text(name, f"{where}: a class's name")
        _known(entry, ("id", "ids", "colour", "weight", "role"), f"{where}: {name}")
    if len(classes) == 1:
        raise UserError(
            f"{where}: {name} is the only class, and pixels of no class are ignored, so there is nothing to learn; name the "
            "rest too, as background: {id: 0}"
        )
    if len(classes) > MOST_CLASSES:
        raise UserError(f"{where}: {len(classes)} classes; at most {MOST_CLASSES} can be told apart, join some by ids: [...]")
    return classes


def _ids(classes: Mapping[str, dict], where: str) -> dict[str, list[int]]:
    """Each class's ids in the label files, the one that predictions are written with first."""
    found: dict[str, list[int]] = {}
    owner: dict[int, str] = {}
    for name, entry in classes.items():
        if ("id" in entry) == ("ids" in entry):
            raise UserError(f"{where}: {name}: wants either id: NUMBER or ids: [NUMBER, ...]")
        numbers = [entry["id"]] if "id" in entry else entry["ids"]
        if not isinstance(numbers, list) or not numbers:
            raise UserError(f"{where}: {name}: ids wants a list of numbers, not {_shown(numbers)}")
        for number in numbers:
            if not _whole(number, 0, 255):
                raise UserError(f"{where}: {name}: an id of an 8-bit label file is a whole number 0..255, not {_shown(number)}")
            if number in owner:
                raise UserError(f"{where}: {name}: id {number} is taken by {owner[number]}; an id belongs to one class, once")
            owner[number] = name
        found[name] = numbers
    return found


def _colours(classes: Mapping[str, dict], where: str) -> tuple[tuple[int, int, int], ...]:
    given = {}
    for name, entry in classes.items():
        if "colour" in entry:
            given[name] = _triple(entry["colour"], f"{where}: {name}")
    made = iter(distinct_colours(len(classes) - len(given), tuple(given.values())))
    return tuple(given[name] if name in given else next(made) for name in classes)


def _triple(colour: Any, where: str) -> tuple[int, int, int]:
    if not isinstance(colour, list) or len(colour) != 3 or not all(_whole(x, 0, 255) for x in colour):
        raise UserError(f"{where}: colour wants [RED, GREEN, BLUE], each 0..255, not {_shown(colour)}")
    return tuple(colour)


def distinct_colours(count: int, taken: Sequence[tuple[int, int, int]] = ()) -> list[tuple[int, int, int]]:
    """`count` colours, each as far as can be from `taken`, from those before it, and from black and white."""
    avoided = [(0, 0, 0), (255, 255, 255), *taken]
    distance = {
        colour: min(math.dist(colour, other) for other in avoided)
        for colour in itertools.product(LEVELS, LEVELS, LEVELS)
    }
    chosen: list[tuple[int, int, int]] = []
    while len(chosen) < count:
        colour = max(distance, key=distance.__getitem__)  # the first of equals
        chosen.append(colour)
        distance = {other: min(before, math.dist(other, colour)) for other, before in distance.items()}
    return chosen


def _weight(weight: Any, where: str) -> float:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
        raise UserError(f"{where}: weight wants a number above 0, not {_shown(weight)}")
    return float(weight)


def _crop(crop: Any, where: str) -> tuple[int, int] | None:
    if crop is None:
        return None
    if not isinstance(crop, list) or len(crop) != 2 or not all(_whole(side, SMALLEST_CROP, LARGEST_CROP) for side in crop):
        raise UserError(
            f"{where}: wants [HEIGHT, WIDTH] in pixels, each at least {SMALLEST_CROP}, not {_shown(crop)}; at most {LARGEST_CROP}"
        )
    return tuple(crop)


def _parts(content: Any, where: str) -> tuple[Part, ...]:
    """A split: one part, or a list of them."""
    parts = content if isinstance(content, list) and content else [content]
    return tuple(_part(part, where if len(parts) == 1 else f"{where}: part {i}") for i, part in enumerate(parts, 1))


def _part(content: Any, where: str) -> Part:
    content = _known(content, ("frames", "labels", "video", "step"), where)
    for key in ("frames", "labels"):
        if key not in content:
            raise UserError(f"{where}: has no {key}; it wants {key}: GLOB, as {key}: \"{key}/*/*.png\"")
        glob = _text(content[key], f"{where}: {key}", LONGEST_GLOB)
        if not wildcards(glob):
            raise UserError(f"{where}: {key}: {glob} has no wildcard to tell files by; put * in it")
        if Path(glob).parts.count("**") > 1 or Path(glob).name == "**":
            raise UserError(f"{where}: {key}: {glob} may have ** once, for folders of any depth, and wants a file's name after it")
    video, step = content.get("video", True), content.get("step")
    if not isinstance(video, bool):
        raise UserError(f"{where}: video wants true or false, not {_shown(video)}")
    if step is not None and not _whole(step, 1, math.inf):
        raise UserError(f"{where}: step wants a whole number from 1 on, not {_shown(step)}")
    return Part(content["frames"], content["labels"], video, step)


def wildcards(glob: str) -> list[int]:
    """Indices of the glob's parts (folders, and the file without its ending) that hold wildcards."""
    path = Path(glob)
    return [i for i, part in enumerate([*path.parts[:-1], path.stem]) if WILDCARD.search(part)]


def _text(value: Any, where: str, longest: int = LONGEST_NAME) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: wants text, not {_shown(value)}; put it in quotes")
    if not value.isprintable() or len(value) > longest:
        raise UserError(f"{where}: wants one line of printable text, at most {longest} characters, not {_shown(value)}")
    return value


def _whole(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
