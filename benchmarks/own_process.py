"""Work in a process of its own, where memory is not kept as this program keeps it (`utils.machine.set_up_torch`): the
published way's, with which it is compared."""
import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from config.errors import UserError
from config.options import Options

Work = Callable[..., Any]


def in_own_process(options: Options, device: torch.device, make: Callable[..., Work], *args: Any) -> Work:
    """What `make(*args)` returns, called in a process of its own; in this one on a GPU, where that does not matter, and
    in a dry run."""
    return make(*args) if options.early_stop or device.type == "cuda" else OwnProcess(make, *args)


class OwnProcess:
    """Calls what `make(*args)` returns in a new process, which ends with this object or this process. What is raised
    there is raised here."""

    def __init__(self, make: Callable[..., Work], *args: Any):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        # Ctrl-C is for this process, which ends the other.
        self._process: Any = subprocess.Popen(
            [sys.executable, "-m", __name__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._call(make, args)

    def __call__(self, *args: Any) -> Any:
        return self._call(None, args)

    def __del__(self) -> None:
        self._process.kill()  # a closed pipe is no sign while loader processes of this one have it, too
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def _call(self, make: Callable[..., Work] | None, args: tuple) -> Any:
        try:
            pickle.dump((make, args), self._process.stdin)
            self._process.stdin.flush()
            good, found = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise UserError(
                f"the published way's process ended with status {self._process.wait()}, killed or out of memory; free "
                "some, or choose smaller frames"
            ) from error
        if not good:
            raise found
        return found


def serve() -> None:
    """Answer calls until no more can come."""
    answers, sys.stdout = open(os.dup(1), "wb"), sys.stderr
    os.dup2(2, 1)  # what libraries print is no answer
    work: Work | None = None
    with contextlib.suppress(EOFError, BrokenPipeError), answers:
        while True:
            make, args = pickle.load(sys.stdin.buffer)
            try:
                if make:
                    work = make(*args)
                answer = True, None if make or work is None else work(*args)
            except Exception as error:  # of any kind; it is the caller's
                answer = False, error if isinstance(error, UserError) else RuntimeError(repr(error))
            pickle.dump(answer, answers)
            answers.flush()


if __name__ == "__main__":
    serve()
