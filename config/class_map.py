"""--class-map: which class of a data set each class of a segmenter becomes."""
from collections.abc import Mapping, Sequence
from pathlib import Path

from config.errors import UserError, did_you_mean
from config.yaml_file import read_mapping

IGNORE = "ignore"  # instead of a data set's class
GUIDE = "docs/segmenters.md"


def plain(name: str) -> str:
    """A class name as it is compared: in lower case, with spaces for `_` and `-`."""
    return name.lower().replace("_", " ").replace("-", " ")


def same_names(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether class names are the same, in order."""
    return [*map(plain, first)] == [*map(plain, second)]


def read_class_map(path: str) -> dict[str, str]:
    """Read a class map: segmenter's class -> data set's class, or `ignore`. Raises UserError."""
    content = read_mapping(Path(path), "lines SEGMENTER CLASS: DATA CLASS", GUIDE)
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UserError(f"{path}: {name!r}: {value!r} must be two names; put them in quotes")
    found = {plain(name): plain(value) for name, value in content.items()}
    if len(found) < len(content):
        raise UserError(f"{path}: two lines name the same class (`_`, `-`, space and case do not matter); keep one")
    return found


def members(
    own: Sequence[str], wanted: Sequence[str], class_map: Mapping[str, str], *, path: str, segnet: str
) -> list[list[int]]:
    """For each of the `wanted` classes the indices of the segmenter's `own` classes that become it: those that the
    class map says, else the one of its name. path: the class map's, for messages, as is `segnet`, the segmenter's name.
    Raises UserError for a class without counterpart."""
    names, targets = [*map(plain, own)], [*map(plain, wanted)]
    for name, target in class_map.items():
        if name not in names and target != IGNORE:
            raise UserError(f"{path}: the segmenter has no class {name!r}{did_you_mean(name, names)}")
        if target not in targets and target != IGNORE:
            raise UserError(f"{path}: the data set has no class {target!r}{did_you_mean(target, targets)}")
    found: list[list[int]] = [[] for _ in wanted]
    for index, name in enumerate(names):
        target = class_map.get(name, name)
        if target != IGNORE and target not in targets:
            raise UserError(
                f"--segnet {segnet}: its class {own[index]!r} is none of the data set's ({', '.join(wanted)}); say in "
                f"a --class-map FILE which of them it becomes, or {IGNORE} ({GUIDE})"
            )
        if target != IGNORE:
            found[targets.index(target)].append(index)
    for name, indices in zip(wanted, found):
        if not indices:
            raise UserError(
                f"--segnet {segnet}: none of its classes ({', '.join(own)}) becomes the data set's class {name!r}; "
                f"name one in a --class-map FILE ({GUIDE})"
            )
    return found
