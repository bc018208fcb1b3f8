"""Segmentation metrics from exact confusion matrices."""
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Fractions 0..1 of a confusion matrix; None where the matrix has no pixel to compute them from."""

    miou: float | None
    pixel_accuracy: float | None
    mean_class_accuracy: float | None
    frequency_weighted_iou: float | None
    class_iou: tuple[float | None, ...]  # C of them


def confusion_counts(label: Tensor, prediction: Tensor, classes: int) -> Tensor:
    """Count pairs of label and predicted class in one frame: (C,C) int64 on the CPU, labels by row.

    label, prediction: (H,W). Pixels whose label is C or more are not counted; predictions must be inside 0..C-1.
    """
    label, prediction = label.reshape(-1), prediction.reshape(-1)  # (H*W,)
    # One 32-bit code a pixel, unlabelled pixels share the last bin: several times faster than masking int64.
    code = label.to(torch.int32) * classes + prediction.to(torch.int32)
    code = torch.where(label < classes, code, classes * classes)
    return torch.bincount(code, minlength=classes * classes + 1)[:-1].view(classes, classes).cpu()  # (C,C)


class ConfusionMatrix:
    """Sum of the confusion counts of `frames` frames: `counts` (C,C) int64 on the CPU, labels by row."""

    def __init__(self, classes: int):
        self.classes = classes
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)
        self.frames = 0

    def add(self, label: Tensor, prediction: Tensor) -> None:
        """Count one frame; label and prediction (H,W) as in `confusion_counts`."""
        self.add_counts(confusion_counts(label, prediction, self.classes))

    def add_counts(self, counts: Tensor) -> None:
        """Add one frame's counts (C,C)."""
        self.counts += counts
        self.frames += 1


def scores(counts: Tensor) -> Scores:
    """Confusion counts (C,C) int64, labels by row -> scores.

    The IoU of a class that is neither labelled nor predicted is unknown and left out of the mean; so is the accuracy of
    a class that is not labelled. The frequency-weighted IoU weights classes by their share of the labels.
    """
    matrix = counts.cpu().numpy().astype(np.float64)  # exact up to 2**53 pixels
    labelled, predicted, correct = matrix.sum(1), matrix.sum(0), np.diag(matrix)
    total, union = matrix.sum(), labelled + predicted - correct
    iou = np.divide(correct, union, out=np.full_like(correct, np.nan), where=union > 0)
    accuracy = np.divide(correct, labelled, out=np.full_like(correct, np.nan), where=labelled > 0)
    return Scores(
        miou=_mean(iou), pixel_accuracy=float(correct.sum() / total) if total else None,
        mean_class_accuracy=_mean(accuracy),
        frequency_weighted_iou=float(np.nansum(labelled / total * iou)) if total else None,
        class_iou=tuple(None if x != x else x for x in iou.tolist()),
    )


def _mean(values: np.ndarray) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None
