"""Segmenting a video in one call: `for result in segment("in.mp4", segmenter): ...`."""
import copy
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.errors import UserError
from inference.containers import Frames, TimedImage
from inference.keyframe_schedule import FixedInterval
from inference.stream import StreamState, VideoSegmenter
from inference.threads import Newest, read_ahead, write_behind
from inference.video_input import open_frames
from inference.video_writer import VideoFile, silence_codecs
from models.methods.base import SeenFrame
from models.resize import align
from utils.logging import progress_bar
from utils.visualize import overlay

LATENCIES = 10_000  # frames whose latency is kept


@dataclass(frozen=True, eq=False)
class Result:
    """A segmented frame.

    image: (H,W,3) uint8 RGB. labels: (H,W) uint8, indices into the segmenter's `classes`. number: of the frame, from 0;
    title: its name; time: when it is shown, in seconds from the first; duration: how long, 0 if unknown. latency:
    seconds from the frame's arrival to its labels.
    """

    image: np.ndarray
    labels: np.ndarray
    number: int
    title: str
    time: float
    duration: float
    is_keyframe: bool
    latency: float
    colours: Sequence[Sequence[int]] = field(repr=False)
    state: StreamState = field(repr=False)

    def overlay(self) -> np.ndarray:
        """The classes' colours over the frame, (H,W,3) uint8 RGB."""
        return overlay(self.image, self.labels, self.colours)

    @torch.inference_mode()
    def probabilities(self) -> np.ndarray:
        """Of each class, (C,H,W) float32. Raises UserError where the method carries labels, which have none."""
        last, (height, width) = self.state.last, self.labels.shape
        if last.labels is not None:
            raise UserError("Result.probabilities: this method carries labels; use one that carries logits")
        return align(last.logits.float(), (height, width)).softmax(dim=1)[0].cpu().numpy()


class Segmentation(ExitStack, Iterator[Result]):
    """The results of a video's frames, one after the other. Reading runs ahead in a thread, a few frames at most; of a
    camera or a stream, the newest frame comes next, and those in between are dropped.

    Use it in a `with` block, or to its end, or `close` it. frames: see `Frames`. stop: asked before each frame whether
    it is the end. spent: seconds in the segmenter.
    """

    def __init__(
        self, frames: Frames, segmenter: VideoSegmenter, *, colours: Sequence[Sequence[int]],
        stop: Callable[[], bool] = lambda: False,
    ):
        super().__init__()
        self.frames, self.segmenter, self.colours, self.stop = frames, segmenter, colours, stop
        self.count, self.keyframes, self.spent = 0, 0, 0.0
        self.latencies = deque[float](maxlen=LATENCIES)  # of a camera or a stream
        segmenter.reset()
        if frames.live:
            self._newest = self.enter_context(closing(Newest(frames.timed, stop)))
            self._source = self._seen(self._newest)
        else:
            timed = self.enter_context(closing(read_ahead(frames.timed)))
            self._source = self.enter_context(closing(read_ahead(self._seen(timed))))

    @property
    def dropped(self) -> int:
        """Frames of a camera or a stream that came while the one before was being segmented."""
        return self._newest.dropped if self.frames.live else 0

    def __next__(self) -> Result:
        if self.stop():
            raise StopIteration
        shown, seen, spent = next(self._source)
        began = time.perf_counter() - spent
        labels = self.segmenter.labels_of(seen, began=began)
        now, state = time.perf_counter(), self.segmenter.state
        assert state is not None
        result = Result(
            shown.image, labels, self.count, self.frames.title(self.count), shown.time, shown.duration,
            state.is_keyframe, now - shown.arrived, self.colours, state,
        )
        self.count += 1
        self.keyframes += state.is_keyframe
        self.spent += now - began
        if self.frames.live:
            self.latencies.append(result.latency)
        return result

    def save(self, path: str | Path, **settings: Any) -> None:
        """Write a video of overlays, with the sound; settings: those of `VideoFile`. Raises UserError."""
        if self.count:
            raise UserError(f"{path}: {self.count} frames have been taken already; save a new segmentation")
        if Path(path).resolve() in {file.resolve() for file in self.frames.files}:
            raise UserError(f"{path}: is the video that is read, and would be overwritten; choose another name")
        with self, VideoFile(Path(path), self.frames.fps, **self.frames.kept | settings) as video:
            self.into(lambda result: video.write(result.overlay(), result.title, result.time, result.duration))

    def into(self, *writers: Callable[[Result], object]) -> None:
        """Give every result to the writers, each of which runs in a thread; with a progress bar."""
        name, count = self.frames.name, self.frames.count
        with ExitStack() as stack, progress_bar(total=count, description=name, unit="frame") as bar:
            puts = [stack.enter_context(write_behind(write)) for write in writers]
            for result in self:
                for put in puts:
                    put(result)
                bar.update()

    def _seen(self, timed: Iterable[TimedImage]) -> Generator[tuple[TimedImage, SeenFrame, float], None, None]:
        """The frames, each with what the segmenter sees of it, a classical flow included, and the seconds it took."""
        seen = None
        for shown in timed:
            began = time.perf_counter()
            seen = self.segmenter.see(shown.image, seen)
            yield shown, seen, time.perf_counter() - began


def segment(
    source: str | Path, segmenter: VideoSegmenter | str, *, interval: int | None = None, fps: float = 0.0,
    start: float = 0.0, end: float | None = None, stride: int = 1,
) -> Segmentation:
    """Segment a video.

        for result in segment("in.mp4", segmenter, interval=3): result.labels, result.is_keyframe, result.overlay()
        segment("in.mp4", segmenter).save("out.mp4")

    source: one video, as --video takes it. segmenter: or the name of one, as --segnet takes it, whose labels are then
    moved along DIS. interval: between keyframes, if not the segmenter's own. fps, start, end, stride: see
    `open_frames`. Raises UserError.
    """
    silence_codecs()
    if isinstance(segmenter, str):
        segmenter = VideoSegmenter.from_segmenter(segmenter)
    segmenter = copy.copy(segmenter)  # with a state of its own
    segmenter.schedule = copy.copy(segmenter.schedule) if interval is None else FixedInterval(interval)
    frames = open_frames(str(source), fps, option="source", start=start, end=end, stride=stride)
    return Segmentation(frames, segmenter, colours=segmenter.colours)
