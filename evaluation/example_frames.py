"""Frames worth looking at after an evaluation, and pictures of them."""
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from evaluation.evaluated_frames import EvaluatedFrame
from evaluation.metrics_json import WorstFrame
from utils.distributed import from_all_ranks
from utils.visualize import grid, overlay, with_caption

WORST, RANDOM = 6, 3


@dataclass(frozen=True)
class ExampleFrame:
    """A labelled frame, on the CPU, with one method's predictions and the frame's own mIoU (0..1) by position.
    image: (H,W,3) uint8 RGB; label and predictions: class indices (H',W') uint8."""

    name: str
    path: Path
    image: np.ndarray
    label: np.ndarray
    predictions: Mapping[int, np.ndarray]
    miou: Mapping[int, float | None]

    def worst_frame(self) -> WorstFrame:
        """Its entry in metrics.json; its mIoU is known."""
        (first, before), (last, after) = min(self.miou.items()), max(self.miou.items())
        assert before is not None and after is not None
        return WorstFrame(
            name=self.name, path=str(self.path), first_position=first, last_position=last, first_miou=before,
            last_miou=after, lost=before - after,
        )


def example_frame(frame: EvaluatedFrame, method: str) -> ExampleFrame:
    """Copy from the device what is needed of a labelled frame."""
    assert frame.source.labelled is not None
    predictions = {k: x.cpu().numpy() for k, x in sorted(frame.predictions[method].items())}
    return ExampleFrame(
        frame.source.labelled.name, frame.source.path, frame.image.cpu().numpy(), frame.label.cpu().numpy(),
        predictions, {k: frame.miou(method, k) for k in predictions},
    )


def panel(example: ExampleFrame, colours: Sequence[Sequence[int]]) -> np.ndarray:
    """Label and predictions by position over the frame, side by side: RGB (H,W,3) uint8, at the label's size."""
    maps = {"label": example.label} | {f"position {k}": x for k, x in example.predictions.items()}
    return grid([captioned_overlays(example.image, maps, colours)])


def captioned_overlays(
    image: np.ndarray, maps: Mapping[str, np.ndarray], colours: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Label maps (H',W') by caption, each over the frame (H,W,3): RGB pictures of the maps' size plus a caption."""
    image = cv2.resize(image, next(iter(maps.values())).shape[::-1])  # (H',W',3)
    return [with_caption(overlay(image, label, colours), caption) for caption, label in maps.items()]


class ExampleFrames:
    """Keeps the frames that lose most mIoU between the first and the last position, and a few chosen at random."""

    def __init__(self, method: str, positions: Sequence[int]):
        self.method, self.first, self.last = method, min(positions, default=0), max(positions, default=0)
        self._worst: list[tuple[float, int, ExampleFrame]] = []  # a heap, the least loss first
        self._random: list[ExampleFrame] = []
        self._count, self._rng = 0, np.random.default_rng(0)

    def add(self, frame: EvaluatedFrame) -> None:
        """Consider a frame; frames that are not evaluated at the last position are not kept."""
        if not {self.first, self.last} <= {*frame.positions}:
            return
        first, last = (frame.miou(self.method, position) for position in (self.first, self.last))
        if first is None or last is None:  # no labelled pixel
            return
        self._count += 1
        lost = first - last
        # Every frame so far is equally likely to be among the random ones.
        place = self._count - 1 if len(self._random) < RANDOM else int(self._rng.integers(self._count))
        is_worse = lost > 0 and (len(self._worst) < WORST or lost > self._worst[0][0])
        if not is_worse and place >= RANDOM:
            return
        example = example_frame(frame, self.method)
        if place < RANDOM:
            self._random[place : place + 1] = [example]
        if is_worse:
            heapq.heappush(self._worst, (lost, self._count, example))
            if len(self._worst) > WORST:
                heapq.heappop(self._worst)

    def worst(self) -> list[ExampleFrame]:
        """The worst frames of all ranks, the worst first."""
        found = [(lost, example) for kept in from_all_ranks(self._worst) for lost, _, example in kept]
        return [example for _, example in sorted(found, key=lambda x: (-x[0], x[1].name))[:WORST]]

    def random(self) -> list[ExampleFrame]:
        """Random frames of all ranks, from each rank in turn."""
        by_rank = from_all_ranks(self._random)
        return [found[i] for i in range(RANDOM) for found in by_rank if i < len(found)][:RANDOM]
