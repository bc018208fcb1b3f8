"""Metrics against slow plain Python."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataloaders.clips import LabelledFrame
from dataloaders.eval_videos import share
from tests.properties import random_labels, seeds, sizes
from utils.metrics import ConfusionMatrix, confusion_counts, scores


def slow(labels, predictions, classes):
    """IoU by class, pixel accuracy, class accuracies and frequency-weighted IoU, pixel by pixel."""
    pairs = [pair for a, b in zip(labels, predictions) for pair in zip(a.flatten().tolist(), b.flatten().tolist())]
    pairs = [(t, p) for t, p in pairs if t < classes]
    iou, accuracy = [], []
    for c in range(classes):
        both = sum(t == p == c for t, p in pairs)
        union = sum(t == c or p == c for t, p in pairs)
        true = sum(t == c for t, _ in pairs)
        iou.append(both / union if union else math.nan)
        accuracy.append(both / true if true else math.nan)
    if not pairs:
        return iou, math.nan, accuracy, math.nan
    known = [c for c in range(classes) if not math.isnan(iou[c])]
    weighted = sum(sum(t == c for t, _ in pairs) / len(pairs) * iou[c] for c in known)
    return iou, sum(t == p for t, p in pairs) / len(pairs), accuracy, weighted


def mean(values):
    """Mean of the values that are not NaN; NaN where there are none."""
    known = [x for x in values if not math.isnan(x)]
    return sum(known) / len(known) if known else math.nan


def null(x):
    return None if math.isnan(x) else pytest.approx(x, rel=1e-9)


@st.composite
def evaluations(draw):
    """Class count, and one to six frames: position, label, prediction."""
    classes = draw(st.integers(1, 6) | st.integers(1, 250))
    ignore = draw(st.integers(classes, 255))
    frames = []
    for position, size in draw(st.lists(st.tuples(st.integers(0, 3), sizes(7)), min_size=1, max_size=6)):
        rng = np.random.default_rng(draw(seeds))
        label, prediction = random_labels(rng, size, classes, ignore), random_labels(rng, size, classes)
        frames.append((position, label.to(draw(st.sampled_from([torch.uint8, torch.int64]))), prediction))
    return classes, frames


@pytest.mark.tried("Numbers", "scores of random label maps: sizes, 1 to 250 classes, absent classes, any ignore label")
@given(evaluation=evaluations())
def test_scores_equal_plain_python(outcomes, evaluation):
    classes, frames = evaluation
    matrix = ConfusionMatrix(classes)
    for _, label, prediction in frames:
        before = matrix.counts.clone()
        matrix.add(label, prediction)
        counts = confusion_counts(label, prediction, classes)
        assert torch.equal(matrix.counts, before + counts) and counts.sum() == (label < classes).sum()
    _, labels, predictions = zip(*frames)
    iou, pixel, accuracy, weighted = slow(labels, predictions, classes)
    found = scores(matrix.counts)
    assert matrix.frames == len(frames) and list(found.class_iou) == [null(x) for x in iou]
    assert found.miou == null(mean(iou)) and found.mean_class_accuracy == null(mean(accuracy))
    assert found.pixel_accuracy == null(pixel) and found.frequency_weighted_iou == null(weighted)
    outcomes["equal to plain Python"] += 1


@st.composite
def labelled_videos(draw):
    """Labelled frames of up to five sequences, each with up to four frames before it."""
    past, frames = draw(st.integers(0, 4)), []
    for sequence in range(draw(st.integers(1, 5))):
        for number in sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=5))):
            paths = tuple(Path(f"{sequence}/{t}.png") for t in range(max(0, number - past), number + 1))
            frames.append(LabelledFrame(f"{sequence} {number}", paths, Path("label"), "prediction"))
    return frames


@pytest.mark.tried("Numbers", "random videos evaluated by 1 to 6 processes", "the counts of one process")
@given(
    frames=labelled_videos(), ranks=st.integers(1, 6), whole_videos=st.booleans(), classes=st.integers(1, 5), seed=seeds
)
def test_processes_together_count_what_one_counts(outcomes, frames, ranks, whole_videos, classes, seed):
    rng = np.random.default_rng(seed)
    maps = {x.name: (random_labels(rng, (4, 5), classes, 250), random_labels(rng, (4, 5), classes)) for x in frames}
    alone, parts = ConfusionMatrix(classes), []
    for frame in frames:
        alone.add(*maps[frame.name])
    for rank in range(ranks):
        parts.append(ConfusionMatrix(classes))
        for video in share(frames, rank=rank, ranks=ranks, whole_videos=whole_videos):
            numbers = [int(frame.path.stem) for frame in video]
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            for frame in video:
                if frame.labelled is not None:
                    assert frame.path == frame.labelled.frames[-1]
                    parts[-1].add(*maps[frame.labelled.name])
    assert torch.equal(sum(part.counts for part in parts), alone.counts)
    assert sum(part.frames for part in parts) == alone.frames
    outcomes["the counts of one process"] += 1


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
    assert list(found.class_iou) == [null(x) for x in iou] and found.class_iou[5] is None
    assert found.miou == pytest.approx(np.nanmean(iou)) and found.pixel_accuracy == pytest.approx(pixel)
    assert found.mean_class_accuracy == pytest.approx(np.nanmean(accuracy))
    assert found.frequency_weighted_iou == pytest.approx(weighted)


@pytest.mark.tried("Numbers", "more pixels of a class than float32 can count", "counted exactly")
def test_counts_beyond_float32_stay_exact():
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 2**24
    matrix.add(torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.int64))
    assert matrix.counts[0, 0].item() == 2**24 + 1 and matrix.counts.dtype == torch.int64
