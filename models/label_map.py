"""From logits on the propagation grid to a label map at full size: one align-upsampling, then the largest class."""
from collections.abc import Sequence

import torch
from torch import Tensor

from models.resize import align

CHUNK = 1024  # cells computed at once, so that intermediate results stay in the processor's cache
FEW = 4  # in nearly all cells no more classes than these can win
WORTH_CHOOSING = 0.5  # share of mixed cells above which computing all cells is faster


def label_map(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (1,C,h,w) float, C up to 255 -> class indices (H,W) uint8 at `size`: the largest align-upsampled logit.

    On a CPU the full-size planes (C,H,W) are not computed: see `_by_cells`. A GPU upsamples faster than it selects
    cells, and nothing is read back from it.
    """
    height, width = size
    if not logits.is_cuda and logits.shape[-2:] != (height, width):
        ids = logits[0].max(dim=0).indices.to(torch.uint8)  # (h,w); on CPU much faster than argmax
        mixed = _mixed(ids)
        if mixed.float().mean() < WORTH_CHOOSING:
            return _by_cells(logits[0].float(), ids, mixed, (height, width))
    return align(logits, (height, width)).max(dim=1).indices[0].to(torch.uint8)  # (H,W)


def _by_cells(logits: Tensor, ids: Tensor, mixed: Tensor, size: tuple[int, int]) -> Tensor:
    """As `label_map`, logits (C,h,w), in a fraction of the time on label maps with large regions.

    Every output pixel lies in a cell between four grid points, and its logits are a convex combination of theirs. So a
    class that is the largest at all four is the largest everywhere in between. Only cells whose corners disagree need
    interpolation, and only of the classes that can win.
    """
    top, down, rows = _cells(logits.shape[1], size[0])  # (H,), (H,), (h,2)
    left, across, columns = _cells(logits.shape[2], size[1])  # (W,), (W,), (w,2)
    labels = torch.empty(size[0] * size[1] + 1, dtype=torch.uint8)  # the last one is a dummy
    # Correct wherever the corners agree; columns first, so that rows are copied in one piece.
    torch.index_select(ids.index_select(1, left), 0, top, out=labels[:-1].view(size))  # (H,W)
    y, x = mixed.nonzero(as_tuple=True)  # (M,)
    corners = _corners(logits, y, x)  # (4,C,M)
    # A class whose best corner is below another class's worst wins nowhere in the cell.
    best, worst = corners.amax(0), corners.amin(0)  # (C,M)
    simple = (best >= worst.amax(0)).sum(0) <= FEW  # (M,)
    axes = down, rows, across, columns
    if simple.any():
        chosen = best[:, simple].t().contiguous().topk(min(FEW, len(logits)), dim=1).indices.t()  # (FEW,m), classes
        values = corners[:, :, simple].gather(1, chosen.expand(4, -1, -1))  # (4,FEW,m)
        _interpolate(labels, axes, y[simple], x[simple], values, chosen)
    if not simple.all():
        _interpolate(labels, axes, y[~simple], x[~simple], corners[:, :, ~simple], None)
    return labels[:-1].view(size)  # (H,W)


def _corners(logits: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return logits (C,h,w) at the four corners of the cells at y, x (M,): (4,C,M), in reading order."""
    height, width = logits.shape[1:]
    below, right = (y + 1).clamp(max=height - 1), (x + 1).clamp(max=width - 1)
    flat = logits.flatten(1)  # (C,h*w)
    return torch.stack([flat.index_select(1, row * width + column) for row in (y, below) for column in (x, right)])


def _interpolate(
    labels: Tensor, axes: tuple[Tensor, ...], y: Tensor, x: Tensor, corners: Tensor, classes: Tensor | None
) -> None:
    """Write the labels of the cells at y, x (M,) into `labels` (H*W+1,).

    axes: distances and spans of rows, then of columns, as `_cells` returns them. corners: (4,k,M), logits of k classes
    each; classes: which those are (k,M), all in order where None.
    """
    down, rows, across, columns = axes  # (H,), (h,2), (W,), (w,2)
    reach_y, reach_x = (torch.arange(int(spans[:, 1].max())) for spans in (rows, columns))
    for start in range(0, len(y), CHUNK):
        part = slice(start, start + CHUNK)
        row, column = rows[y[part]], columns[x[part]]  # (m,2)
        out_y, out_x = row[:, :1] + reach_y, column[:, :1] + reach_x  # (m,ry), (m,rx): the cells' pixels, and some more
        inside = (reach_y < row[:, 1:])[:, :, None] & (reach_x < column[:, 1:])[:, None]  # (m,ry,rx)
        where = (out_y[:, :, None] * len(across) + out_x[:, None]).masked_fill(~inside, len(labels) - 1)  # (m,ry,rx)
        weight_y, weight_x = down[out_y.clamp(max=len(down) - 1)], across[out_x.clamp(max=len(across) - 1)]
        above_left, above_right, below_left, below_right = corners[:, :, part, None]  # (k,m,1)
        at_left = torch.lerp(above_left, below_left, weight_y)  # (k,m,ry)
        at_right = torch.lerp(above_right, below_right, weight_y)  # (k,m,ry)
        won = torch.lerp(at_left[..., None], at_right[..., None], weight_x[:, None]).max(dim=0).indices  # (m,ry,rx)
        if classes is not None:
            won = classes[:, part].t().gather(1, won.flatten(1)).view(won.shape)
        labels.scatter_(0, where.flatten(), won.to(torch.uint8).flatten())


def _mixed(ids: Tensor) -> Tensor:
    """Class ids (h,w) -> bool (h,w): whether the corners of the cell to the right of and below a point disagree."""
    below = torch.cat([ids[1:], ids[-1:]])
    right, corner = (torch.cat([x[:, 1:], x[:, -1:]], dim=1) for x in (ids, below))
    return (ids != below) | (ids != right) | (ids != corner)


def _cells(points: int, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each of `pixels` along one side the grid point before it (int64), and its distance from it, 0..1; and
    spans (points,2) int64: the first pixel between each grid point and the next, and the number of such pixels."""
    position = torch.arange(pixels, dtype=torch.float32) * ((points - 1) / max(pixels - 1, 1))
    before = position.floor().clamp(max=points - 1)
    counts = torch.bincount(before.long(), minlength=points)
    return before.long(), position - before, torch.stack([counts.cumsum(0) - counts, counts], dim=1)
