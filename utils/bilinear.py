"""Corner-aligned bilinear sampling of pictures along rows and columns, straight from bytes."""
import numpy as np
import torch
from torch import Tensor


def aligned_step(source: int, target: int) -> float:
    """Return the distance in source pixels between neighbours of a corner-aligned resize from `source` to `target`."""
    return (source - 1) / (target - 1) if target > 1 else 0.0


def aligned_positions(source: int, target: int) -> np.ndarray:
    """Return where in the source, in pixels, each pixel of a corner-aligned resize lies: (target,) float32."""
    return np.arange(target, dtype=np.float32) * aligned_step(source, target)


def neighbours(positions: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fractional positions among `count` pixels -> the pixels before and after each, int64, and the distance from the
    one before, float32."""
    low = np.clip(np.floor(positions), 0, count - 1)
    return low.astype(np.int64), np.minimum(low + 1, count - 1).astype(np.int64), (positions - low).astype(np.float32)


def sample(x: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """x (...,C,H,W), any type, at all pairs of fractional `rows` (h,) and `columns` (w,): (...,C,h,w) float32.

    Reads only the pixels that it interpolates. Positions are float32, as in torch's own resize, and arrays: bounds that
    are read back from a GPU would wait for it.
    """
    x = x.movedim(-3, -1)  # (...,H,W,C), the order of frames in memory: a row or a pixel is read in one piece
    taps = []
    for dim, positions in ((-3, rows), (-2, columns)):
        low, high, weight = neighbours(positions, x.shape[dim])
        first = int(low.min())
        x = x.narrow(dim, first, int(high.max()) + 1 - first)  # nothing outside is read below
        weight = weight.reshape((-1, 1, 1) if dim == -3 else (-1, 1))
        before, after, between = (
            torch.from_numpy(part).to(x.device, non_blocking=True) for part in (low - first, high - first, weight)
        )
        taps.append((dim, before, after, between))
    for dim, before, after, between in taps:
        x = torch.lerp(x.index_select(dim, before).float(), x.index_select(dim, after).float(), between)
    return x.movedim(-1, -3)  # (...,C,h,w)
