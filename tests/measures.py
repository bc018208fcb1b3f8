"""Sizes and imports of the tree, read from its source text: printed by `make measures`, limited by test_house.py."""
import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from utils.text_table import Table

ROOT = Path(__file__).resolve().parents[1]
# A room may import the rooms on lower levels. main.py and hubconf.py are rooms of one file.
LEVELS = {
    "main": 8, "hubconf": 8, "benchmarks": 7, "trainer": 6, "evaluation": 5, "inference": 4, "dataloaders": 3,
    "streets": 2, "models": 2, "utils": 1, "config": 0,
}
OWN_ROOMS = ("models/segmenters", "models/methods")  # counted apart from models
ROOM_SHARE, FILE_LINES, FUNCTION_LINES = 0.20, 350, 45  # the limits
Graph = Mapping[str, set[str]]  # module -> the modules of the tree that it imports


@dataclass(frozen=True)
class Source:
    """A Python file of the tree. name: its path from the root, "models/warp.py"."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """Lines of the file, empty ones included."""
        return len(self.text.splitlines())

    @property
    def module(self) -> str:
        """The dotted name under which it is imported: "models.warp", and "models" for models/__init__.py."""
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def room(self) -> str:
        """The room that its lines count for: one of LEVELS or of OWN_ROOMS."""
        return next((room for room in OWN_ROOMS if self.name.startswith(f"{room}/")), self.module.split(".")[0])


def read(paths: Iterable[Path]) -> list[Source]:
    """Read and parse the files."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(paths)}
    return [Source(name, text, ast.parse(text)) for name, text in texts.items()]


def product() -> list[Source]:
    """Every file that is not a test."""
    paths = [path for room in LEVELS for path in (ROOT / f"{room}.py", *(ROOT / room).rglob("*.py"))]
    return read(path for path in paths if path.is_file())


def lines_by_room(sources: Iterable[Source]) -> dict[str, int]:
    """Lines of each room, the biggest first."""
    found: dict[str, int] = {}
    for source in sources:
        found[source.room] = found.get(source.room, 0) + source.lines
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def functions(sources: Iterable[Source]) -> list[tuple[int, str]]:
    """(lines without decorators, "models/warp.py:21 warp") of every function and method, the longest first."""
    found = [
        (node.end_lineno - node.lineno + 1, f"{source.name}:{node.lineno} {node.name}")
        for source in sources for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]
    return sorted(found, reverse=True)


def import_graph(sources: list[Source], *, types: bool) -> dict[str, set[str]]:
    """The modules of `sources` that each imports, in functions too; with `types`, also under `if TYPE_CHECKING`."""
    known = {source.module for source in sources}
    graph = {}
    for source in sources:
        nodes = set(ast.walk(source.tree))
        if not types:
            checks = [x for x in nodes if isinstance(x, ast.If) and "TYPE_CHECKING" in ast.unparse(x.test)]
            nodes -= {node for check in checks for node in ast.walk(check)}
        graph[source.module] = {name for node in nodes for name in imported(node, known)} - {source.module}
    return graph


def imported(node: ast.AST, known: set[str]) -> set[str]:
    """Those of the `known` modules that an import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & known
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        modules = {f"{node.module}.{alias.name}" for alias in node.names}
        return (modules if modules <= known else modules | {node.module}) & known
    return set()


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others; each sorted."""
    reached = {module: _reachable(graph, module) for module in graph}
    mutual = {module: sorted(other for other in reached[module] if module in reached[other]) for module in graph}
    return sorted(group for module, group in mutual.items() if group and group[0] == module)


def _reachable(graph: Graph, module: str) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def upward_imports(sources: list[Source]) -> list[str]:
    """"a imports b" for every import of another room that is not on a lower level."""
    pairs = [(module, other) for module, found in import_graph(sources, types=True).items() for other in found]
    rooms = {(a, b): (a.split(".")[0], b.split(".")[0]) for a, b in pairs}
    return sorted(f"{a} imports {b}" for (a, b), (x, y) in rooms.items() if x != y and LEVELS[y] >= LEVELS[x])


def main() -> None:
    """Print the measures."""
    sources, tests = product(), read((ROOT / "tests").rglob("*.py"))
    rooms = lines_by_room(sources)
    total = sum(rooms.values())
    rows = [(room, f"{lines:,}", f"{100 * lines / total:.1f}") for room, lines in (rooms | {"product": total}).items()]
    print(*Table("Lines by room", ("room", "lines", "per cent"), tuple(rows)).console(), sep="\n")
    graphs = {types: circles(import_graph(sources, types=types)) for types in (False, True)}
    longest, biggest = functions(sources)[0], max(sources, key=lambda source: source.lines)
    found = {
        "tests": f"{sum(source.lines for source in tests):,} lines",
        "biggest room": f"{rows[0][0]}, {rows[0][2]} per cent (limit {100 * ROOM_SHARE:.0f})",
        "longest file": f"{biggest.name}, {biggest.lines} lines (limit {FILE_LINES})",
        "longest function": f"{longest[1]}, {longest[0]} lines (limit {FUNCTION_LINES})",
        "circles": listed(map(" ".join, graphs[False])),
        "circles through types alone": listed(" ".join(x) for x in graphs[True] if x not in graphs[False]),
        "upward imports": listed(upward_imports(sources)),
    }
    for name, text in found.items():
        print(f"{name}: {text}")


def listed(items: Iterable[str]) -> str:
    """Items in one line, "none" where there are none."""
    return "; ".join(items) or "none"


if __name__ == "__main__":
    main()
