"""A script: trains in forked processes, one after another, each killed at or soon after one of its file operations.

Arguments: log folder, number of processes, the program's words. Prints, as a JSON list, the optimizer steps saved
after each kill; a file that cannot be read is an error.
"""
import json
import os
import random
import signal
import sys
from pathlib import Path

from main import main
from tests.main.program import iteration, latest, read_all
from trainer.trainer import Trainer  # noqa: F401, imported once for all of them

OPERATIONS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate")


def die(folder: str, count: int, delay: float) -> None:
    """Kill this process `delay` seconds after the start of writing operation number `count` in `folder`."""

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event not in OPERATIONS or not str(arguments[0]).startswith(folder):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        count -= 1
        if count == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which kills, whatever the process is doing
            signal.setitimer(signal.ITIMER_REAL, delay) if delay else os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def lives(folder: Path, count: int, words: list[str]) -> list[int]:
    rng, saved = random.Random(count), []
    for _ in range(count):
        operation, delay = rng.randint(1, 60), rng.choice([0.0, rng.uniform(0, 0.004)])
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            die(str(folder), operation, delay)
            os._exit(main(words))
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"not killed: {status}"
        read_all(folder)
        newest = latest(folder)
        saved.append(iteration(newest) if newest else 0)
    return saved


if __name__ == "__main__":
    print(json.dumps(lives(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
