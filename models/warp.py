"""Warping by optical flow: the only place that samples along a flow."""
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.resize import align, half_pixel

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

    flow: (M,2,h,w), or (1,2,h,w) for all labels, in pixels of h x w with corners aligned, x first; brought to (H,W) if
    it is smaller.
    """
    (height, width), (h, w) = labels.shape[-2:], flow.shape[-2:]
    flow = flow * flow.new_tensor([(width - 1) / max(w - 1, 1), (height - 1) / max(h - 1, 1)]).view(1, 2, 1, 1)
    if not labels.is_cuda:  # OpenCV is several times faster than the same in torch
        flows = flow.numpy().repeat(len(labels) // len(flow), axis=0)
        moved = [_remapped(label, dx, dy) for label, (dx, dy) in zip(labels.numpy(), flows)]
        return torch.from_numpy(np.stack(moved))  # (M,H,W)
    flow = half_pixel(flow, (height, width))  # (M,2,H,W)
    row = (torch.arange(height, device=flow.device).view(1, height, 1) + flow[:, 1]).round().clamp(0, height - 1)
    column = (torch.arange(width, device=flow.device) + flow[:, 0]).round().clamp(0, width - 1)  # (M,H,W)
    index = (row.long() * width + column.long()).flatten(1).expand(len(labels), -1)  # (M,H*W)
    return labels.flatten(1).gather(1, index).view(labels.shape)  # (M,H,W)


def _remapped(label: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """As `warp_labels` for one label map (H,W), with displacements (h,w) in pixels of the frame."""
    height, width = label.shape
    x, y = (cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR) for part in (dx, dy))  # (H,W)
    np.add(x, np.arange(width, dtype=np.float32), out=x)
    np.add(y, np.arange(height, dtype=np.float32)[:, None], out=y)
    return cv2.remap(label, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
