"""All positions of a video in one pass: groups that begin at different keyframes are propagated together."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.gsvnet import GSVNet, State
from models.steps import KeyframeStep, ViewStep

CARRIED = ("warp", "gsv")  # methods that move logits from frame to frame


@dataclass(frozen=True)
class Plan:
    """Which logits the evaluation of a video needs. keyframes: for each frame, the keyframes (indices into the video)
    whose groups are needed there. last_use: the last frame that needs each keyframe's group."""

    keyframes: tuple[tuple[int, ...], ...]
    last_use: dict[int, int]


def plan_video(labelled: Sequence[bool], positions: Iterable[int], intervals: Iterable[int] = ()) -> Plan:
    """Plan a video whose frames are labelled or not. positions: a labelled frame t needs the groups that begin at
    t - position, if the video reaches back that far. intervals: keyframe intervals of streams that begin with the
    video; each frame needs the group of its stream's last keyframe."""
    keyframes = []
    for t, has_label in enumerate(labelled):
        starts = {t - position for position in positions if has_label and t >= position}
        starts |= {t - t % interval for interval in intervals}
        keyframes.append(tuple(sorted(starts)))
    return Plan(tuple(keyframes), {start: t for t, starts in enumerate(keyframes) for start in starts})


class VideoPropagation:
    """Goes through one video frame by frame. A keyframe is segmented once for all methods; the flow between two frames
    and a frame's intra features are computed once for all groups."""

    def __init__(self, net: GSVNet, segment: KeyframeStep, see: ViewStep, plan: Plan, *, methods: Sequence[str]):
        self.net, self.segment, self.see, self.plan, self.methods = net, segment, see, plan, methods
        self.time = 0
        self.view: Tensor | None = None  # of the previous frame
        # Logits of the current groups, by method and keyframe.
        self.groups: dict[str, dict[int, Tensor]] = {method: {} for method in methods if method != "per-frame"}

    @torch.inference_mode()
    def advance(self, image: Tensor) -> dict[str, dict[int, Tensor]]:
        """The video's next frame, (H,W,3) uint8 RGB -> the logits (1,C,h,w) of the plan, by method and keyframe."""
        t, needed = self.time, self.plan.keyframes[self.time]
        view = self.see(image[None])  # (1,3,h,w)
        if self.view is not None:
            self._carry(self.view, view)
        begins = bool(self.groups) and t in self.plan.last_use
        alone: dict[int, Tensor] = {}  # of method per-frame
        if begins or ("per-frame" in self.methods and needed):
            keyframe = self.segment(image[None])  # (1,C,h,w)
            alone = dict.fromkeys(needed, keyframe)
            if begins:
                for groups in self.groups.values():
                    groups[t] = keyframe
        found = {method: {start: groups[start] for start in needed} for method, groups in self.groups.items()}
        self.groups = {
            method: {start: x for start, x in groups.items() if self.plan.last_use[start] > t}
            for method, groups in self.groups.items()
        }
        self.view, self.time = view, t + 1
        return {method: found.get(method, alone) for method in self.methods}

    def _carry(self, before: Tensor, view: Tensor) -> None:
        """Propagate all groups by one frame, from the view `before` to `view`; copied logits stay the same."""
        carried = [method for method in self.methods if method in CARRIED and self.groups[method]]
        if not carried:
            return
        flow = self.net.motion(before, view)  # (1,2,h,w)
        for method in carried:
            state = State(torch.cat([*self.groups[method].values()]), before)  # (M,C,h,w)
            warps = method == "warp"
            logits = self.net.warp(state, view, flow) if warps else self.net.propagate(state, view, flow).logits
            self.groups[method] = dict(zip(self.groups[method], logits.split(1)))  # M of (1,C,h,w)
