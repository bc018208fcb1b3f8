"""Decide when a frame of a stream becomes a keyframe."""
import sys
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from config.errors import UserError
from config.options import Options
from models.flow_dis import DISFlow
from models.methods.base import SeenFrame
from models.resize import size_of
from models.warp import warp

NEVER = sys.maxsize  # keyframe interval of a method that has none after the first frame


class Schedule:
    """Decides for one stream, after its first frame, which is always a keyframe."""

    def needs_keyframe(self, since: int, before: SeenFrame, seen: SeenFrame) -> bool:
        """Whether the frame `seen` becomes a keyframe. since: frames since the last keyframe, at least 1; before: the
        previous frame. Their views (1,3,h,w) are on the networks' device."""
        raise NotImplementedError

    def is_certain(self, since: int) -> bool:
        """Whether a frame, so many after a keyframe (0: a stream's first), becomes one whatever it shows."""
        return since == 0

    def spent(self, keyframe: bool, seconds: float) -> None:
        """Note the seconds that a frame took."""

    def reset(self) -> None:
        """Begin a new stream."""


class FixedInterval(Schedule):
    """The paper's schedule: every `interval`-th frame."""

    def __init__(self, interval: int):
        if not isinstance(interval, Real) or interval < 1 or interval % 1:
            raise UserError(f"interval must be a whole number from 1 on, not {interval!r}")
        self.interval: int = int(interval)

    def needs_keyframe(self, since: int, before: SeenFrame, seen: SeenFrame) -> bool:
        return self.is_certain(since)

    def is_certain(self, since: int) -> bool:
        return since == 0 or since >= self.interval


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


DIFFERS = 0.5  # standard deviations: a pixel of a carried view that is further from the present one has failed
JUMP = 0.15  # growth of the share of failed pixels from one frame to the next, at a cut
ROUGH = 0.28  # mean change of the flow from one grid pixel to the next, at a cut
MEMORY, CAP, LEAST = 0.02, 3.0, 0.005  # of the running average; a frame counts at most CAP times that; its least value


class Residual(Schedule):
    """A keyframe where warping has failed.

    The keyframe's view is carried along by DIS as a segmentation is. A pixel has failed where it then differs from the
    present view, in the mean of its channels, or where nothing was carried to. The shares of failed pixels are summed
    since the keyframe, in units of the usual share after a single frame; the next keyframe comes when the sum exceeds
    `threshold`, and at once at a cut: where the share jumps, or the flow is rough as between unrelated pictures. Costs
    DIS on pictures of 256 rows; on a GPU it waits for the view.
    """

    def __init__(self, threshold: float):
        self.threshold, self.dis = threshold, DISFlow()
        self.reset()

    def reset(self) -> None:
        self.sum = self.share = self.usual = 0.0
        self.frames = 0
        self.carried: Tensor | None = None  # (1,4,h,w): the keyframe's view, and 1 where there is one
        self.look: tuple[SeenFrame, np.ndarray] | None = None  # the last frame and its grey picture

    def needs_keyframe(self, since: int, before: SeenFrame, seen: SeenFrame) -> bool:
        previous, now = before.view.cpu(), seen.view.cpu()
        single = torch.cat([previous, torch.ones_like(previous[:, :1])], dim=1)  # (1,4,h,w)
        if since == 1 or self.carried is None or size_of(self.carried) != size_of(now):
            self.sum, self.share, self.carried = 0.0, 0.0, single
        flow = self._flow(before, seen, size_of(now))
        self.carried = warp(self.carried, flow)
        share, usual = failed(self.carried, now), failed(warp(single, flow), now)
        cut = share - self.share > JUMP or roughness(flow) > ROUGH
        if not cut:
            self.frames += 1
            usual = usual if self.frames == 1 else min(usual, CAP * max(self.usual, LEAST))
            self.usual += (usual - self.usual) * max(MEMORY, 1 / self.frames)
        self.sum, self.share = self.sum + share, share
        return cut or self.sum > self.threshold * max(self.usual, LEAST)

    def _flow(self, before: SeenFrame, seen: SeenFrame, size: tuple[int, int]) -> Tensor:
        """Flow (1,2,h,w) on the grid. Always by the same DIS, since ROUGH depends on it."""
        known = self.look is not None and self.look[0] is before
        previous = self.look[1] if known and self.look else self.dis.look(before.image[0].numpy())
        self.look = seen, self.dis.look(seen.image[0].numpy())
        return torch.from_numpy(self.dis.between(previous, self.look[1], size))[None]


def failed(carried: Tensor, view: Tensor) -> float:
    """Share of pixels where a carried view, with its cover (1,4,h,w), does not fit the present one (1,3,h,w)."""
    differs = (carried[:, :3] - view).abs().mean(dim=1) > DIFFERS  # (1,h,w)
    return float((differs | (carried[:, 3] < 0.5)).float().mean())


def roughness(flow: Tensor) -> float:
    """Mean absolute difference of the flow (1,2,h,w) between neighbours, across and down together."""
    return float(flow.diff(dim=-1).abs().mean() + flow.diff(dim=-2).abs().mean())


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
    """The schedule that the options name; with --method per-frame every frame is a keyframe, with tdnet only the first
    of a scene."""
    if options.method == "per-frame":
        return FixedInterval(1)
    interval = NEVER if options.method == "tdnet" else options.interval
    return {
        "fixed": FixedInterval(interval), "cut": SceneCut(interval, options.cut_threshold),
        "residual": Residual(options.residual_threshold), "budget": Budget(options.budget),
    }[options.schedule]
