"""When a frame of a stream becomes a keyframe."""
from typing import Protocol

from torch import Tensor


class Schedule(Protocol):
    """Decides for one stream. The first frame is a keyframe anyway."""

    def wants_keyframe(self, since: int, previous: Tensor, view: Tensor) -> bool:
        """since: frames since the last keyframe, 1 for the frame after it; views (1,3,h,w) of the frame before and of this."""

    def spent(self, keyframe: bool, seconds: float) -> None:
        """What the frame cost."""

    def reset(self) -> None:
        """A new stream begins."""


class FixedInterval:
    """The paper's schedule: every `interval`-th frame."""

    def __init__(self, interval: int):
        self.interval = interval

    def wants_keyframe(self, since: int, previous: Tensor, view: Tensor) -> bool:
        return since >= self.interval

    def spent(self, keyframe: bool, seconds: float) -> None:
        pass

    def reset(self) -> None:
        pass


class SceneCut(FixedInterval):
    """Every `interval`-th frame, and wherever the picture changes at once.

    threshold: mean absolute difference of two frames' views, in standard deviations of the data set (the views' unit),
    above which nothing is worth carrying over. Looking costs one pass over 1/64 of the pixels.
    """

    def __init__(self, interval: int, threshold: float):
        super().__init__(interval)
        self.threshold = threshold

    def wants_keyframe(self, since: int, previous: Tensor, view: Tensor) -> bool:
        return super().wants_keyframe(since, previous, view) or change(previous, view) > self.threshold


MOST = 20  # times a frame's share that the first keyframe counts for at most


class Budget:
    """As many keyframes as an average of `milliseconds` a frame pays for.

    What a frame takes less than its share is saved up; a keyframe comes when the savings cover what the last one took more.
    Where even propagated frames take more than the budget, there is no second keyframe.
    """

    def __init__(self, milliseconds: float):
        self.share = milliseconds / 1e3
        self.reset()

    def reset(self) -> None:
        self.saved = 0.0  # seconds
        self.keyframe_cost: float | None = None

    def wants_keyframe(self, since: int, previous: Tensor, view: Tensor) -> bool:
        return self.keyframe_cost is not None and self.saved + self.share >= self.keyframe_cost

    def spent(self, keyframe: bool, seconds: float) -> None:
        if keyframe and self.keyframe_cost is None:  # it may hold what is done once: compiling, waking a device
            seconds = min(seconds, MOST * self.share)
        self.saved += self.share - seconds
        if keyframe:
            self.keyframe_cost = seconds


def change(previous: Tensor, view: Tensor) -> float:
    """Mean absolute difference of two views (1,3,h,w), in their unit."""
    return float((view - previous).abs().mean())
