"""Warping by optical flow: the only place that samples along a flow."""
import torch
from torch import Tensor
from torch.nn import functional as F

from models.resize import align

FLOW_DIVISOR = 4.0  # network output / 4 = displacement in pixels of the h x w grid


def grid_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Flow network's output (N,2,h',w') -> displacement (N,2,h,w) in pixels of the h x w grid, x first."""
    return align(flow, size) / FLOW_DIVISOR


def warp(x: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample x (N,C,h,w) at p + flow(p); zeros outside (paper section 3.2).

    flow: (N,2,h,w), or (1,2,h,w) for all of x; pixels of the h x w grid, x first. Returns (N,C,h,w) float32. Corners
    are aligned: a displacement of one pixel is exactly one pixel; across a grid of one row or column there is none, as
    in the released program. `mode` is "bilinear" or "nearest".
    """
    height, width = x.shape[-2:]
    flow = flow.float()  # half precision cannot distinguish neighbouring pixels of a wide grid
    rows = torch.arange(height, device=x.device, dtype=torch.float32).view(1, height, 1)
    columns = torch.arange(width, device=x.device, dtype=torch.float32).view(1, 1, width)
    maps = x.reshape(len(flow), -1, height, width)  # one flow for all of x: (1,N*C,h,w)
    return sample_at(maps, columns + flow[:, 0], rows + flow[:, 1], mode).view(x.shape)  # (N,C,h,w) float32


def sample_at(x: Tensor, columns: Tensor, rows: Tensor, mode: str = "bilinear") -> Tensor:
    """x (N,C,H,W) at the points `columns`, `rows` (N,h,w), in pixels of x: (N,C,h,w) float32; zeros outside."""
    height, width = x.shape[-2:]
    # -1 and 1 are the centres of the first and last pixel; a single row or column sits at 0.
    gx = columns * (2.0 / max(width - 1, 1)) - (1.0 if width > 1 else 0.0)  # (N,h,w)
    gy = rows * (2.0 / max(height - 1, 1)) - (1.0 if height > 1 else 0.0)  # (N,h,w)
    grid = torch.stack([gx, gy], dim=-1)  # (N,h,w,2)
    return F.grid_sample(x.float(), grid, mode=mode, padding_mode="zeros", align_corners=True)


def warp_labels(labels: Tensor, flow: Tensor) -> Tensor:
    """Labels (M,H,W) uint8 of the nearest pixel to p + flow(p), inside the frame: (M,H,W).

    flow: (M,2,h,w), or (1,2,h,w) for all labels, in pixels of h x w, x first; brought to (H,W) if it is smaller.
    """
    height, width = labels.shape[-2:]
    if flow.shape[-2:] != labels.shape[-2:]:
        ratio = [(full - 1) / max(side - 1, 1) for full, side in zip((width, height), (flow.shape[-1], flow.shape[-2]))]
        flow = align(flow, (height, width)) * flow.new_tensor(ratio).view(1, 2, 1, 1)  # (M,2,H,W)
    rows = torch.arange(height, device=flow.device, dtype=torch.float32).view(1, height, 1)
    columns = torch.arange(width, device=flow.device, dtype=torch.float32).view(1, 1, width)
    row = (rows + flow[:, 1]).round_().clamp_(0, height - 1)  # (M,H,W)
    column = (columns + flow[:, 0]).round_().clamp_(0, width - 1)
    index = row.mul_(width).add_(column).int().flatten(1)  # (M,H*W); exact in float32 up to 2^24 pixels
    found = [x.flatten()[where] for x, where in zip(labels, index.expand(len(labels), -1))]
    return torch.stack(found).view(labels.shape)  # (M,H,W)
