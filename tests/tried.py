"""What was tried to break the program: tests name it with the mark `tried`; `make reliability` makes a table of it.

@pytest.mark.tried("Checkpoints", "a file cut short", "refused in one line")     a passing test is one case of it
def test_cut_file(tmp_path, part): ...

def test_many(tmp_path, outcomes):                                               or the test counts its cases itself
    outcomes["loaded"] += 1
"""

import datetime
import os
import platform
from collections import Counter
from pathlib import Path

import pytest
import torch
import torchvision

DOORS = ("Flags", "Data", "Weights and checkpoints", "Video", "Processes and disks", "Reports of users", "Numbers")
BEGIN, END = "<!-- made by `make reliability`, from here -->", "<!-- to here -->"
THOROUGH = "MUTANTS" in os.environ  # of `make reliability`; elsewhere few cases of what takes minutes
COUNTS = pytest.StashKey[Counter]()


class Table:
    """Collects the outcomes of a run's marked tests and writes them into the document at `path`."""

    def __init__(self, path: Path):
        self.path, self.rows = path, {}

    def pytest_runtest_logreport(self, report) -> None:
        for name, value in report.user_properties if report.when == "call" or report.skipped else ():
            if name != "tried":
                continue
            door, what, outcomes = value
            row = self.rows.setdefault((door, what), Counter())
            row.update(outcomes if report.passed else {"skipped" if report.skipped else "FAILED": 1})

    def pytest_sessionfinish(self) -> None:
        text = self.path.read_text()
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        self.path.write_text(f"{before}{BEGIN}\n\n{self.markdown()}\n\n{END}{after}")

    def markdown(self) -> str:
        counts = [count for row in self.rows.values() for count in row.values()]
        failed = sum(row["FAILED"] for row in self.rows.values())
        lines = [
            f"{len(self.rows)} things tried, {sum(counts):,} cases, {failed} failures. "
            f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
            f"{machine()}; {datetime.date.today():%-d %B %Y}."
        ]
        for door in DOORS:
            rows = {what: row for (its, what), row in sorted(self.rows.items()) if its == door}
            if rows:
                lines += ["", f"### {door}", "", "| tried | cases | what happened |", "|---|---|---|"]
            for what, row in rows.items():
                happened = [x if len(row) == 1 else f"{count:,} {x}" for x, count in row.most_common()]
                lines.append(f"| {what} | {sum(row.values()):,} | {'; '.join(happened)} |")
        return "\n".join(lines)


def machine() -> str:
    """Cores and kind of the processor, and the GPU where there is one."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return f"{torch.multiprocessing.cpu_count()} cores of {platform.machine()}, {gpu}"


def note(item: pytest.Item) -> None:
    """Add what a marked test tried to its report, which reaches the process that makes the table."""
    mark = item.get_closest_marker("tried")
    if mark is None:
        return
    door, what, *outcome = mark.args
    if door not in DOORS:
        raise ValueError(f"{item.nodeid}: no door {door!r}; there are {', '.join(DOORS)}")
    counted = dict(item.stash.get(COUNTS, Counter()))
    item.user_properties.append(("tried", [door, what, counted or {outcome[0] if outcome else "as it should be": 1}]))
