"""The ablation that assumes no motion."""
from torch import Tensor, nn


class NoFlow(nn.Module):
    """forward: current, previous (N,3,h,w) -> flow (N,2,h/4,w/4), all zero. It has no parameters."""

    stride = 4

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        count, _, height, width = current.shape
        return current.new_zeros(count, 2, max(1, height // self.stride), max(1, width // self.stride))
