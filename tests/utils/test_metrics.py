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
from utils.metrics import ConfusionMatrix, by_interval, scores, summary


def slow(labels, predictions, classes):
    """IoU by class, pixel accuracy, class accuracies and frequency-weighted IoU, pixel by pixel."""
    pairs = [(t, p) for a, b in zip(labels, predictions) for t, p in zip(a.flatten().tolist(), b.flatten().tolist()) if t < classes]
    iou, accuracy = [], []
    for c in range(classes):
        both = sum(t == p == c for t, p in pairs)
        union = sum(t == c or p == c for t, p in pairs)
        true = sum(t == c for t, _ in pairs)
        iou.append(both / union if union else math.nan)
        accuracy.append(both / true if true else math.nan)
    if not pairs:
        return iou, math.nan, accuracy, math.nan
    weighted = sum(sum(t == c for t, _ in pairs) / len(pairs) * iou[c] for c in range(classes) if not math.isnan(iou[c]))
    return iou, sum(t == p for t, p in pairs) / len(pairs), accuracy, weighted


def mean(values):
    """Of those that are numbers; NaN where none is."""
    known = [x for x in values if not math.isnan(x)]
    return sum(known) / len(known) if known else math.nan


def same(x):
    return pytest.approx(x, rel=1e-9, nan_ok=True)


def null(x):
    return None if math.isnan(x) else same(x)


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


def collected(classes, frames):
    """A confusion matrix for each position, over its frames."""
    matrices = {position: ConfusionMatrix(classes) for position, _, _ in frames}
    for position, label, prediction in frames:
        matrices[position].add(label, prediction)
    return matrices


def slow_means(classes, frames, positions):
    """mIoU of the frames at each of `positions`, and of all of them together."""
    chosen = {k: [(label, prediction) for position, label, prediction in frames if position == k] for k in positions}
    everything = [pair for pairs in chosen.values() for pair in pairs]
    return [mean(slow(*zip(*pairs), classes)[0]) for pairs in chosen.values()], mean(slow(*zip(*everything), classes)[0])


@pytest.mark.tried("Numbers", "scores of random label maps: sizes, 1 to 250 classes, absent classes, any ignore label")
@given(evaluation=evaluations())
def test_scores_equal_plain_python(outcomes, evaluation):
    classes, frames = evaluation
    matrix = ConfusionMatrix(classes)
    for _, label, prediction in frames:
        before = matrix.counts.clone()
        counts = matrix.add(label, prediction)
        assert torch.equal(matrix.counts, before + counts) and counts.sum() == (label < classes).sum()
    _, labels, predictions = zip(*frames)
    iou, pixel, accuracy, weighted = slow(labels, predictions, classes)
    found = scores(matrix.counts)
    assert matrix.frames == len(frames) and found["class_iou"] == same(iou)
    assert found["miou"] == same(mean(iou)) and found["mean_class_accuracy"] == same(mean(accuracy))
    assert found["pixel_accuracy"] == same(pixel) and found["frequency_weighted_iou"] == same(weighted)
    outcomes["equal to plain Python"] += 1


@pytest.mark.tried("Numbers", "average, pooled and minimum mIoU over random positions and keyframe intervals")
@given(evaluation=evaluations())
def test_summary_equals_plain_python(outcomes, evaluation):
    classes, frames = evaluation
    matrices, positions = collected(classes, frames), sorted({position for position, _, _ in frames})
    content = summary(matrices, [f"class {c}" for c in range(classes)])
    means, pooled = slow_means(classes, frames, positions)
    assert [row["position"] for row in content["positions"]] == positions
    assert [row["miou"] for row in content["positions"]] == [null(x) for x in means]
    assert content["avg_miou"] == null(mean(means)) and content["pooled_miou"] == null(pooled)
    assert content["min_miou"] == null(min((x for x in means if not math.isnan(x)), default=math.nan))
    rows = by_interval(content["positions"], matrices)
    whole = [n for n in range(1, 5) if set(range(n)) <= set(positions) and not any(math.isnan(x) for x in means[:n])]
    assert [row["interval"] for row in rows] == whole
    for row in rows:
        means, pooled = slow_means(classes, frames, range(row["interval"]))
        assert row["mean_miou"] == same(mean(means)) and row["min_miou"] == same(min(means)) and row["pooled_miou"] == same(pooled)
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
@given(frames=labelled_videos(), ranks=st.integers(1, 6), whole_videos=st.booleans(), classes=st.integers(1, 5), seed=seeds)
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
    assert np.allclose(found["class_iou"], iou, equal_nan=True) and math.isnan(found["class_iou"][5])
    assert found["miou"] == pytest.approx(np.nanmean(iou)) and found["pixel_accuracy"] == pytest.approx(pixel)
    assert found["mean_class_accuracy"] == pytest.approx(np.nanmean(accuracy))
    assert found["frequency_weighted_iou"] == pytest.approx(weighted)


@pytest.mark.tried("Numbers", "more pixels of a class than float32 can count", "counted exactly")
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


@pytest.mark.tried("Numbers", "a class that no frame shows", "null, and left out of the means")
def test_absent_class_is_null():
    matrix = ConfusionMatrix(3)
    matrix.add(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.int64))
    row = summary({0: matrix}, ["a", "b", "c"])["positions"][0]
    assert row["class_iou"] == {"a": 1.0, "b": None, "c": None} and row["miou"] == 1.0
