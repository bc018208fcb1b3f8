"""The view of a frame: all that flow network, guided block and keyframe schedules see of it."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.resize import GRID_STRIDE, grid_size, size_of
from utils.bilinear import aligned_positions, sample


class FrameView(nn.Module):
    """Frame -> its view on the propagation grid.

    forward: RGB (N,3,H,W), 0..255, any type -> (N,3,h,w) float32, corner-aligned bilinear, normalised with `mean` and
    `std` (RGB, on the 0..255 scale), **BGR** (as in the released program). Reads only the pixels that it interpolates.
    """

    mean: Tensor  # (3,1,1), as std
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], stride: int = GRID_STRIDE):
        super().__init__()
        self.stride = stride
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        sides = size_of(frame)
        rows, columns = (aligned_positions(side, cells) for side, cells in zip(sides, grid_size(*sides, self.stride)))
        return self.colours(sample(frame, rows, columns))  # (N,3,h,w)

    def colours(self, rgb: Tensor) -> Tensor:
        """RGB (N,3,h,w), 0..255, already on the grid -> normalised BGR (N,3,h,w) float32, contiguous."""
        return ((rgb - self.mean) / self.std).flip(-3).contiguous()
