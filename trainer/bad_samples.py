"""Unreadable training samples that were skipped (`--on-bad-sample skip`): counted and listed."""
import csv
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from utils.files import write_text
from utils.logging import logger

LISTED = "bad_samples.csv"


class BadSamples:
    """How often each sample was skipped in this process, by the line that describes its error."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, batch: Mapping) -> None:
        """Count what the loader skipped for this batch, and log each sample once."""
        for line in batch.get("bad", ()):
            if line not in self.counts:
                logger.warning("skipped: %s", line)
            self.counts[line] += 1


def write_list(folder: Path, counts: Mapping[str, int]) -> None:
    """Write `bad_samples.csv` atomically: how often a sample was skipped, and why; the most frequent first."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["times", "reason"])
    rows.writerows([count, line] for line, count in Counter(counts).most_common())
    write_text(folder / LISTED, text.getvalue())
