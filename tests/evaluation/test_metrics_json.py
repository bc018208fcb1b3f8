"""metrics.json: its content and key order, its numbers against plain Python, and reading it back."""
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given

from config.errors import UserError
from evaluation.metrics_json import Metrics, TemporalScores, WorstFrame, over_interval, read_metrics
from tests.utils.test_metrics import evaluations, mean, null, slow
from utils.metrics import ConfusionMatrix

SETTINGS = {
    "dataset": "synthetic", "segnet": "swiftnet", "flow": "light", "intra": True, "edge": False, "method": "gsv",
    "scale": 0.75,
}
ROW = {"position": 0, "frames": 1, "miou": 0.5, "confusion": [[1, 1], [0, 0]]}
TEMPORAL = {"mvc": {"8": 0.75, "16": None}, "mvc_right": {"8": 0.25, "16": None}, "windows": {"8": 2, "16": 0}}
CONTENT = SETTINGS | {  # as the program wrote it before there was a typed definition
    "classes": ["road", "car", "sky"],
    "positions": [
        {
            "position": 0, "frames": 2, "miou": 0.8611111111111112, "pixel_accuracy": 0.9285714285714286,
            "mean_class_accuracy": 0.9166666666666667, "frequency_weighted_iou": 0.8650793650793651,
            "class_iou": {"road": 0.8888888888888888, "car": 0.8333333333333334, "sky": None},
            "confusion": [[8, 0, 0], [1, 5, 0], [0, 0, 0]],
        },
        {
            "position": 1, "frames": 2, "miou": 0.4, "pixel_accuracy": 0.5714285714285714,
            "mean_class_accuracy": 0.5833333333333333, "frequency_weighted_iou": 0.4,
            "class_iou": {"road": 0.4, "car": 0.4, "sky": None}, "confusion": [[4, 4, 0], [2, 4, 0], [0, 0, 0]],
        },
        {
            "position": 3, "frames": 1, "miou": 0.10714285714285714, "pixel_accuracy": 0.21428571428571427,
            "mean_class_accuracy": 0.25, "frequency_weighted_iou": 0.09183673469387754,
            "class_iou": {"road": 0.0, "car": 0.21428571428571427, "sky": None},
            "confusion": [[0, 8, 0], [3, 3, 0], [0, 0, 0]],
        },
    ],
    "avg_miou": 0.4560846560846561, "pooled_miou": 0.4, "min_miou": 0.10714285714285714,
    "intervals": [
        {
            "interval": 1, "mean_miou": 0.8611111111111112, "pooled_miou": 0.8611111111111112,
            "min_miou": 0.8611111111111112, "pairs": 3, "tc": 0.5, "tc_visible": None, **TEMPORAL,
        },
        {
            "interval": 2, "mean_miou": 0.6305555555555555, "pooled_miou": 0.5970394736842105, "min_miou": 0.4,
            "pairs": 3, "tc": 0.25, "tc_visible": None, **TEMPORAL,
        },
    ],
    "temporal_flow": "OpenCV DIS",
    "worst": [
        {
            "name": "a_000001", "path": "val/a_000001.png", "first_position": 0, "last_position": 3, "first_miou": 0.75,
            "last_miou": 0.25, "lost": 0.5,
        },
    ],
}


def matrices(counts):
    """Confusion matrices by position, of (counts, frames)."""
    found = {}
    for position, (rows, frames) in counts.items():
        found[position] = ConfusionMatrix(len(rows))
        found[position].counts, found[position].frames = torch.tensor(rows), frames
    return found


def measured(by_position, classes, **more):
    return Metrics.from_matrices(by_position, classes=classes, **SETTINGS, **more)


def test_content_and_order_of_the_keys_are_unchanged():
    temporal = {n: TemporalScores(pairs=3, tc=tc, tc_visible=None, **TEMPORAL) for n, tc in ((1, 0.5), (2, 0.25))}
    worst = WorstFrame(name="a_000001", path="val/a_000001.png", first_position=0, last_position=3, first_miou=0.75,
                       last_miou=0.25, lost=0.5)
    by_position = matrices({row["position"]: (row["confusion"], row["frames"]) for row in CONTENT["positions"]})
    metrics = measured(by_position, ["road", "car", "sky"], temporal=temporal, temporal_flow="OpenCV DIS")
    assert json.dumps(replace(metrics, worst=(worst,)).to_json()) == json.dumps(CONTENT)


def test_content_without_consistency_and_worst_frames_has_no_keys_for_them():
    content = measured(matrices({0: ([[1]], 1)}), ["road"]).to_json()
    assert list(content) == [key for key in CONTENT if key not in ("temporal_flow", "worst")]
    assert list(content["intervals"][0]) == ["interval", "mean_miou", "pooled_miou", "min_miou"]
    assert replace(Metrics.from_json(json.loads(json.dumps(content))), worst=()).to_json()["worst"] == ()


def test_content_is_read_back():
    metrics = Metrics.from_json(CONTENT)
    assert metrics.positions[1].class_iou["car"] == 0.4 and metrics.intervals[1].temporal.tc == 0.25
    assert json.dumps(metrics.to_json()) == json.dumps(CONTENT)


@pytest.mark.parametrize(
    "content, reason",
    [
        ("[]", "expected an object, found list"),
        ("{}", "no dataset, flow, method, positions, scale, segnet in it"),
        ("{", "Expecting property name"),
        (json.dumps(CONTENT | {"positions": 5}), "positions is '5'"),
        (json.dumps(CONTENT | {"positions": [5]}), "expected an object, found int"),
        (json.dumps(CONTENT | {"scale": "large"}), "scale is 'large'"),
        (json.dumps(CONTENT | {"worst": [{"name": "a"}]}), "no first_miou, first_position"),
        (json.dumps(CONTENT | {"positions": [ROW | {"miou": "0.5"}]}), "miou is '0.5'"),
    ],
)
def test_another_file_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match="other.json: not a metrics.json .*use one that --evaluate 1 wrote") as caught:
        read_metrics(path)
    assert reason in str(caught.value)


def test_missing_optional_keys_are_unknown():
    content = {"dataset": "camvid", "segnet": "bisenet", "flow": "light", "method": "gsv", "scale": 1}
    metrics = Metrics.from_json(content | {"positions": [ROW], "a key of a later version": 1})
    assert metrics.edge and metrics.avg_miou is None and metrics.positions[0].pixel_accuracy is None


@pytest.mark.parametrize("positions, interval", [((0, 1), 3), ((1, 2), 2), ((0, 0, 0), 3)])
def test_interval_with_a_missing_position_has_no_scores(positions, interval):
    (row,) = measured(matrices({0: ([[1]], 1)}), ["road"]).positions
    rows = [replace(row, position=k) for k in positions]
    assert over_interval(rows, interval) is None
    assert over_interval([replace(row, position=k, miou=None) for k in range(3)], 3) is None


def collected(classes, frames):
    """A confusion matrix for each position, over its frames."""
    found = {position: ConfusionMatrix(classes) for position, _, _ in frames}
    for position, label, prediction in frames:
        found[position].add(label, prediction)
    return found


def slow_means(classes, frames, positions):
    """mIoU of the frames at each of `positions`, and of all of them together."""
    chosen = {k: [(label, prediction) for position, label, prediction in frames if position == k] for k in positions}
    everything = [pair for pairs in chosen.values() for pair in pairs]
    means = [mean(slow(*zip(*pairs), classes)[0]) for pairs in chosen.values()]
    return means, mean(slow(*zip(*everything), classes)[0])


@pytest.mark.tried("Numbers", "average, pooled and minimum mIoU over random positions and keyframe intervals")
@given(evaluation=evaluations())
def test_averages_equal_plain_python(outcomes, evaluation):
    classes, frames = evaluation
    by_position, positions = collected(classes, frames), sorted({position for position, _, _ in frames})
    metrics = measured(by_position, [f"class {c}" for c in range(classes)])
    means, pooled = slow_means(classes, frames, positions)
    assert [row.position for row in metrics.positions] == positions
    assert [row.miou for row in metrics.positions] == [null(x) for x in means]
    assert metrics.avg_miou == null(mean(means)) and metrics.pooled_miou == null(pooled)
    assert metrics.min_miou == null(min((x for x in means if not math.isnan(x)), default=math.nan))
    whole = [n for n in range(1, 5) if set(range(n)) <= set(positions) and not any(math.isnan(x) for x in means[:n])]
    assert [row.interval for row in metrics.intervals] == whole
    for row in metrics.intervals:
        means, pooled = slow_means(classes, frames, range(row.interval))
        assert (row.mean_miou, row.min_miou, row.pooled_miou) == (null(mean(means)), null(min(means)), null(pooled))
    outcomes["equal to plain Python"] += 1


def test_average_is_the_mean_over_positions_and_pooled_that_of_the_sum():
    metrics = measured(matrices({0: ([[8, 0], [0, 2]], 1), 3: ([[4, 4], [2, 0]], 1)}), ["a", "b"])
    assert [row.miou for row in metrics.positions] == [1.0, pytest.approx(0.2)]
    assert metrics.avg_miou == pytest.approx(0.6) and metrics.min_miou == pytest.approx(0.2)
    assert metrics.pooled_miou == pytest.approx((12 / 18 + 2 / 8) / 2)


@pytest.mark.tried("Numbers", "a class that no frame shows", "null, and left out of the means")
def test_absent_class_is_null():
    matrix = ConfusionMatrix(3)
    matrix.add(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.int64))
    (row,) = measured({0: matrix}, ["a", "b", "c"]).positions
    assert row.class_iou == {"a": 1.0, "b": None, "c": None} and row.miou == 1.0
