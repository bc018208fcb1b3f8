"""A user's YAML file: read as plain values, and refused where YAML would silently drop something."""
from pathlib import Path
from typing import Any

from config.errors import UserError
from config.folders import printable

MOST_BYTES = 2**23  # of a description; a larger file is something else


def read_mapping(file: Path, expected: str, guide: str) -> dict:
    """Return the file's top level, a mapping. expected: what it must have; guide: the page about such files. Raises
    UserError."""
    try:
        import yaml  # here, so that runs that read no YAML do not require it
    except ImportError as error:
        raise UserError(f"{file}: PyYAML is not installed; pip install -r requirements.txt") from error
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{file}: {size} bytes, too large for a description; choose a YAML file ({guide})")
        loader = yaml.SafeLoader(file.read_bytes())  # constructs plain values only, never what a tag names
        node = loader.get_single_node()
        _check_repeats(node, file, set())
        content = loader.construct_document(node) if node is not None else None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).partition("\n")[0]
        raise UserError(f"{file}{place}: not YAML ({printable(problem[:200])}); see {guide}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must have {expected} at its top level; see {guide}")
    return content


def _check_repeats(node: Any, file: Path, done: set[int]) -> None:
    """Reject equal keys, of which YAML would silently use the later, and merged mappings (<<), which are copied and so
    can multiply. `done`: ids of the nodes seen, since a few aliases (*a) can stand for very many nodes."""
    if id(node) in done:
        return
    done.add(id(node))
    kind = getattr(node, "id", "")
    seen = set()
    for key, value in node.value if kind == "mapping" else []:
        line = f"{file}, line {key.start_mark.line + 1}"
        if key.tag == "tag:yaml.org,2002:merge":
            raise UserError(f"{line}: << is not supported; write the keys out")
        if key.id == "scalar" and key.value in seen:
            raise UserError(f"{line}: duplicate key {printable(key.value)}; keep one")
        seen.add(key.value if key.id == "scalar" else id(key))
        _check_repeats(value, file, done)
    for value in node.value if kind == "sequence" else []:
        _check_repeats(value, file, done)
