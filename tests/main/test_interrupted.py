"""Ctrl-C, sent to all processes as by a terminal, and SIGTERM: the program ends in order, status 130 or 143."""
import random
import signal
import time
from pathlib import Path

import pytest

from main import main
from models.released import read_propagation
from tests.main.program import DOOR, Program, children, experiment, temporaries, training
from tests.tried import THOROUGH
from utils.interrupts import Interrupt
from utils.run_folder import LATEST

SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM] if THOROUGH else [signal.SIGINT], ids=lambda number: number.name
)


def ended_in_order(program: Program, number: int) -> None:
    status = program.status()
    assert status == 128 + number, f"{status}: {program.errors}"
    assert program.errors == ""
    assert program.all_gone(), "processes still run"


def listens(program: Program) -> bool:
    """Whether Python itself has started: the program has a handler for SIGTERM."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture
def words(streets, weights, tmp_path):
    return training(
        streets, weights, tmp_path / "logs", "--num-worker", "2", "--epoch", "40", "--eval-interval", "1",
        "--save-every", "1",
    )


@pytest.mark.slow
@pytest.mark.tried(DOOR, "Ctrl-C and SIGTERM while Python and torch are imported")
@SIGNALS
def test_interrupted_while_importing(words, tmp_path, outcomes, number):
    rng = random.Random(int(number))
    for case in range(8):
        program = Program(words, tmp_path / f"run_{case}", launcher=())
        program.wait_until(lambda program=program: listens(program))
        time.sleep(rng.uniform(0, 1.2))
        program.signal(number)
        ended_in_order(program, number)
        outcomes["status 130 or 143, no message, no files"] += 1


def written(logs: Path) -> int:
    log = experiment(logs) / "log.csv"
    return len(log.read_text().splitlines()) if log.is_file() else 0


PHASES = {  # phase: whether the program is in it
    "building": lambda program, logs: "sha256" in program.output,
    "first step": lambda program, logs: "run folder" in program.output,
    "mid-epoch": lambda program, logs: written(logs) > 40,
    "writing a checkpoint": lambda program, logs: written(logs) > 40 and bool(temporaries(logs)),
    "evaluating": lambda program, logs: "evaluate gsv" in program.output,
}


@pytest.mark.slow
@pytest.mark.tried(
    DOOR, "Ctrl-C and SIGTERM while a run builds, steps, saves, evaluates", "status 130 or 143, all saved, resumes"
)
@pytest.mark.parametrize("phase", PHASES)
@SIGNALS
def test_interrupted_while_training(words, tmp_path, phase, number):
    logs = tmp_path / "logs"
    program = Program(words, tmp_path / "run", launcher=())
    program.wait_until(lambda: PHASES[phase](program, logs))
    program.signal(number)
    ended_in_order(program, number)
    assert not temporaries(logs)
    latest = experiment(logs) / LATEST
    assert latest.is_file() or phase in ("building", "first step")
    if latest.is_file():
        done = read_propagation(latest).content["progress"]
        assert done["iteration"] * 7 + 1 <= written(logs)
        more = ["--num-worker", "0", "--resume", "auto", "--early-stop", "1", "--epoch", str(done["epoch"] + 1)]
        assert main([*words, *more]) == 0
        assert read_propagation(latest).content["progress"]["iteration"] >= done["iteration"]


@pytest.mark.slow
@pytest.mark.tried(DOOR, "Ctrl-C and SIGTERM in --evaluate and --benchmark", "status 130 or 143, nothing half-written")
@pytest.mark.parametrize("what", ["--evaluate 1", "--benchmark loader", "--benchmark train"])
@SIGNALS
def test_interrupted_while_measuring(words, tmp_path, what, number):
    cache = tmp_path / "cache"
    cache.mkdir()
    words = [*words, *what.split(), "--resume", "1", "--cache-dir", str(cache)]
    program = Program(words, tmp_path / "run", launcher=())
    least = 2 if what == "--benchmark train" else 1  # the published way's process comes before the loaders'
    program.wait_until(lambda: len(children(program.process.pid)) >= least or bool(list(cache.iterdir())))
    started = children(program.process.pid)
    program.signal(number)
    ended_in_order(program, number)
    assert not any(Path(f"/proc/{process}").exists() for process in started)
    assert not temporaries(tmp_path) and {path.name for path in tmp_path.rglob("*.json")} <= {"parameters.json"}
    assert not list(cache.glob("tmp*")), "the benchmark's own folder still exists"


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGHUP)
        assert (interrupt.status, signal.getsignal(signal.SIGHUP)) == (0, signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGHUP, before)
