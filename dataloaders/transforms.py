"""The random augmentation, on the device that holds the batch."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.bilinear import aligned_positions, aligned_step, neighbours, sample

PROPAGATION_SCALES = (0.75, 1.0, 1.5, 1.75)
SIZE_MULTIPLE = 32  # scaled sizes are floored to a multiple of this


@dataclass(frozen=True)
class Augmentation:
    """One draw of the random augmentation."""

    scaled: tuple[int, int]  # size (H,W) that the whole frame would be resized to
    top: int  # of the rectangle that is cut out of it, as left and size
    left: int
    size: tuple[int, int]
    output: tuple[int, int]  # size of the result: the rectangle's own unless the scaled frame is smaller than the crop
    flip: bool

    def images(self, images: Tensor) -> Tensor:
        """images (..., H, W) -> float32 (..., *output), corner-aligned bilinear. Only the rectangle is computed."""
        return self._cut(resize_rectangle, images)

    def positions(self, frame: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (h,) and columns (w,) float32, in pixels of a frame (H,W), of `images` brought to `size`."""
        rows, columns = ((place + first) * step for place, _, first, step in self._axes(frame, size))
        return rows, columns

    def flow(self, flow: Tensor, frame: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Flow (...,2,h',w') between frames (H,W), in its own pixels, x first -> (...,2,*size) between the results when
        they are brought to `size`, in pixels of `size`; corners aligned."""
        rows, columns = (
            places * aligned_step(side, whole)
            for places, side, whole in zip(self.positions(frame, size), flow.shape[-2:], frame)
        )  # in pixels of the flow
        # Pixels of the result per pixel of the flow; where the result is flipped, the step is negative.
        across, down = (1 / (places[1] - places[0]) if len(places) > 1 else 0.0 for places in (columns, rows))
        return sample(flow, rows, columns) * torch.tensor([across, down], device=flow.device).view(2, 1, 1)

    def views(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """`images` resized once more to `size` (h,w), corner-aligned: RGB (...,3,*size) float32, not normalised.

        Only the pixels that the small picture is interpolated from are computed, about a sixteenth of the crop at 1/8.
        """
        if self.size != self.output:
            return resize_rectangle(self.images(images), size, 0, 0, size)
        axes = []
        for place, side, first, step in self._axes(images.shape[-2:], size):
            low, high, weight = neighbours(place, side)  # in pixels of the crop
            pairs = np.stack([low, high], axis=1).astype(np.float32).ravel()  # (2*count,)
            axes.append(((pairs + first) * step, torch.from_numpy(weight).to(images.device, non_blocking=True)))
        (rows, down), (columns, across) = axes
        corners = sample(images, rows, columns)  # (...,2h,2w)
        corners = torch.lerp(corners[..., 0::2, :], corners[..., 1::2, :], down.unsqueeze(-1))  # (...,h,2w)
        return torch.lerp(corners[..., 0::2], corners[..., 1::2], across)  # (...,h,w)

    def _axes(self, frame: Sequence[int], size: Sequence[int]) -> Iterator[tuple[np.ndarray, int, int, float]]:
        """Yield, for rows and columns: where `size` lies in the rectangle, its side, first pixel and step of pixels."""
        for out, crop, side, first, scaled, source, flip in zip(
            size, self.output, self.size, (self.top, self.left), self.scaled, frame, (False, self.flip)
        ):
            place = aligned_positions(crop, out) * aligned_step(side, crop)
            yield side - 1 - place if flip else place, side, first, aligned_step(source, scaled)

    def label(self, label: Tensor) -> Tensor:
        """label (..., H, W), any integer type -> (..., *output), nearest."""
        return self._cut(nearest_rectangle, label)

    def _cut(self, resize: Callable[..., Tensor], x: Tensor) -> Tensor:
        x = resize(x, self.scaled, self.top, self.left, self.size)
        if self.size != self.output:
            x = resize(x, self.output, 0, 0, self.output)
        return x.flip(-1) if self.flip else x


def draw_augmentation(
    rng: np.random.Generator, frame: tuple[int, int], *, crop: tuple[int, int] | None, scales: Sequence[float],
    continuous: bool, flip: float,
) -> Augmentation:
    """Draw scale, crop and flip for frames of size `frame` (H,W).

    crop None: no augmentation at all, the flip neither, as in the released program. `continuous`: scale uniform between
    the two `scales`, else one of them. flip: its probability, 0..1.
    """
    if crop is None:
        return Augmentation(frame, 0, 0, frame, frame, flip=False)
    scale = rng.uniform(scales[0], scales[1]) if continuous else scales[int(rng.integers(len(scales)))]
    height, width = (max(SIZE_MULTIPLE, int(side * scale) // SIZE_MULTIPLE * SIZE_MULTIPLE) for side in frame)
    size = (min(crop[0], height), min(crop[1], width))
    top = int(rng.integers(height - size[0] + 1))
    left = int(rng.integers(width - size[1] + 1))
    return Augmentation((height, width), top, left, size, (crop[0], crop[1]), bool(rng.random() < flip))


def resize_rectangle(x: Tensor, scaled: tuple[int, int], top: int, left: int, size: tuple[int, int]) -> Tensor:
    """The rectangle `size` at (top, left) of x (..., H, W) resized to `scaled`, corner-aligned bilinear, as float32."""
    if scaled == tuple(x.shape[-2:]):
        return x[..., top : top + size[0], left : left + size[1]].float()
    rows, columns = (aligned_positions(source, target) for source, target in zip(x.shape[-2:], scaled))
    return sample(x, rows[top : top + size[0]], columns[left : left + size[1]])  # (...,*size)


def nearest_rectangle(x: Tensor, scaled: tuple[int, int], top: int, left: int, size: tuple[int, int]) -> Tensor:
    """As `resize_rectangle`, nearest neighbour (source index floor(i * source / scaled)), type kept."""
    for dim, first, count, total in ((-2, top, size[0], scaled[0]), (-1, left, size[1], scaled[1])):
        x = x.index_select(dim, torch.arange(first, first + count, device=x.device) * x.shape[dim] // total)
    return x
