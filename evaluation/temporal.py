"""Consistency over time of streams: what a viewer sees of a video that is segmented with a keyframe interval."""
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from dataloaders.eval_videos import Video
from evaluation.consistency import Correspondence, TemporalConsistency, VideoConsistency, correspondence
from evaluation.evaluated_frames import EvaluatedFrame
from evaluation.metrics_json import TemporalScores
from evaluation.optical_flow import FlowBetween, find_flow, visible_in_next
from utils.distributed import add_over_ranks
from utils.metrics import scores

WINDOWS = (8, 16)
Stream = tuple[str, int]  # method, keyframe interval
TRUE_FLOW = "true flow of the data set"
REFERENCE = "reference"  # among the methods: the labels themselves, which are the segmenter's


def flow_source(
    videos: Sequence[Video], folders: Sequence[Path], device: torch.device
) -> tuple[str, FlowBetween | None]:
    """Choose the flow that brings labels back in time: name and function; no function for the data set's true flow."""
    pairs = [frame for video in videos for frame in video[:-1]]
    if pairs and all(frame.labelled is not None and frame.labelled.ahead is not None for frame in pairs):
        return TRUE_FLOW, None
    return find_flow(folders, device)


class TemporalMeasures:
    """TC and mVC of streams, one for each method and keyframe interval; the first keyframe is the video's first frame.
    flow: between two frames; None where the frames carry their true flow. reference: measure the labels too."""

    def __init__(
        self, classes: int, *, methods: Sequence[str], intervals: Sequence[int], flow: FlowBetween | None,
        reference: bool = False,
    ):
        self.classes, self.intervals, self.flow = classes, tuple(intervals), flow
        # Segmenting every frame is the same at every interval.
        self.streams: list[Stream] = [
            (method, interval) for method in methods for interval in (intervals if method != "per-frame" else (1,))
        ] + ([(REFERENCE, 1)] if reference else [])
        self.consistency = {stream: TemporalConsistency(classes) for stream in self.streams}
        self.windows = {stream: [VideoConsistency(window) for window in WINDOWS] for stream in self.streams}
        self.pairs = 0

    def add(self, frame: EvaluatedFrame) -> None:
        """Measure the next frame; at time 0 a new video begins."""
        if frame.time == 0:
            self.previous: EvaluatedFrame | None = None
        if self.previous is not None:
            where, visible = self._correspondence(self.previous, frame)
            for stream in self.streams:
                before, after = (self._map(stream, x, x.image.shape[:2]) for x in (self.previous, frame))
                self.consistency[stream].add(before, after, where, visible)
            self.pairs += 1
        if self.previous is None or frame.label.shape != self.previous.label.shape:  # unlabelled, or another size
            for measure in chain(*self.windows.values()):
                measure.begin()
        for stream, measures in self.windows.items() if frame.label.numel() else ():
            for measure in measures:
                measure.add(frame.label, self._map(stream, frame, frame.label.shape), frame.label < self.classes)
        self.previous = frame

    @staticmethod
    def _map(stream: Stream, frame: EvaluatedFrame, size: Sequence[int]) -> Tensor:
        method, interval = stream
        if method == REFERENCE:
            return frame.label  # as large as the frame
        return frame.label_map(method, frame.time - frame.time % interval, size)

    def _correspondence(self, first: EvaluatedFrame, second: EvaluatedFrame) -> tuple[Correspondence, Tensor]:
        """Correspondence from one frame to the next, and (H,W) bool: which pixels the next frame shows."""
        if self.flow is None:
            return correspondence(first.ahead), first.visible
        forward, backward = self.flow(first.image, second.image), self.flow(second.image, first.image)
        return correspondence(forward), visible_in_next(forward, backward)

    def results(self, device: torch.device) -> dict[str, dict[int, TemporalScores]]:
        """Scores over all ranks by method and interval."""
        found: dict[str, dict[int, TemporalScores]] = {}
        for method, interval in self.streams:
            found.setdefault(method, {})[interval] = self._stream_scores((method, interval), device)
        if "per-frame" in found:
            found["per-frame"] = dict.fromkeys(self.intervals, found["per-frame"][1])
        return found

    def _stream_scores(self, stream: Stream, device: torch.device) -> TemporalScores:
        tc, vc = self.consistency[stream], self.windows[stream]
        sums = torch.tensor(
            [self.pairs, *(x for m in vc for x in (m.constant, m.correct, m.windows))], dtype=torch.float64
        )
        everywhere, visible, sums = add_over_ranks([tc.everywhere.counts, tc.visible.counts, sums], device)
        by_window = dict(zip(map(str, WINDOWS), sums[1:].view(-1, 3).tolist()))
        return TemporalScores(
            pairs=int(sums[0]), tc=scores(everywhere).miou, tc_visible=scores(visible).miou,
            mvc={name: constant / count if count else None for name, (constant, _, count) in by_window.items()},
            mvc_right={name: correct / count if count else None for name, (_, correct, count) in by_window.items()},
            windows={name: int(count) for name, (_, _, count) in by_window.items()},
        )
