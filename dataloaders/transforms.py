"""From bytes to what the networks see: augmentation and normalisation, on the device that holds the batch."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.bilinear import aligned_step, sample

PROPAGATION_SCALES = (0.75, 1.0, 1.5, 1.75)
SIZE_MULTIPLE = 32  # scaled sizes are floored to a multiple of this


@dataclass(frozen=True)
class Augmentation:
    """One draw of the random augmentation.

    scaled: size (H,W) that the whole frame would be resized to; top, left, size: the rectangle of it that is cut
    out; output: size of the result (the rectangle's own unless the scaled frame is smaller than the crop).
    """

    scaled: tuple[int, int]
    top: int
    left: int
    size: tuple[int, int]
    output: tuple[int, int]
    flip: bool

    def images(self, images: Tensor) -> Tensor:
        """images (..., H, W) -> float32 (..., *output), corner-aligned bilinear. Only the rectangle is computed."""
        cut = resize_rectangle(images, self.scaled, self.top, self.left, self.size)
        if self.size != self.output:
            cut = resize_rectangle(cut, self.output, 0, 0, self.output)
        return cut.flip(-1) if self.flip else cut

    def positions(self, frame: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows and columns, in pixels of a frame of size (H,W), that `images` resized once more to `size` looks at: float32."""
        axes = []
        flips = (False, self.flip)
        for out, crop, cut, first, scaled, source, flip in zip(
            size, self.output, self.size, (self.top, self.left), self.scaled, frame, flips
        ):
            place = torch.arange(out, dtype=torch.float32) * aligned_step(crop, out) * aligned_step(cut, crop)
            place = cut - 1 - place if flip else place
            axes.append((place + first) * aligned_step(source, scaled))
        return axes[0], axes[1]

    def views(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """What `images` resized once more to `size` (h, w), corner-aligned, would be: (..., *size) float32.

        Only the pixels that the small view is interpolated from are computed, about a sixteenth of the crop at 1/8.
        """
        if self.size != self.output:
            cut = self.images(images)
            return resize_rectangle(cut, size, 0, 0, size)
        axes = []
        flips = (False, self.flip)
        for side, first, count, scaled, source, flip in zip(
            self.size, (self.top, self.left), size, self.scaled, images.shape[-2:], flips
        ):
            position = torch.arange(count, dtype=torch.float32) * aligned_step(side, count)
            position = side - 1 - position if flip else position
            low = position.floor().clamp(0, side - 1)
            pairs = torch.stack([low, (low + 1).clamp(max=side - 1)], dim=1)  # (count,2) in pixels of the crop
            axes.append(((pairs + first) * aligned_step(source, scaled), (position - low).float().to(images.device)))
        (rows, down), (columns, across) = axes
        corners = sample(images, rows.flatten(), columns.flatten())  # (...,2h,2w)
        corners = torch.lerp(corners[..., 0::2, :], corners[..., 1::2, :], down.unsqueeze(-1))  # (...,h,2w)
        return torch.lerp(corners[..., 0::2], corners[..., 1::2], across)  # (...,h,w)

    def label(self, label: Tensor) -> Tensor:
        """label (..., H, W), any integer type -> (..., *output), nearest."""
        cut = nearest_rectangle(label, self.scaled, self.top, self.left, self.size)
        if self.size != self.output:
            cut = nearest_rectangle(cut, self.output, 0, 0, self.output)
        return cut.flip(-1) if self.flip else cut


def draw_augmentation(
    rng: np.random.Generator,
    frame: tuple[int, int],
    *,
    crop: tuple[int, int] | None,
    scales: Sequence[float],
    continuous: bool,
    flip: float,
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
    rows = torch.arange(top, top + size[0], dtype=torch.float32)
    columns = torch.arange(left, left + size[1], dtype=torch.float32)
    if scaled == tuple(x.shape[-2:]):
        return x[..., top : top + size[0], left : left + size[1]].float()
    return sample(x, rows * aligned_step(x.shape[-2], scaled[0]), columns * aligned_step(x.shape[-1], scaled[1]))


def nearest_rectangle(x: Tensor, scaled: tuple[int, int], top: int, left: int, size: tuple[int, int]) -> Tensor:
    """As `resize_rectangle`, nearest neighbour (source index floor(i * source / scaled)), type kept."""
    for dim, first, count, total in ((-2, top, size[0], scaled[0]), (-1, left, size[1], scaled[1])):
        index = torch.arange(first, first + count, device=x.device) * x.shape[dim] // total
        x = x.index_select(dim, index)
    return x


def channels_first(clip: Tensor) -> Tensor:
    """A batch's frames (...,H,W,3) seen as (...,3,H,W), without copying."""
    return clip.movedim(-1, -3)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """RGB images (...,3,H,W) on the 0..255 scale, any type -> float32, (x - mean) / std per channel."""
    shape = (3, 1, 1)
    centre = torch.tensor(mean, device=images.device, dtype=torch.float32).view(shape)
    spread = torch.tensor(std, device=images.device, dtype=torch.float32).view(shape)
    return (images.float() - centre) / spread
