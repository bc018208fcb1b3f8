"""All positions of a video in one pass: groups that begin at different keyframes are propagated together."""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from inference.engines import Engine
from models.gsvnet import State, joined
from models.methods.base import SeenFrame


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
    and a frame's intra features are computed once for all groups of a method."""

    def __init__(self, engines: Mapping[str, Engine], plan: Plan):
        self.engines, self.plan, self.time = engines, plan, 0
        self.seen: dict[str, SeenFrame] = {}  # by method, the previous frame
        self.groups: dict[str, dict[int, State]] = {method: {} for method in engines}  # by method and keyframe

    def advance(self, image: Tensor) -> dict[str, dict[int, State]]:
        """The video's next frame, (H,W,3) uint8 RGB on the CPU -> the states of the plan, by method and keyframe."""
        t, needed, keyframe = self.time, self.plan.keyframes[self.time], None
        for method, engine in self.engines.items():
            seen = self.seen[method] = engine.see(image[None], self.seen.get(method))
            groups = {start: x for start, x in self.groups[method].items() if self.plan.last_use[start] >= t}
            if method == "per-frame":
                groups = {}
            elif groups:
                state = joined([*groups.values()], one_view=True)
                groups = dict(zip(groups, engine.next(state, seen).split()))
            if needed if method == "per-frame" else t in self.plan.last_use:
                groups[t] = engine.first(seen, keyframe)
                keyframe = groups[t].logits
            if method == "per-frame":  # at every position the same
                groups = dict.fromkeys(needed, groups[t]) if needed else {}
            self.groups[method] = groups
        self.time = t + 1
        return {method: {start: groups[start] for start in needed} for method, groups in self.groups.items()}
