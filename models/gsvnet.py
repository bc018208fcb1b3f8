"""GSVNet: joins keyframe segmenter, flow network, warp and guided convolution. It keeps no state between frames."""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.frame_view import FrameView
from models.guided_conv import GuidedConv
from models.resize import GRID_STRIDE, align, grid_size, size_of
from models.segmenters.base import Segmenter
from models.warp import grid_flow, warp


@dataclass(frozen=True)
class State:
    """What the next frame needs of one frame.

    logits: (N,C,h,w) float32. view: (N,3,h,w), the frame as flow network and guided block see it (`FrameView`).
    labels: (N,H,W) uint8, where a method has label maps at full size; the logits are then empty, (N,C,0,0). flow:
    (N,2,h,w), as in `warp_labels`, from this frame to the keyframe; None where it is the keyframe, or nothing moves.
    memory: (N,...) each, what a method keeps of this frame and of those before. step: frames since the first.
    """

    logits: Tensor
    view: Tensor
    labels: Tensor | None = None
    flow: Tensor | None = None
    memory: tuple[Tensor, ...] = ()
    step: int = 0

    def split(self) -> "list[State]":
        """The states of the N streams."""
        count = len(self.logits)
        labels, flows = ([None] * count if x is None else x.split(1) for x in (self.labels, self.flow))
        views = [self.view] * count if len(self.view) < count else self.view.split(1)
        memories = zip(*(x.split(1) for x in self.memory)) if self.memory else [()] * count
        parts = zip(self.logits.split(1), views, labels, flows, memories)
        return [State(*part, step=self.step) for part in parts]


def joined(states: Sequence[State], *, one_view: bool = False) -> State:
    """The states of several streams, or of several groups of one stream, whose view is the same (`one_view`)."""
    views, labels = [state.view for state in states], [state.labels for state in states if state.labels is not None]
    moved = next((state.flow for state in states if state.flow is not None), None)
    flows = [torch.zeros_like(moved) if state.flow is None else state.flow for state in states if moved is not None]
    return State(
        torch.cat([state.logits for state in states]), views[0] if one_view else torch.cat(views),
        torch.cat(labels) if labels else None, torch.cat(flows) if flows else None,
        tuple(map(torch.cat, zip(*(state.memory for state in states)))), states[0].step,
    )


class Propagation(nn.Module):
    """Carries logits from frame to frame (paper section 3).

    The parts are injected: `flow` ((current, previous) views -> flow) and `guided` ((warped logits, view) -> logits).
    """

    def __init__(self, flow: nn.Module, guided: nn.Module):
        super().__init__()
        self.flow, self.guided = flow, guided

    def propagate(self, state: State, view: Tensor, flow: Tensor | None = None) -> State:
        """State of the previous frame, view (N,3,h,w) of the current one -> the current frame's state.

        flow: as in `warp`.
        """
        return State(self.guided(self.warp(state, view, flow), view), view)

    def warp(self, state: State, view: Tensor, flow: Tensor | None = None) -> Tensor:
        """The previous logits moved to where the current frame shows them, (N,C,h,w) (paper section 3.2).

        flow: (N,2,h,w) as `motion` returns it, computed if None.
        """
        return warp(state.logits, self.motion(state.view, view) if flow is None else flow)

    def motion(self, previous: Tensor, current: Tensor) -> Tensor:
        """Views (N,3,h,w) of two frames -> flow (N,2,h,w) from the current to the previous, x first, in grid pixels."""
        return grid_flow(self.flow(current, previous), size_of(current))


class GSVNet(Propagation):
    """The whole network: a keyframe's logits come from `segmenter`, see `keyframe_logits`; `propagate` carries them on.

    All three parts are injected. grid: stride of the propagation grid. view: a frame as flow network and guided block
    see it.
    """

    guided: GuidedConv

    def __init__(self, segmenter: Segmenter, flow: nn.Module, guided: GuidedConv, grid: int = GRID_STRIDE):
        super().__init__(flow, guided)
        self.segmenter, self.grid = segmenter, grid
        self.view = FrameView(segmenter.view_mean, segmenter.view_std, grid)


def keyframe_logits(segmenter: Segmenter, frame: Tensor, scale: float = 1.0, grid: int = GRID_STRIDE) -> Tensor:
    """Frame (N,3,H,W), RGB 0..255, any type -> its logits on the propagation grid, (N,C,h,w) float32.

    scale: of the frame, for the segmenter. grid: stride of the grid.
    """
    return on_grid(segment(segmenter, frame, scale), size_of(frame), grid)


def segment(segmenter: Segmenter, frame: Tensor, scale: float = 1.0) -> Tensor:
    """Frame (N,3,H,W), RGB 0..255, any type -> logits (N,C,H*scale/stride,W*scale/stride) float32."""
    image = segmenter.prepared(frame, scale)  # (N,3,H*scale,W*scale)
    scores = segmenter(image.contiguous(memory_format=torch.channels_last))
    return segmenter.class_logits(scores.float())


def on_grid(logits: Tensor, frame: tuple[int, int], grid: int = GRID_STRIDE) -> Tensor:
    """Logits (N,C,h',w') of a frame of size (H,W) -> (N,C,h,w), contiguous."""
    return align(logits, grid_size(*frame, grid)).contiguous()  # (N,C,h,w)
