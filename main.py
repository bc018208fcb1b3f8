"""GSVNet: fast semantic segmentation of video. Parses the command line and hands it to the trainer."""
import sys
import traceback

from config.errors import UserError
from config.options import parse


def main(arguments: list[str]) -> int:
    try:
        options = parse(arguments)
        from trainer.program import run  # after parsing: --help and mistyped flags need not wait for torch

        return run(options)
    except UserError as error:
        if "--debug=1" in " ".join(arguments).replace("--debug 1", "--debug=1"):
            traceback.print_exc()
        print(f"error: {error.line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
