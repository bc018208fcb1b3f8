"""Methods that segment keyframes and carry the result through the frames in between: per-frame, copy, warp, gsv."""
from dataclasses import replace

from torch import Tensor, nn

from models.flow_dis import DISFlow
from models.gsvnet import GSVNet, Propagation, State, on_grid
from models.methods.base import Method, Run, SeenFrame, with_labels
from models.resize import grid_size
from models.steps import FlowStep, KeyframeStep, PropagationStep, PropagationStepWithFlow, SegmenterStep, Step
from models.warp import warp


class Unguided(nn.Module):
    """forward: warped logits, the current view -> the warped logits as they are: propagation by warping alone."""

    def forward(self, warped: Tensor, frame: Tensor) -> Tensor:
        return warped


class PerFrame(Method):
    """Segments every frame."""

    def __init__(self, net: GSVNet, keyframe: KeyframeStep):
        self.networks: dict[str, Step] = {"keyframe": keyframe}
        self.foldable, self.grid = net.segmenter.foldable, net.grid

    def flow_size(self, frame: tuple[int, int]) -> tuple[int, int]:
        return grid_size(*frame, self.grid)

    def first(self, run: Run, seen: SeenFrame, keyframe: Tensor | None = None) -> State:
        logits = run("keyframe", seen.image) if keyframe is None else on_grid(keyframe, seen.size, self.grid)
        return State(logits, seen.view)  # (N,C,h,w)

    def next(self, run: Run, state: State, seen: SeenFrame) -> State:
        return self.first(run, seen)


class Copy(PerFrame):
    """Leaves the keyframe's segmentation where it was."""

    def next(self, run: Run, state: State, seen: SeenFrame) -> State:
        return replace(state, view=seen.view)


class CarryLogits(PerFrame):
    """Warps the logits on the grid and lets `guided` correct them: the paper's propagation, or warping alone."""

    def __init__(self, net: GSVNet, keyframe: KeyframeStep, guided: nn.Module):
        super().__init__(net, keyframe)
        if isinstance(net.flow, DISFlow):
            self.flow = net.flow
        step = PropagationStep if self.flow is None else PropagationStepWithFlow
        self.networks["propagation"] = step(Propagation(net.flow, guided))

    def next(self, run: Run, state: State, seen: SeenFrame) -> State:
        motion = state.view if self.flow is None else seen.flow
        return State(run("propagation", state.logits, motion, seen.view), seen.view)


class CarryLabels(PerFrame):
    """Keeps the keyframe's label map at full size, and the flow from the present frame to the keyframe.

    The map is moved along it when it is asked for (`warp_labels`), only once, since each move rounds to whole pixels.
    It is made of the segmenter's logits at its own stride, which may be finer than the grid.
    """

    def __init__(self, net: GSVNet, keyframe: SegmenterStep, *, moves: bool):
        super().__init__(net, keyframe)
        self.moves = moves
        if moves and isinstance(net.flow, DISFlow):
            self.flow = net.flow
        elif moves:
            self.networks["flow"] = FlowStep(net)

    def flow_size(self, frame: tuple[int, int]) -> tuple[int, int]:
        return self.flow.look_size(frame) if self.flow is not None else super().flow_size(frame)

    def first(self, run: Run, seen: SeenFrame, keyframe: Tensor | None = None) -> State:
        logits = run("keyframe", seen.image) if keyframe is None else keyframe  # (N,C,h',w')
        return with_labels(logits, seen.view, seen.size)

    def next(self, run: Run, state: State, seen: SeenFrame) -> State:
        if not self.moves:
            return replace(state, view=seen.view)
        flow = seen.flow if self.flow else run("flow", state.view, seen.view)  # (N,2,h,w) of its own size
        assert flow is not None  # `seen` follows the state's frame
        return replace(state, view=seen.view, flow=flow if state.flow is None else flow + warp(state.flow, flow))
