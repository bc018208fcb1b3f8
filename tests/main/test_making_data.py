"""Interrupted, killed, or one of its processes killed, while several of them make the synthetic streets."""
import os
import signal
from pathlib import Path

import pytest

from tests.main.program import DOOR, Program, children, on_streets, refusal, training

pytestmark = pytest.mark.slow


class Making:
    """The program while it makes data, after the first picture."""

    def __init__(self, streets: Path, weights: Path, folder: Path, name: str = "run"):
        script, self.data = folder / "larger.py", folder / "data" / "streets"
        script.write_text(on_streets(height=256, width=512, train=30, val=10, length=10, seed=11))
        before = set(self.data.parent.glob(".*"))
        self.program = Program(training(self.data, weights, folder / "logs"), folder / name, script)
        self.program.wait_until(lambda: any(any(made.iterdir()) for made in set(self.data.parent.glob(".*")) - before))


@pytest.mark.tried(
    DOOR, "Ctrl-C and SIGTERM while several processes make the synthetic streets",
    "ends at once, no files",
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupted(streets, weights, tmp_path, number):
    making = Making(streets, weights, tmp_path)
    making.program.signal(number)
    assert making.program.status() == 128 + number
    assert making.program.errors == "" and making.program.all_gone()
    assert not list(making.data.parent.iterdir())


@pytest.mark.tried(
    DOOR, "the program killed while its processes make the synthetic streets", "the next run deletes its files"
)
def test_killed(streets, weights, tmp_path):
    making = Making(streets, weights, tmp_path)
    making.program.kill()
    assert making.program.all_gone() and not making.data.exists()
    left, = making.data.parent.iterdir()
    again = Making(streets, weights, tmp_path, "again")
    assert not left.exists()
    again.program.signal(signal.SIGINT)
    assert again.program.status() == 130 and not list(making.data.parent.iterdir())


@pytest.mark.tried(
    DOOR, "a process that makes the synthetic streets killed", "one line names it, no files"
)
def test_one_process_killed(streets, weights, tmp_path):
    making = Making(streets, weights, tmp_path)
    pids = children(making.program.process.pid)
    busy = [pid for pid in pids if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(busy[0], signal.SIGKILL)
    assert making.program.status() == 2
    line = refusal(making.program.errors)
    assert str(making.data) in line and "a process that rendered the synthetic streets was killed" in line
    assert making.program.all_gone() and not list(making.data.parent.iterdir())
