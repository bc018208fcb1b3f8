"""Helpers of the tests of the whole program; `Program` runs it in a process of its own."""
import contextlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import torch

from models.released import read_propagation
from utils.run_folder import LATEST

ROOT = Path(__file__).resolve().parents[2]
DOOR = "Processes and disks"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
PATIENCE = 180  # seconds, on a machine that does other things too
IMPORTED = multiprocessing.get_context("forkserver")  # starts processes that have imported the program's modules
IMPORTED.set_forkserver_preload(["main", "trainer.trainer", "inference.video", "benchmarks.run"])


class Program:
    """`main.py` (or a `script` around it) running in a process group of its own, as a shell starts it.

    launcher: what stands between Python and the script. None saves the seconds of a fresh Python's imports; such a
    process ends without Python's exit handlers, so tests of its end need a fresh one.
    """

    def __init__(
        self, words: Sequence[str], output: Path, script: Path = ROOT / "main.py",
        launcher: Sequence[str] | None = None,
    ):
        self._output, self._errors = output.with_suffix(".out"), output.with_suffix(".err")
        with open(self._output, "w") as out, open(self._errors, "w") as errors:
            if launcher is None:
                self.process = Forked([str(script), *words], self._output, self._errors)
            else:
                command = [sys.executable, *launcher, str(script), *words]
                self.process = subprocess.Popen(
                    command, env=ENVIRONMENT, stdout=out, stderr=errors, start_new_session=True
                )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def hold(self) -> None:
        """Stop the process where it is; returns when all its threads stand still."""
        self.process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.process.pid}/task")
        self.wait_until(lambda: all(
            (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads.iterdir()
        ))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds. Fails if the program ends first."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.errors}"
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.004)

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group, as Ctrl-C in a terminal does."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill the first process alone, without warning; its loader processes are not signalled."""
        self.process.kill()
        self.process.wait()

    def all_gone(self) -> bool:
        """Whether every process of the group ends soon after the first."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        return False

    def status(self) -> int:
        """Wait for the end. Returns the exit status as a shell shows it."""
        status = self.process.wait(PATIENCE)
        return 128 - status if status < 0 else status


class Forked:
    """A script in a process that has imported the program's modules, with what is needed of subprocess.Popen."""

    def __init__(self, words: Sequence[str], output: Path, errors: Path):
        self._process = IMPORTED.Process(target=_run, args=(words, output, errors))
        with contextlib.chdir(ROOT):  # where the server of such processes finds the modules
            self._process.start()
        self.pid, self.kill, self.poll = self._process.pid, self._process.kill, lambda: self.returncode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("main.py", timeout)
        return self.returncode


def _run(words: Sequence[str], output: Path, errors: Path) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # Python's own, in place of that of this process
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.environ.update(ENVIRONMENT)
    sys.argv = [*words]
    runpy.run_path(words[0], run_name="__main__")


def children(process: int) -> list[int]:
    """Running processes that `process` has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(parent) == process and state != "Z":
            found.append(int(stat.parent.name))
    return found


def training(streets: Path, weights: Path, logs: Path, *more: str) -> list[str]:
    """Words that train the propagation on tiny crops; an epoch has 13 steps."""
    return [
        "--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights), "--log-folder", str(logs),
        "--device", "cpu", "--crop-height", "64", "--crop-width", "96", "--batch-size", "2", "--num-worker", "0",
        "--multi-step", "1", "2", "--eval-multi-step", "1", "--epoch", "1", "--eval-interval", "9", *more,
    ]


def on_streets(**settings: int) -> str:
    """A script: `main.py` with other synthetic streets than the program's."""
    return f"""
import sys

if __name__ == "__main__":
    from dataloaders import loaders
    from streets import StreetSettings
    from main import main

    loaders.StreetSettings = lambda: StreetSettings(**{settings})
    sys.exit(main(sys.argv[1:]))
"""


def experiment(logs: Path, number: int = 0, name: str = "swiftnet_test") -> Path:
    return logs / "run" / "synthetic" / name / f"experiment_{number}"


def trained(path: Path) -> dict[str, torch.Tensor]:
    """Every trained tensor of a checkpoint."""
    content = read_propagation(path).content
    return {**content["state_dict"], **{f"flow.{k}": v for k, v in content["state_dict_of"].items()}}


def temporaries(folder: Path) -> set[str]:
    """Names of temporary files anywhere in `folder`."""
    return {path.name for path in folder.rglob(".*.tmp")}


def folders(logs: Path) -> list[Path]:
    """Experiment folders, newest last."""
    return sorted(logs.glob("run/synthetic/*/experiment_*"), key=lambda path: int(path.name.split("_")[1]))


def latest(logs: Path) -> Path | None:
    """The newest checkpoint, if there is one."""
    return next((folder / LATEST for folder in reversed(folders(logs)) if (folder / LATEST).is_file()), None)


def logged_steps(logs: Path) -> int:
    """Step of the last complete row in the newest log.csv."""
    paths = [folder / "log.csv" for folder in folders(logs) if (folder / "log.csv").is_file()]
    lines = paths[-1].read_text().splitlines(keepends=True)[1:] if paths else []
    rows = [line for line in lines if line.endswith("\n")]
    return int(rows[-1].split(",")[0]) if rows else 0


def read_all(folder: Path) -> None:
    """Read every file but temporary ones; each must be whole, except for the last row of a log.csv."""
    for path in folder.rglob("[!.]*"):
        if path.suffix == ".tar":
            read_propagation(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            assert cv2.imread(str(path)) is not None, path
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path
        elif path.name == "log.csv":
            for line in path.read_text().splitlines(keepends=True)[1:]:
                if line.endswith("\n"):
                    step, tag, value = line.split(",")
                    assert int(step) > 0 and "/" in tag and float(value) == float(value), line


def iteration(path: Path) -> int:
    return read_propagation(path).content["progress"]["iteration"]


def refusal(errors: str) -> str:
    """The one line on standard error, which must be all of it."""
    lines = errors.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), errors
    return lines[0]
