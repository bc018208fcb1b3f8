"""A process of the program is killed by the system, for lack of memory for example: the others do not wait for it."""
import os
import signal
import time
from pathlib import Path

import pytest

from main import main
from models.released import read_propagation
from tests.main.program import DOOR, Program, children, experiment, iteration, refusal, temporaries, training
from tests.tried import THOROUGH
from utils.run_folder import LATEST

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture
def words(streets, weights, tmp_path):
    return training(streets, weights, tmp_path / "logs", "--save-every", "1")


def saved(logs: Path) -> bool:
    return (experiment(logs) / LATEST).is_file()


@pytest.mark.slow
@pytest.mark.tried(
    DOOR, "a loader process killed while training or evaluating",
    "one line names it and --num-worker; all files are whole",
)
@pytest.mark.parametrize("when, more", [
    ("epoch 1/40", ["--epoch", "40"]),
    ("evaluate gsv", ["--epoch", "40", "--eval-interval", "1"]),
    ("evaluate gsv", ["--evaluate", "1", "--resume", "1"]),
], ids=["mid-epoch", "evaluation between epochs", "evaluation"])
def test_dead_loader_process(words, tmp_path, when, more):
    logs = tmp_path / "logs"
    program = Program([*words, "--num-worker", "2", *more], tmp_path / "run", launcher=())
    program.wait_until(
        lambda: when in program.output and ("--evaluate" in more or saved(logs))
        and len(children(program.process.pid)) > 1
    )
    program.process.send_signal(signal.SIGSTOP)  # or it may end first
    for process in children(program.process.pid):
        os.kill(process, signal.SIGKILL)
    program.process.send_signal(signal.SIGCONT)
    killed = time.monotonic()
    assert program.status() == 2
    line = refusal(program.errors)
    assert "loader process" in line and "--num-worker" in line, line
    assert time.monotonic() - killed < 60 and program.all_gone() and not temporaries(tmp_path)
    if saved(logs):
        done = iteration(experiment(logs) / LATEST)
        assert done > 0 and main([*words, "--resume", "auto", "--early-stop", "1"]) == 0
        assert iteration(experiment(logs) / LATEST) >= done


def rank(process: int) -> str:
    words = Path(f"/proc/{process}/environ").read_text().split("\0")
    return next((word.removeprefix("RANK=") for word in words if word.startswith("RANK=")), "")


@pytest.mark.slow
@pytest.mark.tried(DOOR, "one of two training processes killed", "the other ends within a minute; both resume")
@pytest.mark.parametrize("dead", ["0", "1"] if THOROUGH else ["0"])
def test_dead_rank(words, tmp_path, dead):
    logs = tmp_path / "logs"
    program = Program([*words, "--epoch", "40"], tmp_path / "run", launcher=LAUNCHER)
    program.wait_until(lambda: saved(logs))
    for process in children(program.process.pid):
        if rank(process) == dead:
            os.kill(process, signal.SIGKILL)
    killed = time.monotonic()
    assert program.status() not in (0, 2)
    assert time.monotonic() - killed < 60 and program.all_gone()
    done = iteration(experiment(logs) / LATEST)
    assert done > 0
    again = Program([*words, "--resume", "auto", "--early-stop", "1"], tmp_path / "again", launcher=LAUNCHER)
    assert again.status() == 0, again.errors
    assert read_propagation(experiment(logs) / LATEST).content["epoch"] == 1
    assert iteration(experiment(logs) / LATEST) >= done
    assert not experiment(logs, 1).exists() and not temporaries(logs)
