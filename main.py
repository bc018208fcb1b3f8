"""GSVNet: fast semantic segmentation of video. Parses the command line and hands it to the trainer."""
import errno
import sys
import traceback

from config.errors import UserError
from config.options import parse

MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}  # by making room, or by other folders


def main(arguments: list[str]) -> int:
    try:
        options = parse(arguments)
        from trainer.program import run  # after parsing: --help and mistyped flags need not wait for torch

        return run(options)
    except UserError as error:
        return fail(arguments, error.line)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        return fail(arguments, f"{error.filename or 'a file'}: {error.strerror}; make room, or choose another folder")
    except KeyboardInterrupt:
        return 130


def fail(arguments: list[str], line: str) -> int:
    """Say what went wrong in one line (with `--debug 1` with its traceback); returns the exit status."""
    if "--debug=1" in " ".join(arguments).replace("--debug 1", "--debug=1"):
        traceback.print_exc()
    print(f"error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
