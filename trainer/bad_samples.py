"""Unreadable training samples that were skipped (`--on-bad-sample skip`): counted and listed."""
import csv
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from utils.files import write_text
from utils.logging import logger

LISTED = "bad_samples.csv"


class BadSamples(Counter[str]):
    """How often each sample was skipped in this process, by the line that describes its error."""

    def note(self, batch: Mapping) -> None:
        """Count what the loader skipped for this batch, and log each sample once."""
        for line in batch.get("bad", ()):
            if line not in self:
                logger.warning("skipped: %s", line)
            self[line] += 1


def write_list(folder: Path, counts: Counter[str]) -> None:
    """Write `bad_samples.csv` atomically: how often a sample was skipped, and why; the most frequent first."""
    text = io.StringIO()
    rows = [("times", "reason"), *((count, line) for line, count in counts.most_common())]
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(folder / LISTED, text.getvalue())
