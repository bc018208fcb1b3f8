"""Cross-entropy and divergence at the labels' size, of logits that are far smaller."""
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.resize import size_of

ROWS = 8  # of the label at once on a CPU: what is computed of them fits its cache. A GPU takes all of them

Terms = Callable[[Tensor, Tensor | None, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


def pixel_terms(
    logits: Tensor, teacher: Tensor | None, label: Tensor, weight: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, teacher (N,C,H,W), label (N,H,W) int64 in 0..C-1, weight (N,H,W), 0 where there is no label -> the sums
    of the pixels' weighted cross-entropies and of KL(softmax(teacher) || softmax(logits)), and the gradient (N,C,H,W)
    of the first plus `share` times the second."""
    predicted, weight = logits.log_softmax(dim=1), weight[:, None]
    probability, label = predicted.exp(), label[:, None]
    ce = -(predicted.gather(1, label) * weight).sum()
    classes = torch.arange(logits.shape[1], device=label.device).view(-1, 1, 1)
    gradient = probability * weight - torch.where(classes == label, weight, 0.0)
    if teacher is None:
        return ce, torch.zeros_like(ce), gradient
    taught = teacher.log_softmax(dim=1)
    wanted = taught.exp()
    return ce, (wanted * (taught - predicted)).sum(), gradient + share * (probability - wanted)


class FullSizeLoss(torch.autograd.Function):
    """The loss and its gradient in one pass over strips of rows, so that full-size planes are neither written to memory
    nor kept for the backward pass.

    apply(logits, teacher, label, weight, share, terms): logits, teacher (N,C,h,w) float32, upsampled as `align` does;
    label, weight (N,H,W) as `pixel_terms` takes them; share: of the divergence's mean over all elements; terms:
    `pixel_terms` or the same compiled. Returns the scalars ce + share * divergence, ce, divergence; only the first has
    a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, teacher: Tensor | None, label: Tensor, weight: Tensor, share: float, terms: Terms
    ) -> tuple[Tensor, Tensor, Tensor]:
        height, width = size_of(label)
        elements = len(logits) * logits.shape[1] * height * width
        student, *taught = (Upsampled(x, height, width) for x in (logits, teacher) if x is not None)
        gradient, ce, divergence = torch.zeros_like(student.wide), logits.new_zeros(()), logits.new_zeros(())
        count = height if logits.is_cuda else ROWS
        for first in range(0, height, count):
            rows = slice(first, min(first + count, height))
            aim = taught[0].plane(rows) if taught else None
            part = terms(student.plane(rows), aim, label[:, rows], weight[:, rows], share / elements)
            ce, divergence = ce + part[0], divergence + part[1]
            student.add_gradient(gradient, rows, part[2])
        ctx.save_for_backward(gradient if student.columns is None else gradient @ student.columns)  # (N,C,h,w)
        divergence = divergence / elements
        ctx.mark_non_differentiable(ce, divergence)
        return ce + share * divergence, ce, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.saved_tensors[0], None, None, None, None, None


class Upsampled:
    """Planes (N,C,h,w), resized to (N,C,height,width) some rows at a time: bilinearly with corners aligned, by a
    product with a matrix for each dimension, whose transpose sums gradients up."""

    def __init__(self, x: Tensor, height: int, width: int):
        self.columns = None if x.shape[-1] == width else upsampling(x.shape[-1], width, x)  # (width,w)
        self.wide = x if self.columns is None else x @ self.columns.T  # (N,C,h,width)
        self.rows = upsampling(x.shape[-2], height, x)  # (height,h)

    def plane(self, rows: slice) -> Tensor:
        """Return these rows, (N,C,rows,width)."""
        seen = self._seen(rows)
        return self.rows[rows, seen] @ self.wide[:, :, seen]

    def add_gradient(self, total: Tensor, rows: slice, gradient: Tensor) -> None:
        """Add to `total`, the gradient (N,C,h,width) of `wide`, that (N,C,rows,width) of these rows."""
        seen = self._seen(rows)
        total[:, :, seen] += self.rows[rows, seen].T @ gradient

    def _seen(self, rows: slice) -> slice:
        """The rows of `wide` that these rows lie between."""
        height, h = self.rows.shape
        first, last = (row * (h - 1) // max(height - 1, 1) for row in (rows.start, rows.stop - 1))
        return slice(first, last + 2)


def upsampling(source: int, target: int, like: Tensor) -> Tensor:
    """The matrix (target,source) that resizes one dimension bilinearly with corners aligned; of `like`'s type."""
    position = torch.arange(target, dtype=torch.float64, device=like.device) * ((source - 1) / max(target - 1, 1))
    distance = (position[:, None] - torch.arange(source, device=like.device)).abs()
    return (1 - distance).clamp(min=0).to(like.dtype)
