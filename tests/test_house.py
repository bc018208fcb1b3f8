"""The rules of the house: who may import whom, and what happens in one place only."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEVELS = {
    "main": 8, "benchmarks": 7, "trainer": 6, "evaluation": 5, "inference": 4, "dataloaders": 3, "streets": 2, "models": 2, "utils": 1,
    "config": 0,
}
SOURCES = [ROOT / "main.py", *(path for room in LEVELS for path in sorted((ROOT / room).rglob("*.py")))]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names} & set(LEVELS)


def attributes(tree: ast.AST) -> set[str]:
    """Dotted names that the code mentions: torch.load, x.cuda, ..."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_keeps_the_rules(path):
    tree, room, relative = ast.parse(path.read_text()), room_of(path), str(path.relative_to(ROOT))
    for other in imported_rooms(tree) - {room}:
        assert LEVELS[other] < LEVELS[room], f"{relative} imports {other}"
    names = attributes(tree)
    if room == "models":
        assert not any(name.endswith(".cuda") for name in names), relative
        assert "torch.device" not in names, relative
    assert "torch.load" not in names or relative == "utils/checkpoint.py"
    assert not any(name.startswith(("torch.distributed", "dist.")) for name in names) or relative == "utils/distributed.py"
    assert not any(name.endswith(("grid_sample", "grid_sampler")) for name in names) or relative == "models/warp.py"
    assert len(path.read_text().splitlines()) <= 350, f"{relative} is long"


def test_importing_says_and_does_nothing(tmp_path):
    modules = [str(path.relative_to(ROOT)).removesuffix(".py").replace("/", ".") for path in SOURCES]
    lines = [f"import {name}" for name in modules if not name.endswith(("__init__", "__main__"))]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_tests_mirror_the_tree():
    """A folder of tests for every room, and none for what is not there; `tests/main` runs the whole program, `tests/cuda` needs a GPU."""
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - {"cuda"} == set(LEVELS)
