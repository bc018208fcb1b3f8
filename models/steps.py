"""The three steps that segment a video, as engines run them and exports contain them: modules from tensors to a tensor.

Frames are as decoders return them: (N,H,W,3) uint8 RGB.
"""
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.fold import folded
from models.frame_view import FrameView
from models.gsvnet import GSVNet, Propagation, State, keyframe_logits, segment
from models.resize import channels_first, grid_size
from models.segmenters.base import Segmenter
from utils.bilinear import aligned_positions, neighbours


class ViewStep(nn.Module):
    """Frame (N,H,W,3) uint8 RGB -> its view (N,3,h,w) float32, normalised **BGR** (`FrameView`)."""

    def __init__(self, net: GSVNet):
        super().__init__()
        self.view = FrameView(net.segmenter.view_mean, net.segmenter.view_std, net.grid)

    def forward(self, image: Tensor) -> Tensor:
        return self.view(channels_first(image))  # (N,3,h,w)


class FixedViewStep(nn.Module):
    """As `ViewStep`, for frames (1,H,W,3) of one `size` (H,W): graphs outside Python need constant positions.

    The frame becomes float first: the runtime of such a graph may know no other operation on bytes.
    """

    mean: Tensor  # (3,), as std
    std: Tensor
    row_low: Tensor  # (h,) int64: rows above and below each position
    row_high: Tensor
    row_weight: Tensor  # (h,1,1): distance from the row above
    column_low: Tensor  # (w,) int64
    column_high: Tensor
    column_weight: Tensor  # (w,1)
    bgr: Tensor  # (3,) int64

    def __init__(self, net: GSVNet, size: tuple[int, int]):
        super().__init__()
        mean, std = torch.tensor(net.segmenter.view_mean), torch.tensor(net.segmenter.view_std)
        constants = {"mean": mean, "std": std, "bgr": torch.tensor([2, 1, 0])}
        grid = grid_size(*size, net.grid)
        for axis, source, target, shape in zip(("row", "column"), size, grid, ((-1, 1, 1), (-1, 1))):
            low, high, weight = map(torch.from_numpy, neighbours(aligned_positions(source, target), source))
            constants |= {f"{axis}_low": low, f"{axis}_high": high, f"{axis}_weight": weight.view(shape)}
        for name, x in constants.items():
            self.register_buffer(name, x, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = image.float()
        above, below = x.index_select(1, self.row_low), x.index_select(1, self.row_high)  # (1,h,W,3)
        x = above + (below - above) * self.row_weight
        left, right = x.index_select(2, self.column_low), x.index_select(2, self.column_high)  # (1,h,w,3)
        x = left + (right - left) * self.column_weight
        x = ((x - self.mean) / self.std).index_select(3, self.bgr)
        return channels_first(x).contiguous()  # (1,3,h,w)


class Step(nn.Module):
    """A step that engines run and exports contain: tensors, named by `inputs` -> a tensor."""

    inputs: tuple[str, ...]


class NetworkStep(Step):
    """What `call` computes of a network and of tensors, named by `inputs`."""

    def __init__(self, net: Segmenter, call: Callable[..., Tensor], *inputs: str):
        super().__init__()
        self.net, self.call, self.inputs = net.eval(), call, inputs

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(self.net, *inputs)


class FrameStep(NetworkStep):
    """As `NetworkStep`, of a frame (N,H,W,3) uint8 RGB, which `call` gets at `scale` and normalised."""

    def __init__(self, net: Segmenter, call: Callable[..., Tensor], scale: float):
        super().__init__(net, call, "image")
        self.scale = scale

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(self.net.prepared(channels_first(inputs[0]), self.scale))


class LogitsStep(NetworkStep):
    """As `NetworkStep`; from the scores that `call` computes, logits (N,C,h',w') float32."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.net.class_logits(super().forward(*inputs).float())


class KeyframeStep(Step):
    """Frame (N,H,W,3) uint8 RGB -> its logits (N,C,h,w) float32, segmented at `scale`.

    BatchNorm is folded and the memory order is channels last: equal to the network up to rounding.
    """

    inputs = ("image",)

    def __init__(self, net: GSVNet, scale: float):
        super().__init__()
        self.scale, self.grid = scale, net.grid
        self.segmenter = folded(net.segmenter).to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        return keyframe_logits(self.segmenter, channels_first(image), self.scale, self.grid)  # (N,C,h,w)


class SegmenterStep(KeyframeStep):
    """As `KeyframeStep`, at the segmenter's own stride: -> (N,C,H*scale/stride,W*scale/stride) float32."""

    def forward(self, image: Tensor) -> Tensor:
        return segment(self.segmenter, channels_first(image), self.scale)


class PropagationStep(Propagation, Step):
    """Logits (N,C,h,w) of the previous frame, its view (N,3,h,w), the current view -> the current logits, float32.

    BatchNorm of both networks is folded.
    """

    inputs = ("previous_logits", "previous_view", "view")

    def __init__(self, net: Propagation):
        super().__init__(folded(net.flow), folded(net.guided))

    def forward(self, logits: Tensor, previous: Tensor, view: Tensor) -> Tensor:
        return self.propagate(State(logits, previous), view).logits.float()  # (N,C,h,w)


class PropagationStepWithFlow(Propagation, Step):
    """As `PropagationStep`, with the flow (N,2,h,w) in grid pixels, as in `warp`, in place of the previous view."""

    inputs = ("previous_logits", "flow", "view")

    def __init__(self, net: Propagation):
        super().__init__(nn.Identity(), folded(net.guided))

    def forward(self, logits: Tensor, flow: Tensor, view: Tensor) -> Tensor:
        return self.propagate(State(logits, view), view, flow).logits.float()  # (N,C,h,w)


class FlowStep(Propagation, Step):
    """Views (N,3,h,w) of the previous and the current frame -> flow (N,2,h,w) in grid pixels, as in `warp`."""

    inputs = ("previous_view", "view")

    def __init__(self, net: Propagation):
        super().__init__(folded(net.flow), nn.Identity())

    def forward(self, previous: Tensor, view: Tensor) -> Tensor:
        return self.motion(previous, view)  # (N,2,h,w)
