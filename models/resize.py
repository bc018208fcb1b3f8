"""The two bilinear resizings that the networks use, and the sizes of the propagation grid and the keyframe."""
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

GRID_STRIDE = 8  # of the paper's propagation grid: h x w = H // 8 x W // 8


def channels_first(frames: Tensor) -> Tensor:
    """Frames (...,H,W,3) seen as (...,3,H,W), channels last in memory, without copying."""
    return frames.movedim(-1, -3)


def size_of(x: Tensor) -> tuple[int, int]:
    """Height and width of x (...,H,W)."""
    height, width = x.shape[-2:]
    return height, width


def align(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize x (N,C,H,W) to `size`, bilinear with corners aligned ("align" in the specification)."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)  # (N,C,*size)


def half_pixel(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize x (N,C,H,W) to `size`, bilinear with pixel centres at half-integers."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)  # (N,C,*size)


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize labels (H,W) to `size`, each pixel the nearest with corners aligned, type kept."""
    for dim, (source, target) in enumerate(zip(labels.shape, size)):
        if source != target:
            step = (source - 1) / max(target - 1, 1)
            labels = labels.index_select(dim, (torch.arange(target, device=labels.device) * step).round().long())
    return labels


def grid_size(height: int, width: int, stride: int = GRID_STRIDE) -> tuple[int, int]:
    """Size (h, w) of the propagation grid of an H x W frame; at least 1 x 1."""
    return max(1, height // stride), max(1, width // stride)


def scaled_size(height: int, width: int, scale: float, multiple: int = 1) -> tuple[int, int]:
    """Size of the frame that the keyframe segmenter sees: H // q * p for scale = p/q (0.75: H // 4 * 3), then the
    nearest multiple of `multiple`, at least one of it."""
    ratio = Fraction(scale).limit_denominator(64)
    p, q = ratio.numerator, ratio.denominator
    rows, columns = (max(1, (side // q * p + multiple // 2) // multiple) * multiple for side in (height, width))
    return rows, columns
