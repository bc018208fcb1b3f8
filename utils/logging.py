"""Console lines, CSV rows and TensorBoard events, of the first rank alone."""
import contextlib
import csv
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from config.errors import UserError
from utils.files import file_errors, write_text

FLUSH_SECONDS = 120  # until TensorBoard sees the newest events
logger = logging.getLogger("gsvnet")
Item = TypeVar("Item")


def start_console(quiet: bool = False) -> None:
    """Send log lines to standard output; a `quiet` process (rank > 0) prints errors alone."""
    logger.handlers.clear()
    logger.propagate = False
    handler = (AboveBar if sys.stdout.isatty() else logging.StreamHandler)(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.INFO)


class AboveBar(logging.StreamHandler):
    """Writes lines to a terminal, above the progress bar that is on it, if any."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(self.stream):
            super().emit(record)


def progress_bar(
    items: Iterable | None = None, *, total: int | None = None, description: str, unit: str, show: bool = True,
    done: int = 0,
) -> tqdm:
    """A progress bar that vanishes when done. Without a terminal it prints only every 30 seconds."""
    watched = sys.stdout.isatty()
    return tqdm(  # standard error is for errors alone
        items, file=sys.stdout, total=total, initial=done, desc=description, unit=unit, disable=not show, leave=False,
        mininterval=0.2 if watched else 30, maxinterval=10 if watched else 60, dynamic_ncols=watched,
    )


def watched(items: Iterable[Item], *, description: str, unit: str, show: bool = True) -> Iterator[Item]:
    """The items of a collection, with a progress bar."""
    yield from progress_bar(items, description=description, unit=unit, show=show)


class RunLog:
    """A run's `log.csv` (long form: step, tag, value) and TensorBoard events, in `folder`; closed by the `with` block.

    after: the step that the run continues from; rows of later steps, which an interrupted run wrote, are removed.
    Raises UserError if the files cannot be written, but never in place of an error of the block.
    """

    def __init__(self, folder: Path, *, after: int = 0):
        from tensorboardX import summary  # slow to import, and evaluation alone does not need it
        from tensorboardX.event_file_writer import EventsWriter  # SummaryWriter's thread hangs when the disk is full
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._rows_path, self._events_path = folder / "log.csv", folder / "events"
        self._summary, self._event = summary, Event
        with file_errors(self._rows_path):
            folder.mkdir(parents=True, exist_ok=True)
            _forget_rows(self._rows_path, after)
            new = not self._rows_path.exists()
            self._file = open(self._rows_path, "a", newline="")
        self._rows = csv.writer(self._file)
        if new:
            self._rows.writerow(["step", "tag", "value"])
        with file_errors(self._events_path):
            self._events = EventsWriter(str(self._events_path), f".{os.getpid()}")
        self._flushed = time.monotonic()
        # TensorBoard hides the events of later steps, which a killed run wrote.
        self._add(Event(step=after + 1, session_log=SessionLog(status=SessionLog.START)))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        quiet = contextlib.nullcontext() if kind is None else contextlib.suppress(UserError)
        with quiet, file_errors(self._events_path), contextlib.closing(self._events), file_errors(self._rows_path):
            self._file.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        with file_errors(self._rows_path):
            self._rows.writerows([step, tag, f"{value:.8g}"] for tag, value in values.items())
            self._file.flush()
        for tag, value in values.items():
            self._add(self._event(step=step, summary=self._summary.scalar(tag, value)))

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        """image: (H,W,3) uint8 RGB."""
        self._add(self._event(step=step, summary=self._summary.image(tag, image, dataformats="HWC")))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        with file_errors(self._events_path):
            self._events.write_event(event)
            if time.monotonic() > self._flushed + FLUSH_SECONDS:
                self._events.flush()
                self._flushed = time.monotonic()


def _forget_rows(path: Path, after: int) -> None:
    """Keep the header and the whole rows up to step `after`; a killed run may have cut the last one off."""
    if not path.is_file():
        return
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    steps = [line.split(",")[0] if line.endswith("\n") else "" for line in lines]
    kept = [line for line, step in zip(lines[1:], steps[1:]) if step.isdigit() and int(step) <= after]
    write_text(path, "".join(lines[:1] + kept))
