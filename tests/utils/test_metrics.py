"""Metrics against slow plain Python."""
import math

import numpy as np
import pytest
import torch

from utils.metrics import ConfusionMatrix, scores, summary


def slow(labels, predictions, classes):
    """IoU by class, pixel accuracy, class accuracies, pixel by pixel."""
    pairs = [(t, p) for a, b in zip(labels, predictions) for t, p in zip(a.flatten().tolist(), b.flatten().tolist()) if t < classes]
    iou, accuracy = [], []
    for c in range(classes):
        both = sum(t == p == c for t, p in pairs)
        union = sum(t == c or p == c for t, p in pairs)
        true = sum(t == c for t, _ in pairs)
        iou.append(both / union if union else math.nan)
        accuracy.append(both / true if true else math.nan)
    weighted = sum(sum(t == c for t, _ in pairs) / len(pairs) * iou[c] for c in range(classes) if not math.isnan(iou[c]))
    return iou, sum(t == p for t, p in pairs) / len(pairs), accuracy, weighted


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_slow_reference(seed):
    rng = torch.Generator().manual_seed(seed)
    labels = [torch.randint(0, 4, (7, 9), generator=rng, dtype=torch.uint8) for _ in range(3)]
    labels[0][:3] = 250
    predictions = [torch.randint(0, 5, (7, 9), generator=rng) for _ in range(3)]  # class 5 never, 4 never labelled
    matrix = ConfusionMatrix(6)
    for label, prediction in zip(labels, predictions):
        matrix.add(label, prediction)
    iou, pixel, accuracy, weighted = slow(labels, predictions, 6)
    found = scores(matrix.counts)
    assert np.allclose(found["class_iou"], iou, equal_nan=True) and math.isnan(found["class_iou"][5])
    assert found["miou"] == pytest.approx(np.nanmean(iou)) and found["pixel_accuracy"] == pytest.approx(pixel)
    assert found["mean_class_accuracy"] == pytest.approx(np.nanmean(accuracy))
    assert found["frequency_weighted_iou"] == pytest.approx(weighted)


def test_counts_beyond_float32_stay_exact():
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 2**24
    matrix.add(torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.int64))
    assert matrix.counts[0, 0].item() == 2**24 + 1 and matrix.counts.dtype == torch.int64


def test_summary_names_mean_pooled_and_minimum():
    good, bad = ConfusionMatrix(2), ConfusionMatrix(2)
    good.counts, good.frames = torch.tensor([[8, 0], [0, 2]]), 1
    bad.counts, bad.frames = torch.tensor([[4, 4], [2, 0]]), 1
    content = summary({0: good, 3: bad}, ["a", "b"])
    ious = [row["miou"] for row in content["positions"]]
    assert ious == [1.0, pytest.approx(0.2)]
    assert content["avg_miou"] == pytest.approx(0.6) and content["min_miou"] == pytest.approx(0.2)
    assert content["pooled_miou"] == pytest.approx((12 / 18 + 2 / 8) / 2)


def test_absent_class_is_null():
    matrix = ConfusionMatrix(3)
    matrix.add(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.int64))
    row = summary({0: matrix}, ["a", "b", "c"])["positions"][0]
    assert row["class_iou"] == {"a": 1.0, "b": None, "c": None} and row["miou"] == 1.0
