"""What the program says and records: console lines, CSV rows, TensorBoard events. Only the first rank does either."""
import csv
import json
import logging
import os
import sys
from collections.abc import Iterator, Sized
from pathlib import Path

import numpy as np
from tqdm import tqdm

logger = logging.getLogger("gsvnet")


def start_console(quiet: bool = False) -> None:
    """Send the program's log lines to standard output; a `quiet` process (rank > 0) says nothing."""
    logger.handlers.clear()
    logger.propagate = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.INFO)


def progress_bar(*, total: int | None, description: str, unit: str, show: bool = True, done: int = 0) -> tqdm:
    """A progress bar that vanishes when done; where nobody watches a terminal, it speaks only now and then."""
    watched = sys.stdout.isatty()
    return tqdm(  # standard error is for errors alone
        file=sys.stdout, total=total, initial=done, desc=description, unit=unit, disable=not show, leave=False,
        mininterval=0.2 if watched else 30, maxinterval=10 if watched else 60, dynamic_ncols=watched,
    )


def watched(items: Sized, *, description: str, unit: str, show: bool = True) -> Iterator:
    """The items of a collection, with a progress bar that is gone when they end, or when an error ends them."""
    with progress_bar(total=len(items), description=description, unit=unit, show=show) as bar:
        for item in items:
            yield item
            bar.update()


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class RunLog:
    """A run's `log.csv` (long form: step, tag, value) and TensorBoard events, in `folder`.

    after: the step that the run goes on from. What an interrupted run had noted beyond it will be done again, and so it
    is forgotten.
    """

    def __init__(self, folder: Path, *, after: int = 0):
        from tensorboardX import SummaryWriter  # slow to import, and evaluation alone does not need it

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(str(folder), purge_step=after + 1 if after else None)
        path = folder / "log.csv"
        _forget_rows(path, after)
        new = not path.exists()
        self._file = open(path, "a", newline="")
        self._rows = csv.writer(self._file)
        if new:
            self._rows.writerow(["step", "tag", "value"])

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            self._rows.writerow([step, tag, f"{value:.8g}"])
            self._writer.add_scalar(tag, value, step)
        self._file.flush()

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        """image: (H,W,3) uint8 RGB."""
        self._writer.add_image(tag, image, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._writer.close()


def _forget_rows(path: Path, after: int) -> None:
    """Leave the head line and the whole rows up to step `after`; a killed run may have torn the last one."""
    if not path.is_file():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = lines[:1] + [
        line for line in lines[1:] if line.endswith("\n") and line.split(",")[0].isdigit() and int(line.split(",")[0]) <= after
    ]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)
