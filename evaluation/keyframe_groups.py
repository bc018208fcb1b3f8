"""All positions of a video in one pass: groups that begin at different keyframes are propagated together."""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.engines import Engine
from inference.keyframe_schedule import Schedule
from models.gsvnet import State, joined, segment
from models.methods.base import SeenFrame
from models.resize import channels_first
from models.steps import KeyframeStep


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


@torch.inference_mode()
def own_logits(engine: Engine, image: Tensor) -> Tensor:
    """Frame (H,W,3) uint8 RGB -> the logits (1,C,h',w') of the engine's keyframe segmenter, at its own stride."""
    step = engine.networks["keyframe"]
    assert isinstance(step, KeyframeStep)  # of every method that segments keyframes
    return segment(step.segmenter, channels_first(image[None].to(engine.device)), step.scale)


class VideoPropagation:
    """Goes through one video frame by frame. A keyframe is segmented once for all methods; the flow between two frames
    and a frame's intra features are computed once for all groups of a method."""

    def __init__(self, engines: Mapping[str, Engine], plan: Plan):
        self.engines, self.plan, self.time = engines, plan, 0
        self.seen: dict[str, SeenFrame] = {}  # by method, the previous frame
        self.groups: dict[str, dict[int, State]] = {method: {} for method in engines}  # by method and keyframe

    def advance(self, image: Tensor, keyframe: Tensor | None = None) -> dict[str, dict[int, State]]:
        """The video's next frame, (H,W,3) uint8 RGB on the CPU -> the states of the plan, by method and keyframe.
        keyframe: `own_logits` of the frame, if they are known."""
        t, needed = self.time, self.plan.keyframes[self.time]
        if keyframe is None and len(self.engines) > 1 and (needed or t in self.plan.last_use):
            keyframe = own_logits(next(iter(self.engines.values())), image)  # once for all methods
        for method, engine in self.engines.items():
            seen = self.seen[method] = engine.see(image[None], self.seen.get(method))
            groups = {start: x for start, x in self.groups[method].items() if self.plan.last_use[start] >= t}
            if method == "per-frame":
                groups = {}
            elif groups:
                batches = [[*groups]] if engine.method.keyframes else [[start] for start in groups]
                states = [joined([groups[start] for start in batch], one_view=True) for batch in batches]
                after = (x for state in states for x in engine.next(state, seen).split())
                groups = dict(zip(groups, after))
            if needed if method == "per-frame" else t in self.plan.last_use:
                groups[t] = engine.first(seen, keyframe)
            if method == "per-frame":  # at every position the same
                groups = dict.fromkeys(needed, groups[t]) if needed else {}
            self.groups[method] = groups
        self.time = t + 1
        return {method: {start: groups[start] for start in needed} for method, groups in self.groups.items()}


class VideoStream:
    """Goes through one video as one stream of each method, with the keyframes that a schedule chooses."""

    def __init__(self, engines: Mapping[str, Engine], schedule: Schedule):
        self.engines, self.schedule, self.time = engines, schedule, 0
        self.streams: dict[str, tuple[State, SeenFrame, int]] = {}  # by method: state, frame, number of the keyframe
        schedule.reset()

    def advance(self, image: Tensor, keyframe: Tensor | None = None) -> dict[str, dict[int, State]]:
        """As of `VideoPropagation`: each method has one keyframe, its last."""
        renew = True  # the views, and with them the schedule's decision, are the same for all methods
        for number, (method, engine) in enumerate(self.engines.items()):
            state, before, start = self.streams.get(method, (None, None, self.time))
            seen = engine.see(image[None], before)
            if number == 0 and before is not None:
                renew = self.schedule.needs_keyframe(self.time - start, before, seen)
            if state is None or renew:
                state, start = engine.first(seen, keyframe), self.time
            else:
                state = engine.next(state, seen)
            self.streams[method] = state, seen, start
        self.time += 1
        return {method: {start: state} for method, (state, _, start) in self.streams.items()}
