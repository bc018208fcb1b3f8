"""From logits on the propagation grid to a label map at full size: one align-upsampling, then the largest class."""
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from models.resize import align

CHUNK = 2**20  # logits interpolated at once: enough to keep the threads busy, few enough for the processor's cache


def label_map(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (1,C,h,w) float, C up to 255 -> class indices (H,W) uint8 at `size`: the largest align-upsampled logit.

    On a CPU the full-size planes (C,H,W) are not computed: see `_by_cells`. A GPU upsamples faster than it selects
    cells, and nothing is read back from it.
    """
    height, width = size
    if logits.is_cuda or logits.shape[-2:] == (height, width):
        return upsampled_labels(logits, (height, width))
    return _by_cells(logits.detach().float().contiguous(), height, width)


def upsampled_labels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """As `label_map`, from the full-size planes. Compiled, it is one operation, which writes none."""
    return align(logits, size).max(dim=1).indices[0].to(torch.uint8)  # (H,W)


def _by_cells(logits: Tensor, height: int, width: int) -> Tensor:
    """As `label_map`, logits (1,C,h,w), in a fraction of the time and memory.

    Every output pixel lies in a cell between four grid points, and its logits are a convex combination of theirs. So a
    class that is the largest at all four is the largest everywhere in between, and only cells whose corners disagree
    need interpolation. Cells of equally many pixels are interpolated together, with the cells last in memory, so that
    each operation runs along hundreds of them.
    """
    (top, rows, step_y), (left, columns, step_x) = _spans(logits.shape[2], height), _spans(logits.shape[3], width)
    padded = F.pad(logits, (0, 1, 0, 1), mode="replicate")[0]  # (C,h+1,w+1): every grid point has four corners
    classes, stride, flat = len(padded), padded.shape[2], padded.flatten(1)  # (C,(h+1)*(w+1))
    ids = _largest(flat.clone()).view(padded.shape[1:])  # (h+1,w+1)
    # Correct wherever the corners agree; columns first, so that rows are copied in one piece.
    labels = ids.index_select(1, left).index_select(0, top)  # (H,W)
    here = ids[:-1, :-1]
    mixed = (here != ids[:-1, 1:]) | (here != ids[1:, :-1]) | (here != ids[1:, 1:])  # (h,w)
    first_y, first_x = rows.cumsum(0) - rows, columns.cumsum(0) - columns  # (h,), (w,): the first pixel of each cell
    values = torch.empty(0)  # one buffer for all: fetching fresh memory would take as long as the arithmetic
    for tall, wide in product(rows.unique().tolist(), columns.unique().tolist()):
        cells = (mixed & (rows == tall)[:, None] & (columns == wide)).nonzero(as_tuple=True)
        chunk = (CHUNK // (classes * tall * wide + 1) | 255) + 1  # at least 256: short vectors cost more
        for y, x in zip(*(points.split(chunk) for points in cells)):  # (n,), (n,)
            out_y, out_x = first_y[y] + torch.arange(tall)[:, None], first_x[x] + torch.arange(wide)[:, None]
            weight_y = (out_y.float() * step_y - y)[:, None]  # (tall,1,n), 0..1
            weight_x = (out_x.float() * step_x - x)[:, None]  # (wide,1,n), 0..1
            above, below = y * stride + x, (y + 1) * stride + x
            at_left, at_right = (
                torch.lerp(flat.index_select(1, above + side), flat.index_select(1, below + side), weight_y)
                for side in (0, 1)
            )  # (tall,C,n) each
            values.resize_(tall, wide, classes, len(y))
            torch.lerp(at_left[:, None], at_right[:, None], weight_x, out=values)  # (tall,wide,C,n)
            where = out_y[:, None] * width + out_x  # (tall,wide,n)
            labels.view(-1).scatter_(0, where.flatten(), _largest(values).flatten())
    return labels


def _largest(values: Tensor) -> Tensor:
    """Values (...,C,n), overwritten -> the class of the largest (...,n) uint8: the first of equal ones, 0 next to NaN.

    These operations on floats are vectorised; a maximum that returns indices is not and takes several times as long.
    """
    classes = torch.arange(values.shape[-2], dtype=values.dtype)[:, None]
    lost = values.lt_(values.amax(-2, keepdim=True))  # 0 or 1
    return torch.add(classes, lost, alpha=len(classes), out=lost).amin(-2).to(torch.uint8)


def _spans(points: int, pixels: int) -> tuple[Tensor, Tensor, float]:
    """Return for each of `pixels` along one side the grid point before it (int64); for each of `points` the number of
    pixels from there to the next (int64); and the distance between pixels, in grid points."""
    step = (points - 1) / max(pixels - 1, 1)
    before = (torch.arange(pixels, dtype=torch.float32) * step).floor().clamp(max=points - 1).long()
    return before, torch.bincount(before, minlength=points), step
