"""The three steps that segment a video, each a module from tensors to a tensor, as engines run and exports hold them.

Frames come as decoders give them: (N,H,W,3) uint8 RGB.
"""
import torch
from torch import Tensor, nn

from models.fold import folded
from models.gsvnet import GSVNet, State
from models.resize import align, grid_size, scaled_size
from utils.bilinear import aligned_step, sample


def pictures(image: Tensor) -> Tensor:
    """image (N,H,W,3) seen as (N,3,H,W), channels last in memory, without copying."""
    return image.movedim(-1, -3)


class ViewStep(nn.Module):
    """Frame (N,H,W,3) uint8 RGB -> what flow and guided networks see of it: (N,3,h,w) float32, normalised **BGR**.

    Touches only the pixels that the 1/8 view is interpolated from.
    """

    mean: Tensor  # (3,1,1), as std
    std: Tensor

    def __init__(self, net: GSVNet):
        super().__init__()
        self.register_buffer("mean", torch.tensor(net.segmenter.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(net.segmenter.pixel_std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        size = grid_size(*image.shape[1:3])
        rows, columns = (
            torch.arange(target, dtype=torch.float32) * aligned_step(source, target)
            for source, target in zip(image.shape[1:3], size)
        )
        view = sample(pictures(image), rows, columns)  # (N,3,h,w)
        return ((view - self.mean) / self.std).flip(1).contiguous()


class FixedViewStep(nn.Module):
    """As `ViewStep`, for frames (1,H,W,3) of one `size` (H,W): where to look is constant, as a graph outside Python needs it.

    The frame becomes float first: on bytes, such a graph's runtime may know nothing but that.
    """

    mean: Tensor  # (3,), as std
    std: Tensor
    row_low: Tensor  # (h,) int64: rows above and below those that are looked at
    row_high: Tensor
    row_weight: Tensor  # (h,1,1): how far from the upper to the lower
    column_low: Tensor  # (w,) int64
    column_high: Tensor
    column_weight: Tensor  # (w,1)
    bgr: Tensor  # (3,) int64

    def __init__(self, net: GSVNet, size: tuple[int, int]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(net.segmenter.pixel_mean), persistent=False)
        self.register_buffer("std", torch.tensor(net.segmenter.pixel_std), persistent=False)
        for axis, source, target, shape in zip(("row", "column"), size, grid_size(*size), ((-1, 1, 1), (-1, 1))):
            positions = torch.arange(target, dtype=torch.float32) * aligned_step(source, target)
            low = positions.floor().long().clamp(max=source - 1)
            self.register_buffer(f"{axis}_low", low, persistent=False)
            self.register_buffer(f"{axis}_high", (low + 1).clamp(max=source - 1), persistent=False)
            self.register_buffer(f"{axis}_weight", (positions - low).view(shape), persistent=False)
        self.register_buffer("bgr", torch.tensor([2, 1, 0]), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = image.float()
        above, below = x.index_select(1, self.row_low), x.index_select(1, self.row_high)  # (1,h,W,3)
        x = above + (below - above) * self.row_weight
        left, right = x.index_select(2, self.column_low), x.index_select(2, self.column_high)  # (1,h,w,3)
        x = left + (right - left) * self.column_weight
        x = ((x - self.mean) / self.std).index_select(3, self.bgr)
        return pictures(x).contiguous()  # (1,3,h,w)


class KeyframeStep(nn.Module):
    """Frame (N,H,W,3) uint8 RGB -> its logits (N,C,h,w) float32, segmented at `scale`.

    BatchNorm is folded into the convolutions and the memory order is channels last: equal to the network up to rounding.
    Scaled before it is normalised, which is the same, and less work.
    """

    mean: Tensor  # (3,1,1), as std
    std: Tensor

    def __init__(self, net: GSVNet, scale: float):
        super().__init__()
        self.scale = scale
        self.segmenter = folded(net.segmenter).to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(net.segmenter.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(net.segmenter.pixel_std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:3]
        frame = align(pictures(image.float()), scaled_size(height, width, self.scale))  # (N,3,H*scale,W*scale)
        frame = ((frame - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        logits = self.segmenter(frame).float()  # (N,C,H*scale/4,W*scale/4)
        return align(logits, grid_size(height, width)).contiguous()  # (N,C,h,w)


class PropagationStep(nn.Module):
    """Logits (N,C,h,w) of the previous frame, its view and the current frame's (N,3,h,w) -> the current frame's logits.

    BatchNorm of both networks is folded.
    """

    def __init__(self, net: GSVNet):
        super().__init__()
        self.net = GSVNet(nn.Identity(), folded(net.flow), folded(net.guided))  # type: ignore[arg-type]  # it sees no keyframe

    def forward(self, logits: Tensor, previous: Tensor, view: Tensor) -> Tensor:
        return self.net.propagate(State(logits, previous), view).logits.float()  # (N,C,h,w)
