"""Decide when a frame of a stream becomes a keyframe."""
from torch import Tensor


class Schedule:
    """Decides for one stream, after its first frame, which is always a keyframe."""

    def needs_keyframe(self, since: int, previous: Tensor, view: Tensor) -> bool:
        """Whether the frame with `view` becomes a keyframe. since: frames since the last keyframe, at least 1; views
        (1,3,h,w) of the previous frame and of this one, on the networks' device."""
        raise NotImplementedError

    def spent(self, keyframe: bool, seconds: float) -> None:
        """Note the seconds that a frame took."""

    def reset(self) -> None:
        """Begin a new stream."""


class FixedInterval(Schedule):
    """The paper's schedule: every `interval`-th frame."""

    def __init__(self, interval: int):
        self.interval = interval

    def needs_keyframe(self, since: int, previous: Tensor, view: Tensor) -> bool:
        return since >= self.interval


class SceneCut(FixedInterval):
    """Every `interval`-th frame, and wherever the whole picture changes.

    threshold: mean absolute difference of two frames' views, in standard deviations of the data set (the views' unit).
    Costs one pass over 1/64 of the pixels; on a GPU it is the one schedule that waits for the view, before the networks
    of the frame are started.
    """

    def __init__(self, interval: int, threshold: float):
        super().__init__(interval)
        self.threshold = threshold

    def needs_keyframe(self, since: int, previous: Tensor, view: Tensor) -> bool:
        return super().needs_keyframe(since, previous, view) or change(previous, view) > self.threshold


MOST = 20  # at most so many times a frame's share are counted for the first keyframe


class Budget(Schedule):
    """As many keyframes as an average of `milliseconds` a frame allows.

    Time that a frame does not use is saved; a keyframe comes when the savings cover what the last one took beyond its
    share. If even propagated frames exceed the budget, there is no second keyframe.
    """

    def __init__(self, milliseconds: float):
        self.share = milliseconds / 1e3
        self.reset()

    def reset(self) -> None:
        self.saved = 0.0  # seconds
        self.keyframe_cost: float | None = None

    def needs_keyframe(self, since: int, previous: Tensor, view: Tensor) -> bool:
        return self.keyframe_cost is not None and self.saved + self.share >= self.keyframe_cost

    def spent(self, keyframe: bool, seconds: float) -> None:
        if keyframe and self.keyframe_cost is None:  # it may include what is done once: compiling, waking a device
            seconds = min(seconds, MOST * self.share)
        self.saved += self.share - seconds
        if keyframe:
            self.keyframe_cost = seconds


def change(previous: Tensor, view: Tensor) -> float:
    """Mean absolute difference of two views (1,3,h,w), in their unit."""
    return float((view - previous).abs().mean())
