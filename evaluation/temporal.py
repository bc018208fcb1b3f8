"""Measures over time of streams: what a viewer sees of a video that is segmented with a keyframe interval."""
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataloaders.eval_videos import Video
from evaluation.consistency import TemporalConsistency, VideoConsistency, correspondence
from evaluation.optical_flow import FlowBetween, find_flow, seen_again
from utils.distributed import add_over_ranks
from utils.metrics import scores

WINDOWS = (8, 16)
Stream = tuple[str, int]  # method, keyframe interval
TRUE_FLOW = "true flow of the data set"


def flow_source(videos: Sequence[Video], folders: list[Path], device: torch.device) -> tuple[str, FlowBetween | None]:
    """Name of the flow that brings labels back in time, and its function; None for the data set's own, where it has one."""
    pairs = [frame for video in videos for frame in video[:-1]]
    if pairs and all(frame.labelled is not None and frame.labelled.ahead is not None for frame in pairs):
        return TRUE_FLOW, None
    return find_flow(folders, device)


class TemporalMeasures:
    """TC and mVC of streams, one for each method and keyframe interval; a stream's first keyframe is a video's first frame."""

    def __init__(self, classes: int, *, methods: Sequence[str], intervals: Sequence[int], flow: FlowBetween | None):
        self.classes, self.intervals, self.flow = classes, tuple(intervals), flow
        # Segmenting every frame knows no interval.
        self.streams: list[Stream] = [
            (method, interval) for method in methods for interval in (intervals if method != "per-frame" else (1,))
        ]
        self.consistency = {stream: TemporalConsistency(classes) for stream in self.streams}
        self.video = {stream: [VideoConsistency(window) for window in WINDOWS] for stream in self.streams}
        self.pairs = 0

    def begin(self) -> None:
        """A new video."""
        self.time = 0
        self.before: dict[str, Tensor] = {}
        self.maps_before: dict[Stream, Tensor] = {}
        self.label_size: Sequence[int] | None = None
        for measures in self.video.values():
            for measure in measures:
                measure.begin()

    def add(self, item: Mapping[str, Tensor], look: Callable[[str, int, Sequence[int]], Tensor]) -> None:
        """The video's next frame.

        item: of VideoDataset, on the device. look(method, keyframe, size) -> class indices (H,W).
        """
        size = tuple(item["image"].shape[:2])
        maps = {(method, interval): look(method, self.time - self.time % interval, size) for method, interval in self.streams}
        if self.before:
            where, visible = self._partners(self.before, item)
            for stream in self.streams:
                self.consistency[stream].add(self.maps_before[stream], maps[stream], where, visible)
            self.pairs += 1
        label = item["label"]
        if label.shape != self.label_size:  # unlabelled, or of another size: other windows
            self.label_size = label.shape
            for measure in (measure for measures in self.video.values() for measure in measures):
                measure.begin()
        for (method, interval), measures in self.video.items():
            for measure in measures:
                if label.numel():
                    start = self.time - self.time % interval
                    prediction = maps[method, interval] if tuple(label.shape) == size else look(method, start, tuple(label.shape))
                    measure.add(label, prediction, label < self.classes)
        self.before, self.maps_before, self.time = dict(item), maps, self.time + 1

    def _partners(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Correspondence from one frame to the next, and which pixels the next frame shows."""
        if self.flow is None:
            return correspondence(first["ahead"]), first["visible"]
        forward = self.flow(first["image"], second["image"])
        backward = self.flow(second["image"], first["image"])
        return correspondence(forward), seen_again(forward, backward)

    def results(self, device: torch.device) -> dict[str, dict[int, dict]]:
        """By method and interval: `tc`, `tc_visible`, and by window `mvc` and `mvc_right` (fractions 0..1, None where no
        pair or window could be measured) with their counts, over all ranks."""
        found: dict[str, dict[int, dict]] = {}
        for stream in self.streams:
            tc, vc = self.consistency[stream], self.video[stream]
            everywhere, visible, numbers = add_over_ranks(
                [
                    tc.everywhere.counts, tc.visible.counts,
                    torch.tensor([self.pairs, *(x for m in vc for x in (m.constant, m.right, m.windows))], dtype=torch.float64),
                ],
                device,
            )
            row: dict[str, Any] = {
                "pairs": int(numbers[0]), "tc": _known(scores(everywhere)["miou"]), "tc_visible": _known(scores(visible)["miou"]),
                "mvc": {}, "mvc_right": {}, "windows": {},
            }
            for window, (constant, right, windows) in zip(WINDOWS, numbers[1:].view(-1, 3).tolist()):
                row["windows"][str(window)] = int(windows)
                row["mvc"][str(window)] = constant / windows if windows else None
                row["mvc_right"][str(window)] = right / windows if windows else None
            found.setdefault(stream[0], {})[stream[1]] = row
        if "per-frame" in found:
            found["per-frame"] = dict.fromkeys(self.intervals, found["per-frame"][1])
        return found


def _known(x: float) -> float | None:
    return None if x != x else x
