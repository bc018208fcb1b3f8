"""GSVNet: fast semantic segmentation of video. The command line and everything that it can start."""
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import UserError

if TYPE_CHECKING:  # --help and a mistyped flag do not wait for torch
    import torch

    from config.options import Options
    from utils.distributed import Ranks

WITHOUT_DATA = ("table", "video")  # benchmarks that read no data set


def main(words: list[str]) -> int:
    """Run the program with these command-line words. Returns the exit status: 0, 2 for a UserError, 130 or 143, 1 otherwise."""
    debug = "--debug=1" in " ".join(words).replace("--debug 1", "--debug=1")
    try:
        from config.command_line import parse

        options = parse(words)
        from utils.interrupts import unwinding

        with unwinding():
            return run(options)
    except UserError as error:
        return fail(error.line, 2, debug)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        reason = error.strerror or str(error)
        return fail(f"{error.filename or 'a file'}: {reason}; make room, or choose another folder", 2, debug)
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        return fail(f"{type(error).__name__}: {first} (unexpected: a fault of this program; --debug 1 shows where)", 1, debug)


def fail(line: str, status: int, debug: bool) -> int:
    """Print one line on standard error, after the traceback with --debug 1. Returns `status`."""
    if debug:
        traceback.print_exc()
    print(f"error: {line}", file=sys.stderr)
    return status


def run(options: "Options") -> int:
    """Choose the device, join the other processes, dispatch. Returns the exit status. Raises UserError."""
    from utils.distributed import join, leave
    from utils.library_errors import OF_LIBRARIES, as_user_error
    from utils.logging import start_console

    device = choose_device(options)
    try:
        ranks = join(options.local_rank, device.type == "cuda")
        start_console(quiet=not ranks.first)
        try:
            return dispatch(options, device, ranks)
        finally:
            leave()
    except OF_LIBRARIES as error:
        known = as_user_error(error, options, device)
        if known is None:
            raise
        raise known from error


def choose_device(options: "Options") -> "torch.device":
    """The device that --device names; auto takes the GPU where there is one. Raises UserError for a GPU that is not there."""
    import torch

    if options.device == "cpu" or (options.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: no usable GPU here; use --device cpu or auto")
    if options.local_rank >= torch.cuda.device_count():
        raise UserError(f"--local-rank {options.local_rank}: only {torch.cuda.device_count()} GPUs here")
    return torch.device("cuda", options.local_rank)


def dispatch(options: "Options", device: "torch.device", ranks: "Ranks") -> int:
    """Do the one thing that the options ask for. Returns the exit status."""
    if options.demo:
        from trainer.demo import run_demo

        run_demo(options, device)
    elif options.export:
        from inference.export import run_export
        from models.load import networks_for_evaluation

        if ranks.first:
            run_export(networks_for_evaluation(options), options)
    elif options.video:
        from inference.video import run_video

        return run_video(options, device)
    elif options.benchmark in WITHOUT_DATA:
        from benchmarks.run import run_benchmark

        run_benchmark(options, device)
    else:
        return dispatch_with_data(options, device, ranks)
    return 0


def dispatch_with_data(options: "Options", device: "torch.device", ranks: "Ranks") -> int:
    """Benchmarks of data, evaluation and training, once the data set is there. Returns the exit status."""
    from dataloaders.loaders import prepare_data
    from trainer.trainer import Stopped, Trainer
    from utils.distributed import wait_for_all
    from utils.logging import logger

    if ranks.first:  # before the others look for it: it may have to be made
        prepare_data(dataset=options.dataset, root=Path(options.data_path))
    wait_for_all()
    if options.benchmark:
        from benchmarks.run import run_benchmark

        run_benchmark(options, device)
        return 0
    trainer = Trainer(options, device, ranks)
    try:
        if options.evaluate:
            trainer.evaluate()
        else:
            trainer.train()
    except Stopped as stop:
        logger.info("%s; continue with --resume auto", stop)
        return stop.status
    return 0


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # while it imports, nothing is under way that could be saved
        signal.signal(number, lambda number, _: os._exit(128 + number))
    sys.exit(main(sys.argv[1:]))
