"""What finders report about a split: training stops at the first problem, --check 1 lists them all."""
import contextlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from config.errors import UserError
from dataloaders.clips import LabelledFrame

MISPLACED = "missing or misplaced files"
NO_FRAME, NO_LABEL = "labels without a frame", "frames without a label"
SHOWN = 3  # files in a line


class Problem(NamedTuple):
    """One line of text that names a file, under the heading `kind`."""

    kind: str
    text: str


@dataclass
class SplitScan:
    """The labelled frames of one split and its problems; without `collect`, the first one is raised as a UserError.

    unlabelled: number of video frames without a label, which is no problem; counted with `collect` only.
    """

    collect: bool = False
    frames: Sequence[LabelledFrame] = ()
    unlabelled: int = 0
    problems: list[Problem] = field(default_factory=list)

    def report(self, text: str, kind: str = MISPLACED) -> None:
        """Collect a problem. Raises UserError without `collect`."""
        if not self.collect:
            raise UserError(text)
        self.problems.append(Problem(kind, text))

    def report_missing(self, frame: Path, label: Path) -> None:
        """Report a label without its frame. Raises UserError without `collect`."""
        self.report(f"{frame}: missing, but {label} labels it; restore it, or remove the label", NO_FRAME)

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Report a UserError that the block raises, and continue after the block."""
        try:
            yield
        except UserError as error:
            if not self.collect:
                raise
            self.report(error.line)

    def count_unlabelled(self, frames: Iterable[Path], labelled: Container[Path], *, video: bool) -> None:
        """Look for `frames` without a label, with `collect` only: count those of videos, report those among stills."""
        if not self.collect:
            return
        bare = sorted(path for path in frames if path not in labelled and path.name[0] != ".")
        if video:
            self.unlabelled += len(bare)
        elif bare:
            shown = ", ".join(map(str, bare[:SHOWN])) + (", ..." if len(bare) > SHOWN else "")
            self.report(f"{len(bare)} unused: {shown}", NO_LABEL)
