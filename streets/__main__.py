"""Command line: renders a data set of synthetic streets."""
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from config.command_line import Parser, check_value, whole_number
from config.errors import UserError
from streets.generate import StreetSettings, ensure_streets

LEAST = {"height": 16, "width": 16, "train": 0, "val": 0, "length": 1, "seed": 0, "workers": 1}
MOST = {"height": 8192, "width": 16384}


def main(words: Sequence[str]) -> int:
    """Read the arguments and render the data set. Returns the exit status."""
    parser = Parser(prog="python -m streets", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("data/synthetic"), help="folder of the data set")
    parser.add_argument("--workers", type=whole_number, help="processes (default: one per core)")
    for field in fields(StreetSettings):
        parser.add_argument(f"--{field.name}", type=whole_number, default=field.default)
    try:
        given = parser.read(words)
        for name, least in LEAST.items():
            if given[name] is not None:
                check_value(f"--{name}", given[name], low=least, high=MOST.get(name))
        root, workers = given.pop("root"), given.pop("workers")
        ensure_streets(root, StreetSettings(**given), workers)
    except (UserError, OSError) as error:
        line = error.line if isinstance(error, UserError) else f"{error.filename}: {error.strerror}"
        print("error:", line, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
