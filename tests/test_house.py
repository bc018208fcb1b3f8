"""The rules of the house: who may import whom, and what happens in one place only."""
import ast
import subprocess
import sys

import pytest

from tests.measures import (
    FILE_LINES,
    FUNCTION_LINES,
    LEVELS,
    ROOM_SHARE,
    ROOT,
    Source,
    circles,
    functions,
    import_graph,
    lines_by_room,
    product,
    upward_imports,
)

SOURCES = product()


def attributes(tree: ast.AST) -> set[str]:
    """Dotted names that the code mentions: torch.load, x.cuda, ..."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_source_keeps_the_rules(source):
    names, file = attributes(source.tree), source.name
    if file.startswith("models/"):
        assert not any(name.endswith(".cuda") for name in names), file
        assert "torch.device" not in names, file
    assert "torch.load" not in names or file == "utils/checkpoint.py"
    assert not any(name.startswith(("torch.distributed", "dist.")) for name in names) or file == "utils/distributed.py"
    assert not any(name.endswith(("grid_sample", "grid_sampler")) for name in names) or file == "models/warp.py"
    assert source.lines <= FILE_LINES, f"{file} is long"
    assert [where for lines, where in functions([source]) if lines > FUNCTION_LINES] == []


def test_imports_go_down_and_not_in_circles():
    assert upward_imports(SOURCES) == []
    assert circles(import_graph(SOURCES, types=True)) == []


def test_no_room_is_too_big():
    rooms = lines_by_room(SOURCES)
    room, lines = next(iter(rooms.items()))
    assert lines <= ROOM_SHARE * sum(rooms.values()), f"{room} is big"


def test_measures_find_upward_imports_circles_and_long_functions():
    texts = {
        "config/a.py": "import torch\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from utils.b import x\n",
        "utils/__init__.py": "",
        "utils/b.py": "def f():\n    from config import a\n\n    return a\n",
        "utils/c.py": "import utils.d\n",
        "utils/d.py": "from utils.e import x\n",
        "utils/e.py": "from utils import c\n",
    }
    sources = [Source(name, text, ast.parse(text)) for name, text in texts.items()]
    assert upward_imports(sources) == ["config.a imports utils.b"]
    assert circles(import_graph(sources, types=False)) == [["utils.c", "utils.d", "utils.e"]]
    assert circles(import_graph(sources, types=True)) == [["config.a", "utils.b"], ["utils.c", "utils.d", "utils.e"]]
    assert functions(sources) == [(4, "utils/b.py:1 f")]
    assert lines_by_room(sources) == {"utils": 7, "config": 4}


def test_importing_prints_and_writes_nothing(tmp_path):
    lines = [f"import {source.module}" for source in SOURCES if not source.module.endswith("__main__")]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_tests_mirror_the_tree():
    """One folder of tests for each room, and `tests/cuda`, which needs a GPU. `tests/main` runs the whole program."""
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - {"cuda"} == set(LEVELS) - {"hubconf"}
