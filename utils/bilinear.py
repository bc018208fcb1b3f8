"""Corner-aligned bilinear sampling of pictures along rows and columns, straight from bytes: only what is needed is touched."""
import torch
from torch import Tensor


def aligned_step(source: int, target: int) -> float:
    """Distance in source pixels between neighbours of a corner-aligned resize from `source` to `target` pixels."""
    return (source - 1) / (target - 1) if target > 1 else 0.0


def sample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (...,C,H,W) at every pair of the fractional `rows` and `columns` (float32, on the CPU; torch's own resize counts
    in float32 too), bilinear, as float32.

    Works with channels last, the order that frames have in memory, where a row or a pixel is gathered in one piece.
    """
    x = x.movedim(-3, -1)  # (...,H,W,C)
    taps = []
    for dim, positions in ((-3, rows), (-2, columns)):
        low = positions.floor().long().clamp(0, x.shape[dim] - 1)
        high = (low + 1).clamp(max=x.shape[dim] - 1)
        first = int(low.min())
        x = x.narrow(dim, first, int(high.max()) + 1 - first)  # nothing outside is touched below
        taps.append((dim, low - first, high - first, (positions - low).float()))
    for dim, low, high, weight in taps:
        low, high, weight = (each.to(x.device, non_blocking=True) for each in (low, high, weight))
        weight = weight.view(-1, 1, 1) if dim == -3 else weight.view(-1, 1)
        x = torch.lerp(x.index_select(dim, low).float(), x.index_select(dim, high).float(), weight)
    return x.movedim(-1, -3)  # (...,C,rows,columns)
