"""GSVNet: fast semantic segmentation of video. Parses the command line and hands it to the trainer."""
import os
import signal
import sys
import traceback

from config.errors import UserError


def main(arguments: list[str]) -> int:
    try:
        from config.options import parse

        options = parse(arguments)
        from trainer.program import run  # after parsing: --help and mistyped flags need not wait for torch
        from utils.interrupts import unwinding

        with unwinding():
            return run(options)
    except UserError as error:
        return fail(arguments, error.line, 2)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        reason = error.strerror or str(error)
        return fail(arguments, f"{error.filename or 'a file'}: {reason}; make room, or choose another folder", 2)
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        return fail(arguments, f"{type(error).__name__}: {first} (unexpected: a fault of this program; --debug 1 shows where)", 1)


def fail(arguments: list[str], line: str, status: int) -> int:
    """Say what went wrong in one line (with `--debug 1` with its traceback); returns the exit status."""
    if "--debug=1" in " ".join(arguments).replace("--debug 1", "--debug=1"):
        traceback.print_exc()
    print(f"error: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # while it imports, nothing is under way that could be saved
        signal.signal(number, lambda number, _: os._exit(128 + number))
    sys.exit(main(sys.argv[1:]))
