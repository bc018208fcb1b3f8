"""Segmentation metrics from exact confusion matrices."""
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class ConfusionMatrix:
    """Counts of (true class, predicted class) over labelled pixels, int64, on the CPU."""

    def __init__(self, classes: int):
        self.classes = classes
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)
        self.frames = 0

    def add(self, label: Tensor, prediction: Tensor) -> Tensor:
        """label, prediction: (H,W) of one frame; labels of C and more are left out, predictions are inside 0..C-1.

        Returns the frame's own counts (C,C) int64, on the CPU.
        """
        label, prediction = label.reshape(-1), prediction.reshape(-1)
        # One 32-bit code a pixel, unlabelled ones sharing a last bin: several times cheaper than masking int64.
        code = label.to(torch.int32) * self.classes + prediction.to(torch.int32)
        code = torch.where(label < self.classes, code, self.classes * self.classes)
        counts = torch.bincount(code, minlength=self.classes * self.classes + 1)[:-1]
        counts = counts.view(self.classes, self.classes).cpu()
        self.counts += counts
        self.frames += 1
        return counts


def scores(counts: Tensor) -> dict:
    """Confusion counts (C,C) int64, rows true -> fractions 0..1.

    A class absent from both labels and predictions has IoU NaN and is left out of the mean; a class absent from the
    labels has accuracy NaN and is left out of that mean. Frequency-weighted IoU weighs by the labels' frequency.
    """
    matrix = counts.cpu().numpy().astype(np.float64)  # exact up to 2**53 pixels
    true, predicted, right = matrix.sum(1), matrix.sum(0), np.diag(matrix)
    total = matrix.sum()
    union = true + predicted - right
    iou = np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)
    accuracy = np.divide(right, true, out=np.full_like(right, np.nan), where=true > 0)
    frequency = true / total if total else true
    return {
        "miou": _mean(iou),
        "pixel_accuracy": float(right.sum() / total) if total else float("nan"),
        "mean_class_accuracy": _mean(accuracy),
        "frequency_weighted_iou": float(np.nansum(frequency * iou)) if total else float("nan"),
        "class_iou": iou.tolist(),
    }


def summary(matrices: dict[int, ConfusionMatrix], classes: Sequence[str]) -> dict:
    """Per-position confusion matrices -> `positions`, `avg_miou`, `pooled_miou` and `min_miou` of metrics.json.

    Average: mean of the positions' mIoUs, the field's usual definition. Pooled: mIoU of the summed matrices, what the
    released program calls average. NaN becomes None.
    """
    positions = []
    for position, matrix in sorted(matrices.items()):
        values = scores(matrix.counts)
        values["class_iou"] = {name: _number(x) for name, x in zip(classes, values["class_iou"])}
        values = {key: x if isinstance(x, dict) else _number(x) for key, x in values.items()}
        positions.append(
            {"position": position, "frames": matrix.frames, **values, "confusion": matrix.counts.tolist()}
        )
    means = np.array([x["miou"] for x in positions if x["miou"] is not None])
    pooled = scores(torch.stack([matrix.counts for matrix in matrices.values()]).sum(dim=0))["miou"]
    return {
        "positions": positions,
        "avg_miou": float(means.mean()) if means.size else None,
        "pooled_miou": _number(pooled),
        "min_miou": float(means.min()) if means.size else None,
    }


def by_interval(positions: Sequence[dict], matrices: dict[int, ConfusionMatrix]) -> list[dict]:
    """Rows of metrics.json's `positions` -> for every keyframe interval l whose positions 0..l-1 were all measured: the
    mean, pooled and least mIoU over them."""
    miou = {row["position"]: row["miou"] for row in positions}
    rows = []
    for interval in range(1, max(miou) + 2):
        values = [miou[position] for position in range(interval) if miou.get(position) is not None]
        if len(values) < interval:
            break
        pooled = scores(torch.stack([matrices[position].counts for position in range(interval)]).sum(dim=0))["miou"]
        rows.append(
            {"interval": interval, "mean_miou": sum(values) / interval, "pooled_miou": _number(pooled), "min_miou": min(values)}
        )
    return rows


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _number(x: float) -> float | None:
    return None if x != x else x
