"""All positions of a video in one pass: groups that begin at different keyframes are carried along together."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.gsvnet import GSVNet, State
from models.steps import KeyframeStep, ViewStep

CARRIED = ("warp", "gsv")  # methods that move logits from frame to frame


@dataclass(frozen=True)
class Plan:
    """Which logits a video's evaluation asks for.

    wanted: for each frame, the keyframes (indices into the video) whose groups are looked at there. last_use: where each
    keyframe's group is looked at last.
    """

    wanted: tuple[tuple[int, ...], ...]
    last_use: dict[int, int]


def plan_video(labelled: Sequence[bool], positions: Iterable[int], intervals: Iterable[int] = ()) -> Plan:
    """Plan a video whose frames are labelled or not.

    positions: a labelled frame t is looked at in the groups that begin at t - position, where the video reaches back so
    far. intervals: keyframe intervals l of streams that begin with the video; each frame is looked at in the group that
    its stream's last keyframe began.
    """
    wanted = []
    for t, has_label in enumerate(labelled):
        starts = {t - position for position in positions if has_label and t >= position}
        starts |= {t - t % interval for interval in intervals}
        wanted.append(tuple(sorted(starts)))
    return Plan(tuple(wanted), {start: t for t, starts in enumerate(wanted) for start in starts})


class VideoPropagation:
    """Goes through one video frame by frame and gives the logits that its plan asks for, by method and keyframe.

    A keyframe is segmented once for all methods; the flow between two frames and a frame's intra features are computed
    once for all groups under way.
    """

    def __init__(self, net: GSVNet, segment: KeyframeStep, see: ViewStep, plan: Plan, *, methods: Sequence[str]):
        self.net, self.segment, self.see, self.plan, self.methods = net, segment, see, plan, methods
        self.time = 0
        self.view: Tensor | None = None  # of the frame before
        self.starts: list[int] = []  # keyframes of the groups under way
        self.logits: dict[str, list[Tensor]] = {method: [] for method in methods if method != "per-frame"}

    @torch.inference_mode()
    def advance(self, image: Tensor) -> dict[str, dict[int, Tensor]]:
        """The video's next frame, (H,W,3) uint8 RGB -> logits (1,C,h,w) by method and keyframe, as the plan wants them."""
        t, wanted = self.time, self.plan.wanted[self.time]
        view = self.see(image[None])  # (1,3,h,w)
        if self.view is not None and self.starts:
            self._carry(self.view, view)
        begins = bool(self.logits) and t in self.plan.last_use
        alone: dict[int, Tensor] = {}  # what "per-frame" finds
        if begins or ("per-frame" in self.methods and wanted):
            keyframe = self.segment(image[None])  # (1,C,h,w)
            alone = dict.fromkeys(wanted, keyframe)
            if begins:
                self.starts.append(t)
                for groups in self.logits.values():
                    groups.append(keyframe)
        found = {
            method: {start: self.logits[method][self.starts.index(start)] for start in wanted}
            if method in self.logits
            else alone
            for method in self.methods
        }
        self._drop(t)
        self.view, self.time = view, t + 1
        return found

    def _carry(self, before: Tensor, view: Tensor) -> None:
        """Take all groups one frame on, from the view `before` to `view`; copied ones stay as they are."""
        carried = [method for method in self.methods if method in CARRIED]
        if not carried:
            return
        flow = self.net.motion(before, view)  # (1,2,h,w)
        for method in carried:
            state = State(torch.cat(self.logits[method]), before)  # (M,C,h,w)
            logits = self.net.propagate(state, view, flow).logits if method == "gsv" else self.net.warp(state, view, flow)
            self.logits[method] = list(logits.split(1))

    def _drop(self, t: int) -> None:
        """Forget the groups that nobody looks at after frame t."""
        kept = [i for i, start in enumerate(self.starts) if self.plan.last_use[start] > t]
        self.starts = [self.starts[i] for i in kept]
        self.logits = {method: [groups[i] for i in kept] for method, groups in self.logits.items()}
