"""Command line: generates a data set of synthetic streets."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from config.errors import UserError
from streets.generate import StreetSettings, ensure_streets

LEAST = {"height": 16, "width": 16, "train": 0, "val": 0, "length": 1, "seed": 0, "workers": 1}
MOST = {"height": 8192, "width": 16384}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m streets", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("data/synthetic"), help="folder of the data set")
    parser.add_argument("--workers", type=int, default=None, help="processes; default one per core")
    for field in fields(StreetSettings):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    arguments = parser.parse_args(words)
    for name, least in LEAST.items():
        value, most = getattr(arguments, name), MOST.get(name)
        if value is not None and (value < least or (most is not None and value > most)):
            raise UserError(f"--{name} {value}: wants a number from {least} {f'to {most}' if most else 'on'}")
    return arguments


def main(words: Sequence[str]) -> int:
    """Reads the arguments and generates the data set; returns the exit status."""
    try:
        arguments = parse(words)
        settings = StreetSettings(**{field.name: getattr(arguments, field.name) for field in fields(StreetSettings)})
        ensure_streets(arguments.root, settings, arguments.workers)
    except (UserError, OSError) as error:
        print("error:", error.line if isinstance(error, UserError) else f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
