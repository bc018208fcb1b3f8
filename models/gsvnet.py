"""GSVNet: joins keyframe segmenter, flow network, warp and guided convolution. It remembers nothing."""
from dataclasses import dataclass

from torch import Tensor, nn

from models.guided_conv import GuidedConv
from models.resize import align, grid_size, scaled_size, size_of
from models.segmenters.base import Segmenter
from models.warp import grid_flow, warp


@dataclass(frozen=True)
class State:
    """What one frame leaves for the next.

    logits: (N,C,h,w) of that frame. view: (N,3,h,w), that frame as the flow network sees it.
    """

    logits: Tensor
    view: Tensor


def grid_view(frame: Tensor) -> Tensor:
    """Normalised RGB frame (N,3,H,W) -> what flow and guided networks see of it: (N,3,h,w), normalised **BGR**."""
    return align(frame, grid_size(*size_of(frame))).flip(1)


class GSVNet(nn.Module):
    """Segments a keyframe, then carries its logits along (paper section 3).

    The parts are injected: `segmenter` (normalised RGB (N,3,H,W) -> logits at any stride), `flow`
    ((current, previous) -> flow) and `guided` ((warped logits, view) -> logits).
    """

    def __init__(self, segmenter: Segmenter, flow: nn.Module, guided: GuidedConv):
        super().__init__()
        self.segmenter, self.flow, self.guided = segmenter, flow, guided

    def keyframe(self, frame: Tensor, scale: float = 1.0) -> State:
        """Segment `frame` (N,3,H,W), normalised RGB, at `scale` of its size; the state's logits are (N,C,h,w)."""
        height, width = size_of(frame)
        logits = self.segmenter(align(frame, scaled_size(height, width, scale)))
        return State(align(logits, grid_size(height, width)), grid_view(frame))

    def propagate(self, state: State, view: Tensor, flow: Tensor | None = None) -> State:
        """One frame on from `state`; `view` (N,3,h,w) is the current frame's `grid_view`, `flow` as in `warp`."""
        return State(self.guided(self.warp(state, view, flow), view), view)

    def warp(self, state: State, view: Tensor, flow: Tensor | None = None) -> Tensor:
        """The previous logits moved to where the current frame shows them, (N,C,h,w).

        flow: (N,2,h,w) as `motion` returns it, computed where it is not given.
        """
        return warp(state.logits, self.motion(state.view, view) if flow is None else flow)

    def motion(self, previous: Tensor, current: Tensor) -> Tensor:
        """Grid views (N,3,h,w) of two frames -> flow (N,2,h,w) from the current to the previous, in grid pixels."""
        return grid_flow(self.flow(current, previous), size_of(current))
