"""From logits on the propagation grid to a label map at full size: one align-upsampling, then the largest class."""
import torch
from torch import Tensor

from models.resize import align

CHUNK = 512  # cells computed at once, so that what is between stays in the processor's cache
WORTH_CHOOSING = 0.3  # share of cells to compute above which computing all of them is quicker


def label_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (1,C,h,w) float, C up to 255 -> class indices (H,W) uint8 at `size`, the largest of the align-upsampled logits.

    The full-size planes (C,H,W) are never made on a CPU: see `_by_cells`. A GPU upsamples faster than it would choose cells.
    """
    size = tuple(size)
    if not logits.is_cuda:
        ids = logits[0].max(dim=0).indices.to(torch.uint8)  # (h,w); on CPU much faster than argmax
        mixed = _mixed(ids)
        if mixed.float().mean() < WORTH_CHOOSING:
            return _by_cells(logits[0].float(), ids, mixed, size)
    return align(logits, size).max(dim=1).indices[0].to(torch.uint8)  # (H,W)


def _by_cells(logits: Tensor, ids: Tensor, mixed: Tensor, size: tuple[int, int]) -> Tensor:
    """As `label_map`, logits (C,h,w), in a small part of the time on label maps with large regions.

    Every output pixel lies in a cell between four grid points, and its logits are a convex combination of theirs. So a
    class that is the largest at all four is the largest everywhere between them, and only cells whose corners disagree
    need to be interpolated.
    """
    height, width = logits.shape[-2:]
    top, down = _cells(height, size[0])  # (H,)
    left, across = _cells(width, size[1])  # (W,)
    labels = torch.empty(size[0] * size[1] + 1, dtype=torch.uint8)  # the last one takes what no pixel wants
    labels[:-1] = ids[top].index_select(1, left).view(-1)  # (H*W,), right wherever the corners agree
    rows, columns = _spans(top, height), _spans(left, width)  # (h,2), (w,2)
    reach_y, reach_x = (torch.arange(int(spans[:, 1].max())) for spans in (rows, columns))
    cell_y, cell_x = mixed.nonzero(as_tuple=True)  # (M,)
    for y, x in zip(cell_y.split(CHUNK), cell_x.split(CHUNK)):
        out_y, out_x = rows[y, :1] + reach_y, columns[x, :1] + reach_x  # (M,ry), (M,rx): the cells' pixels, and some more
        inside = (reach_y < rows[y, 1:])[:, :, None] & (reach_x < columns[x, 1:])[:, None]  # (M,ry,rx)
        where = (out_y[:, :, None] * size[1] + out_x[:, None]).masked_fill(~inside, len(labels) - 1)  # (M,ry,rx)
        weight_y, weight_x = down[out_y.clamp(max=size[0] - 1)], across[out_x.clamp(max=size[1] - 1)]
        below, right = (y + 1).clamp(max=height - 1), (x + 1).clamp(max=width - 1)
        above_left, above_right, below_left, below_right = (logits[:, i, j] for i in (y, below) for j in (x, right))  # (C,M)
        at_left = torch.lerp(above_left[..., None], below_left[..., None], weight_y)  # (C,M,ry)
        at_right = torch.lerp(above_right[..., None], below_right[..., None], weight_y)  # (C,M,ry)
        values = torch.lerp(at_left[..., None], at_right[..., None], weight_x[:, None])  # (C,M,ry,rx)
        labels[where] = values.max(dim=0).indices.to(torch.uint8)
    return labels[:-1].view(size)  # (H,W)


def _mixed(ids: Tensor) -> Tensor:
    """Class ids (h,w) -> bool (h,w): whether the grid points around the cell right of and below a point disagree."""
    below = torch.cat([ids[1:], ids[-1:]])
    right, corner = (torch.cat([x[:, 1:], x[:, -1:]], dim=1) for x in (ids, below))
    return (ids != below) | (ids != right) | (ids != corner)


def _cells(points: int, pixels: int) -> tuple[Tensor, Tensor]:
    """For each of `pixels` along one side: the grid point before it (int64), and how far it is from there to the next, 0..1."""
    position = torch.arange(pixels, dtype=torch.float32) * ((points - 1) / max(pixels - 1, 1))
    before = position.floor().clamp(max=points - 1)
    return before.long(), position - before


def _spans(before: Tensor, points: int) -> Tensor:
    """(points,2) int64: first pixel between each grid point and the next, and how many there are."""
    counts = torch.bincount(before, minlength=points)
    return torch.stack([counts.cumsum(0) - counts, counts], dim=1)
