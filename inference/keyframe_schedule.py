"""Decide when a frame of a stream becomes a keyframe."""
import torch
from torch import Tensor

from config.options import Options
from models.flow_dis import DISFlow
from models.methods.base import SeenFrame
from models.resize import size_of
from models.warp import warp


class Schedule:
    """Decides for one stream, after its first frame, which is always a keyframe."""

    def needs_keyframe(self, since: int, before: SeenFrame, seen: SeenFrame) -> bool:
        """Whether the frame `seen` becomes a keyframe. since: frames since the last keyframe, at least 1; before: the
        previous frame. Their views (1,3,h,w) are on the networks' device."""
        raise NotImplementedError

    def spent(self, keyframe: bool, seconds: float) -> None:
        """Note the seconds that a frame took."""

    def reset(self) -> None:
        """Begin a new stream."""


class FixedInterval(Schedule):
    """The paper's schedule: every `interval`-th frame."""

    def __init__(self, interval: int):
        self.interval = interval

    def needs_keyframe(self, since: int, before: SeenFrame, seen: SeenFrame) -> bool:
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

    def needs_keyframe(self, since: int, before: SeenFrame, seen: SeenFrame) -> bool:
        return super().needs_keyframe(since, before, seen) or change(before.view, seen.view) > self.threshold


DIFFERS = 0.5  # standard deviations by which a pixel of the carried view differs from the present one, at least
JUMP = 0.15  # share of differing pixels by which a cut exceeds the frame before


class Residual(Schedule):
    """A keyframe where warping has failed.

    The keyframe's view is carried along by DIS, as a segmentation is. The share of its pixels that differ from the
    present view (mean over the channels above `DIFFERS`), or that left the frame's picture without one, is summed over
    the frames since the keyframe; a keyframe comes when the sum exceeds `threshold`, or when the share jumps, as at a
    cut. On a GPU it waits for the view.
    """

    def __init__(self, threshold: float):
        self.threshold, self.dis = threshold, DISFlow()
        self.reset()

    def reset(self) -> None:
        self.sum = self.share = 0.0
        self.carried: Tensor | None = None  # (1,4,h,w): the keyframe's view, and 1 where there is one

    def needs_keyframe(self, since: int, before: SeenFrame, seen: SeenFrame) -> bool:
        now = seen.view.cpu()
        if since == 1 or self.carried is None:
            self.reset()
            view = before.view.cpu()
            self.carried = torch.cat([view, torch.ones_like(view[:, :1])], dim=1)
        self.carried = warp(self.carried, self._flow(before, seen))  # (1,4,h,w)
        differs = (self.carried[:, :3] - now).abs().mean(dim=1) > DIFFERS  # (1,h,w)
        share = float((differs | (self.carried[:, 3] < 0.5)).float().mean())
        jumps = share - self.share > JUMP
        self.sum, self.share = self.sum + share, share
        return jumps or self.sum > self.threshold

    def _flow(self, before: SeenFrame, seen: SeenFrame) -> Tensor:
        """Flow (1,2,h,w) on the grid: the method's own, or DIS."""
        size = size_of(seen.view)
        if seen.flow is not None and size_of(seen.flow) == size:
            return seen.flow.cpu()
        looks = [frame.looks[0] if frame.looks else self.dis.look(frame.image[0].numpy()) for frame in (before, seen)]
        return torch.from_numpy(self.dis.between(looks[0], looks[1], size))[None]


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

    def needs_keyframe(self, since: int, before: SeenFrame, seen: SeenFrame) -> bool:
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


def build_schedule(options: Options) -> Schedule:
    """The schedule that the options name; with --method per-frame every frame is a keyframe."""
    if options.method == "per-frame":
        return FixedInterval(1)
    return {
        "fixed": FixedInterval(options.interval), "cut": SceneCut(options.interval, options.cut_threshold),
        "residual": Residual(options.residual_threshold), "budget": Budget(options.budget),
    }[options.schedule]
