"""GSVNet: fast semantic segmentation of video. The command line, and the dispatch to the one thing it asks for."""
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import UserError
from utils.machine import set_up_torch

if TYPE_CHECKING:  # --help and a mistyped flag need no torch
    import torch

    from config.options import Options
    from utils.distributed import Ranks

    Task = Callable[[torch.device, Ranks], object]

WITHOUT_DATA = ("table", "video", "cameras", "classes")  # benchmarks that read no data set


def main(words: list[str]) -> int:
    """Run the program with these command-line words. Returns the exit status: 0; 1 for a bug, or problems that --check
    found; 2 for an error that the user can fix; 130, 143 or 129 after a signal."""
    set_up_torch()
    debug = "--debug=1" in " ".join(words).replace("--debug 1", "--debug=1")
    try:
        from config.command_line import parse
        from config.options import tasks
        from utils.slurm import adopt_slurm

        options = parse(words)
        if tasks(options) in ([], ["--evaluate 1"]) and adopt_slurm():  # everything else is for one process
            options = parse(words)
        return run(options)
    except UserError as error:
        return fail(error.line, 2, debug)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        reason = error.strerror or str(error)
        return fail(f"{error.filename or 'a file'}: {reason}; free some space, or choose another folder", 2, debug)
    except ModuleNotFoundError as error:
        hint = "run make setup, then source .venv/bin/activate"
        return fail(f"the Python package {error.name} is not installed here; {hint}", 2, debug)
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "no message")
        return fail(f"{type(error).__name__}: {first} (a bug of this program; --debug 1 shows where)", 1, debug)


def fail(line: str, status: int, debug: bool) -> int:
    """Print one line on standard error, after the traceback with --debug 1. Returns `status`."""
    if debug:
        traceback.print_exc()
    print(f"error: {line}", file=sys.stderr)
    return status


def run(options: "Options") -> int:
    """Import what the options ask for, choose the device, join the other processes, do it. Returns the exit status.

    Raises UserError. Signals end the program at once during imports, which must not be unwound; afterwards they raise.
    """
    from utils.run_folder import with_run

    options = with_run(options)
    task = task_of(options)
    from utils.distributed import choose_device, join, leave
    from utils.interrupts import Stopped, unwinding
    from utils.library_errors import OF_LIBRARIES, as_user_error
    from utils.logging import logger, start_console

    device = choose_device(options.device, options.local_rank)
    try:
        with unwinding():
            ranks = join(options.local_rank, device.type == "cuda")
            start_console(quiet=not ranks.first)
            try:
                outcome = task(device, ranks)
                return outcome if isinstance(outcome, int) else 0
            except Stopped as stop:
                logger.info("%s%s", stop, "" if options.demo else "; continue with --resume auto")
                return stop.status
            finally:
                leave()
    except OF_LIBRARIES as error:
        known = as_user_error(error, options, device)
        if known is None:
            raise
        raise known from error


def task_of(options: "Options") -> "Task":
    """Import and return the one thing that the options ask for; an int that it returns is the exit status."""
    if options.demo:
        from trainer.demo import run_demo

        return lambda device, _: run_demo(options, device)
    if options.check:
        from dataloaders.dataset_check import check_dataset

        return lambda *_: 1 if check_dataset(options) else 0
    if options.download:
        from models.download import run_download

        return lambda _, ranks: run_download(options) if ranks.first else None
    if options.export:
        from inference.export import run_export
        from models.load import networks_for_inference

        return lambda _, ranks: run_export(networks_for_inference(options), options) if ranks.first else None
    if options.video:
        from inference.video import run_video

        return lambda device, ranks: run_video(options, device, ranks)
    if options.benchmark:
        from benchmarks.run import run_benchmark

        return with_data(lambda device, _: run_benchmark(options, device), options)
    from trainer.trainer import Trainer

    if options.evaluate:
        return with_data(lambda device, ranks: Trainer(options, device, ranks).evaluate(), options)
    return with_data(lambda device, ranks: Trainer(options, device, ranks).train(), options)


def with_data(task: "Task", options: "Options") -> "Task":
    """The task, after making sure that its data set is there; a benchmark that reads none remains as it is."""
    if options.benchmark in WITHOUT_DATA:
        return task
    from dataloaders.loaders import prepare_data
    from utils.distributed import wait_for_all

    def prepared(device: "torch.device", ranks: "Ranks") -> object:
        if ranks.first:  # it may have to be rendered, once
            prepare_data(dataset=options.dataset, root=Path(options.data_path))
        wait_for_all()
        return task(device, ranks)

    return prepared


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # during imports there is nothing to save
        signal.signal(number, lambda number, _: os._exit(128 + number))
    status = main(sys.argv[1:])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise during exit for a dead loader process
    sys.exit(status)
