"""The frames worth looking at after an evaluation, and pictures of them."""
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from evaluation.evaluate import Seen
from utils.distributed import from_all_ranks
from utils.metrics import scores
from utils.visualize import grid, overlay, with_caption

WORST, USUAL = 6, 3


def panel(seen: Seen, method: str, colours: Sequence[Sequence[int]]) -> np.ndarray:
    """Label and predictions by position, each over its frame, side by side: RGB (H,W,3) uint8, at the label's size."""
    height, width = seen.label.shape
    image = cv2.resize(seen.image.cpu().numpy(), (width, height))
    maps = {"label": seen.label} | {f"position {k}": x for k, x in sorted(seen.predictions[method].items())}
    panels = [with_caption(overlay(image, x.cpu().numpy(), colours), caption) for caption, x in maps.items()]
    return grid([panels])


@dataclass(frozen=True)
class Shown:
    """A frame to show, and its own mIoU at the first and at the last position evaluated."""

    seen: Seen
    positions: tuple[int, int]
    first_miou: float
    last_miou: float

    @property
    def lost(self) -> float:
        return self.first_miou - self.last_miou

    def row(self) -> dict:
        """As metrics.json lists it under `worst`."""
        frame = self.seen.frame
        return {
            "name": frame.name, "path": str(frame.frames[-1]), "first_position": self.positions[0],
            "last_position": self.positions[1], "first_miou": self.first_miou, "last_miou": self.last_miou, "lost": self.lost,
        }


class Gallery:
    """An `on_frame` that keeps the frames that lost most mIoU between position 0 and the last, and a few drawn at random."""

    def __init__(self, method: str, positions: Sequence[int]):
        self.method, self.first, self.last = method, min(positions), max(positions)
        self._worst: list[tuple[float, int, Shown]] = []  # a heap, the least loss first
        self._usual: list[Shown] = []
        self._number, self._rng = 0, np.random.default_rng(0)

    def __call__(self, seen: Seen) -> None:
        counts = seen.counts[self.method]
        if self.last not in counts:
            return
        ends = (self.first, self.last)
        shown = Shown(seen, ends, *(scores(counts[position])["miou"] for position in ends))
        if shown.lost != shown.lost:  # no labelled pixel
            return
        self._number += 1
        # Every frame so far has the same chance to be among the usual ones.
        place = self._number - 1 if len(self._usual) < USUAL else int(self._rng.integers(self._number))
        is_worse = shown.lost > 0 and (len(self._worst) < WORST or shown.lost > self._worst[0][0])
        if not is_worse and place >= USUAL:
            return
        shown = replace(shown, seen=_on_cpu(seen, self.method))
        if place < USUAL:
            self._usual[place : place + 1] = [shown]
        if is_worse:
            heapq.heappush(self._worst, (shown.lost, self._number, shown))
            if len(self._worst) > WORST:
                heapq.heappop(self._worst)

    def worst(self) -> list[Shown]:
        """The worst of all ranks, the worst first."""
        shown = [x for found in from_all_ranks([shown for _, _, shown in self._worst]) for x in found]
        return sorted(shown, key=lambda x: (-x.lost, x.seen.frame.name))[:WORST]

    def usual(self) -> list[Shown]:
        """Those of all ranks, each rank's in turn."""
        by_rank = from_all_ranks(self._usual)
        return [found[i] for i in range(USUAL) for found in by_rank if i < len(found)][:USUAL]


def _on_cpu(seen: Seen, method: str) -> Seen:
    """A copy that keeps neither the device's memory nor the other methods."""
    predictions = {method: {k: x.cpu() for k, x in seen.predictions[method].items()}}
    return Seen(seen.frame, seen.image.cpu(), seen.label.cpu(), predictions, {method: seen.counts[method]})
