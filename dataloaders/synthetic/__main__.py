"""Command line: generates a data set of synthetic streets."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from config.errors import UserError
from dataloaders.synthetic.generate import StreetSettings, ensure_streets


def main() -> int:
    """Reads the arguments and generates the data set; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dataloaders.synthetic", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("data/synthetic"), help="folder of the data set")
    parser.add_argument("--workers", type=int, default=None, help="processes; default one per core")
    for field in fields(StreetSettings):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    arguments = parser.parse_args()
    settings = StreetSettings(**{field.name: getattr(arguments, field.name) for field in fields(StreetSettings)})
    try:
        ensure_streets(arguments.root, settings, arguments.workers)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
