"""Losses of the training stages."""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.full_size_loss import FullSizeLoss, pixel_terms
from models.resize import align, half_pixel, size_of

# Gradients are averaged over processes, so a mean over the pixels of a batch that is split over them divides by the
# processes' mean count. `average` computes that mean.
Average = Callable[[Tensor], Tensor]


def alone(value: Tensor) -> Tensor:
    """The mean over one process."""
    return value


class PropagationLoss(nn.Module):
    """Loss of the propagation (paper section 3.4): cross-entropy with the label, divergence from the teacher.

    total = param_ce * (CE + param_distil * mean over all elements of KL(softmax(teacher) || softmax(prediction))).
    """

    class_weights: Tensor  # (C,)
    terms = staticmethod(pixel_terms)  # or the same compiled

    def __init__(
        self, class_weights: Sequence[float], *, param_ce: float, param_distil: float, ignore: int,
        average: Average = alone,
    ):
        super().__init__()
        self.average = average
        self.register_buffer("class_weights", torch.tensor(class_weights), persistent=False)
        self.param_ce, self.param_distil, self.ignore = param_ce, param_distil, ignore

    def forward(self, logits: Tensor, label: Tensor, teacher: Tensor | None) -> dict[str, Tensor]:
        """Logits, teacher (N,C,h',w') float32, resized to the label's size; label (N,H,W) int64, ids or `ignore`.

        Returns the scalars `total`, `ce` and `distillation` (zero if teacher is None).
        """
        share = self.param_distil if teacher is not None else 0.0
        label, weight = pixel_weights(label, self.class_weights, self.ignore, self.average)
        total, ce, distillation = FullSizeLoss.apply(logits, teacher, label, weight, share, self.terms)
        return {"total": self.param_ce * total, "ce": ce, "distillation": distillation}


class SegmenterLoss(nn.Module):
    """Cross-entropy of a keyframe segmenter, summed over the outputs it is trained on.

    `ohem`: BiSeNet's online hard example mining (Shrivastava et al., CVPR 2016): only pixels whose loss exceeds that
    of probability 0.7 count, and at least 1/16 of the batch's pixels, the hardest ones; with `of_labelled`, of those
    that have a label. label_stride: every n-th row and column of the label counts.
    """

    def __init__(
        self, *, ignore: int, ohem: bool, threshold: float = 0.7, of_labelled: bool = False, label_stride: int = 1,
        average: Average = alone,
    ):
        super().__init__()
        self.average, self.of_labelled, self.label_stride = average, of_labelled, label_stride
        self.ignore, self.ohem = ignore, ohem
        self.hard_loss, self.share = -torch.log(torch.tensor(threshold)).item(), 1 / 16

    def forward(self, outputs: Sequence[Tensor], label: Tensor) -> dict[str, Tensor]:
        """Logits (N,C,h',w') float32 per output; label (N,H,W) int64, ids or `ignore`. Returns the scalar `total`."""
        label = label[:, :: self.label_stride, :: self.label_stride]
        first, *others = (self._one(logits, label) for logits in outputs)
        return {"total": sum(others, first)}

    def _one(self, logits: Tensor, label: Tensor) -> Tensor:
        if not self.ohem:
            label, weight = pixel_weights(label, logits.new_ones(logits.shape[1]), self.ignore, self.average)
            return FullSizeLoss.apply(logits, None, label, weight, 0.0, pixel_terms)[0]
        logits = align(logits, size_of(label))
        losses = F.cross_entropy(logits, label, ignore_index=self.ignore, reduction="none").flatten()  # (N*H*W,)
        hard = losses > self.hard_loss
        # Both sums are computed, so that no count is read back from a GPU. Ignored pixels have a loss of 0: among the
        # hardest they add nothing to the sum.
        kept, labelled = min(label.numel(), int(label.numel() * self.share)), (label != self.ignore).sum()
        floor = (labelled * self.share).long() if self.of_labelled else labelled.clamp(max=kept)
        hardest = losses.topk(kept).values
        hardest = torch.where(torch.arange(kept, device=label.device) < floor, hardest, 0.0).sum()
        enough = hard.sum() >= floor
        total = torch.where(enough, torch.where(hard, losses, 0.0).sum(), hardest)
        return total / torch.where(enough, hard.sum(), floor).clamp(min=1)


class TDNetLoss(SegmenterLoss):
    """Loss of TDNet (Hu et al., CVPR 2020): BiSeNet's hard pixels of each output, and the divergence of
    the first two, propagated logits and those of the frame alone, from the teacher's.

    full_size_divergence: compare with the teacher at the label's size, else at the outputs' own.
    """

    def __init__(
        self, output_weights: Sequence[float], divergence_weights: tuple[float, float], *, ignore: int,
        full_size_divergence: bool,
    ):
        super().__init__(ignore=ignore, ohem=True)
        self.output_weights, self.divergence_weights = output_weights, divergence_weights
        self.full_size_divergence = full_size_divergence

    def forward(self, outputs: Sequence[Tensor], label: Tensor, teacher: Tensor | None = None) -> dict[str, Tensor]:
        """Logits (N,C,h',w') float32 of `TDNet.training_outputs`; label (N,H,W) int64, ids or `ignore`; the teacher's
        logits (N,C,h',w'), which serve both, while the halves of the authors' PSPNet-101 teach different paths.

        Returns the scalars `total` and its summands, weighted: `out`, `sub`, `auxiliary`, and `distillation`, zero
        without a teacher.
        """
        size = size_of(label)
        pairs = zip(self.output_weights, outputs, strict=True)
        out, sub, *others = (weight * self._one(x, label) for weight, x in pairs)
        auxiliary, distillation = sum(others, out.new_zeros(())), out.new_zeros(())
        if teacher is not None:
            for weight, x in zip(self.divergence_weights, outputs):
                compared = size if self.full_size_divergence else size_of(x)
                distillation = distillation + weight * divergence(align(x, compared), align(teacher, compared))
        total = out + sub + auxiliary + distillation
        return {"total": total, "out": out, "sub": sub, "auxiliary": auxiliary, "distillation": distillation}


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Logits (N,C,H,W) of student and teacher -> KL(teacher || student), summed over classes, mean over pixels. 1e-8 is
    added to each probability, as TDNet's authors do."""
    p, q = teacher.detach().softmax(dim=1) + 1e-8, logits.softmax(dim=1) + 1e-8  # (N,C,H,W)
    return (p * (p.log() - q.log())).sum(dim=1).mean()


def pixel_weights(label: Tensor, weights: Tensor, ignore: int, average: Average) -> tuple[Tensor, Tensor]:
    """Label (N,H,W) int64, ids or `ignore` -> ids, 0 where ignored, and each pixel's share (N,H,W) of a mean weighted
    by class, 0 where ignored."""
    known = label != ignore
    label = torch.where(known, label, 0)
    weight = weights[label] * known
    return label, weight / average(weight.sum()).clamp(min=1e-6)


def all_pixel_cross_entropy(logits: Tensor, label: Tensor, weights: Tensor, ignore: int) -> Tensor:
    """Logits (N,C,H,W), label (N,H,W) -> sum of the losses, weighted by class, over the number of all pixels, ignored
    ones counted too (as PIDNet's and DDRNet's authors train auxiliary heads)."""
    return F.cross_entropy(logits, label, weights, ignore_index=ignore, reduction="none").mean()


def hard_pixel_cross_entropy(
    logits: Tensor, label: Tensor, weights: Tensor, ignore: int, *, keep: int = 131_072, probability: float = 0.9
) -> Tensor:
    """Logits (N,C,H,W), label (N,H,W) -> mean loss, weighted by class, of the pixels whose class is less probable than
    `probability`, and of at least the `keep` least probable (as PIDNet's and DDRNet's authors train).

    0 without labelled pixels. Reads nothing back from a GPU.
    """
    losses = F.cross_entropy(logits, label, weights, ignore_index=ignore, reduction="none").flatten()  # (N*H*W,)
    with torch.no_grad():
        known = label != ignore
        right = logits.softmax(dim=1).gather(1, torch.where(known, label, 0)[:, None])[:, 0]  # (N,H,W)
        right = torch.where(known, right, 2.0).flatten()
        lowest = right.topk(min(keep + 1, len(right)), largest=False).values
        last = (known.sum() - 1).clamp(min=0, max=len(lowest) - 1)
        threshold = lowest.gather(0, last[None]).clamp(min=probability)  # (1,); an index would be read back
        hard = (right < threshold) & known.flatten()
    return torch.where(hard, losses, 0.0).sum() / hard.sum().clamp(min=1)


class DDRNetLoss(nn.Module):
    """Loss of DDRNet's two outputs (github.com/chenjun2hao/DDRNet.pytorch)."""

    class_weights: Tensor  # (C,)

    def __init__(self, class_weights: Sequence[float], *, ignore: int, keep: int = 131_072):
        super().__init__()
        self.register_buffer("class_weights", torch.tensor(class_weights), persistent=False)
        self.ignore, self.keep = ignore, keep

    def forward(self, outputs: Sequence[Tensor], label: Tensor) -> dict[str, Tensor]:
        """Logits (N,C,h,w) float32, main and auxiliary; label (N,H,W) int64, ids or `ignore`."""
        main, auxiliary = (half_pixel(x, size_of(label)) for x in outputs)
        hard = hard_pixel_cross_entropy(main, label, self.class_weights, self.ignore, keep=self.keep)
        plain = all_pixel_cross_entropy(auxiliary, label, self.class_weights, self.ignore)
        return {"total": hard + 0.4 * plain, "main": hard, "auxiliary": plain}


class PIDNetLoss(DDRNetLoss):
    """Loss of PIDNet's three outputs (paper section 3.4, github.com/XuJiacong/PIDNet), with DDRNet's terms."""

    def forward(  # type: ignore[override]
        self, outputs: Sequence[Tensor], label: Tensor, edge: Tensor
    ) -> dict[str, Tensor]:
        """Logits (N,C,h,w), main and of the detail branch, and (N,1,h,w) of boundaries, float32; label (N,H,W) int64,
        ids or `ignore`; edge (N,H,W), 1 near boundaries (`boundary_target`), else 0."""
        main, detail, boundary = (align(x, size_of(label)) for x in outputs)
        edge = edge[:, None].float()  # (N,1,H,W)
        near = torch.where(boundary.detach().sigmoid() > 0.8, label[:, None], self.ignore)[:, 0]  # (N,H,W)
        share = edge.mean()
        weights = torch.where(edge > 0, 1 - share, share)  # (N,1,H,W)
        semantic = 0.4 * all_pixel_cross_entropy(detail, label, self.class_weights, self.ignore)
        semantic = semantic + hard_pixel_cross_entropy(main, label, self.class_weights, self.ignore, keep=self.keep)
        edges = 20 * F.binary_cross_entropy_with_logits(boundary, edge, weights)
        aware = hard_pixel_cross_entropy(main, near, self.class_weights, self.ignore, keep=self.keep)
        total = semantic + edges + aware
        return {"total": total, "semantic": semantic, "boundary": edges, "boundary_aware": aware}


class FlowLoss(nn.Module):
    """Mean end-point error over the pixels where the true flow is known and visible in both frames."""

    def __init__(self, *, average: Average = alone):
        super().__init__()
        self.average = average

    def forward(self, flow: Tensor, truth: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Flow, truth (N,2,h,w) float32 in grid pixels; valid (N,1,h,w), weights 0..1. Returns the scalar `total`."""
        error = torch.linalg.vector_norm(flow - truth, dim=1, keepdim=True)  # (N,1,h,w)
        return {"total": (error * valid).sum() / self.average(valid.sum()).clamp(min=1.0)}
