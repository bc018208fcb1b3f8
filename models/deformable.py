"""Deformable 3x3 convolution (Dai et al., ICCV 2017) with the borders of MXNet, in which Accel was trained."""
import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


def deformable(conv: nn.Conv2d, maps: Tensor, offset: Tensor) -> Tensor:
    """Apply `conv`, 3x3 of stride 1 that keeps the size, to maps (N,c,h,w) where `offset` moves its taps: (N,c',h,w).

    offset: (N,G*9*2,h,w) in pixels; for each of G groups of channels the nine taps row by row, y before x. A tap counts
    as zero unless 0 <= y < h and 0 <= x < w; the last row and column reach to h and w. torchvision fades to zero over
    one pixel beyond every side instead, so it gets positions clamped to the centres of pixels, and a mask.
    """
    (n, _, h, w), dilation = maps.shape, int(conv.dilation[0])
    kind = torch.promote_types(maps.dtype, torch.float32)  # half precision cannot tell positions in wide maps apart
    taps = torch.arange(-1, 2, device=maps.device) * dilation
    rows = taps.repeat_interleave(3).view(9, 1, 1) + torch.arange(h, device=maps.device).view(h, 1)  # (9,h,1)
    columns = taps.repeat(3).view(9, 1, 1) + torch.arange(w, device=maps.device)  # (9,1,w)
    moves = offset.to(kind).view(n, -1, 9, 2, h, w)
    y, x = rows + moves[:, :, :, 0], columns + moves[:, :, :, 1]  # (N,G,9,h,w)
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    moves = torch.stack([y.clamp(0, h - 1) - rows, x.clamp(0, w - 1) - columns], dim=3)  # (N,G,9,2,h,w)
    bias = None if conv.bias is None else conv.bias.to(kind)
    return deform_conv2d(
        maps.to(kind), moves.flatten(1, 3), conv.weight.to(kind), bias, padding=dilation, dilation=dilation,
        mask=inside.flatten(1, 2).to(kind),
    ).to(maps.dtype)  # (N,c',h,w)
