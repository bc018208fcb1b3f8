"""Measures over time against brute force."""
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.optical_flow import raft_small

from evaluation.consistency import TemporalConsistency, VideoConsistency, correspondence
from evaluation.optical_flow import dis_flow, find_flow, visible_in_next
from tests.properties import random_labels, seeds, sizes
from tests.utils.test_metrics import null
from utils.metrics import scores

CLASSES = 4


def random_map(rng, height=9, width=13):
    return torch.from_numpy(rng.integers(0, CLASSES, (height, width)).astype(np.uint8))


def slow_tc(pairs, classes=CLASSES):
    """Mean over classes of pooled intersection over union, pixel by pixel; NaN where no pixel has a partner."""
    both, either = [0] * classes, [0] * classes
    for current, following, flow, visible in pairs:
        height, width = current.shape
        for y in range(height):
            for x in range(width):
                column, row = round(x + float(flow[y, x, 0])), round(y + float(flow[y, x, 1]))
                if not (0 <= column < width and 0 <= row < height) or not visible[y, x]:
                    continue
                a, b = int(current[y, x]), int(following[row, column])
                for c in {a, b}:
                    both[c] += a == b
                    either[c] += 1
    return np.mean([i / u for i, u in zip(both, either) if u]) if any(either) else np.nan


@pytest.mark.parametrize("masked", [False, True])
def test_tc_equals_brute_force(masked):
    rng = np.random.default_rng(5)
    pairs, measure = [], TemporalConsistency(CLASSES)
    for _ in range(3):
        current, following = random_map(rng), random_map(rng)
        flow = torch.from_numpy(rng.uniform(-4, 4, (9, 13, 2)).astype(np.float32))
        visible = torch.from_numpy(rng.random((9, 13)) < 0.7)
        pairs.append((current, following, flow, visible if masked else torch.ones_like(visible)))
        measure.add(current, following, correspondence(flow), visible)
    found = scores((measure.visible if masked else measure.everywhere).counts).miou
    assert found == pytest.approx(slow_tc(pairs))


@pytest.mark.tried(
    "Numbers",
    "temporal consistency: random sizes, classes and flows, also far out of the frame and exactly half a pixel",
)
@given(
    size=sizes(8), classes=st.integers(1, 20), count=st.integers(1, 3), masked=st.booleans(),
    reach=st.sampled_from([0.5, 3, 30, 1e9]), halves=st.booleans(), seed=seeds,
)
def test_tc_of_random_videos_equals_brute_force(outcomes, size, classes, count, masked, reach, halves, seed):
    rng = np.random.default_rng(seed)
    pairs, measure = [], TemporalConsistency(classes)
    for _ in range(count):
        current, following = random_labels(rng, size, classes), random_labels(rng, size, classes)
        flow = rng.uniform(-reach, reach, (*size, 2))
        flow = torch.from_numpy((np.round(2 * flow) / 2 if halves else flow).astype(np.float32))
        visible = torch.from_numpy(rng.random(size) < 0.7)
        pairs.append((current, following, flow, visible if masked else torch.ones_like(visible)))
        measure.add(current, following, correspondence(flow), visible if masked else None)
    found = scores((measure.visible if masked else measure.everywhere).counts).miou
    assert found == null(slow_tc(pairs, classes))
    outcomes["equal to brute force"] += 1


def test_a_map_that_moves_with_the_flow_is_wholly_consistent():
    wide = random_map(np.random.default_rng(1), 9, 20)
    flow = torch.zeros(9, 13, 2)
    flow[..., 0] = 3  # what is at x in t is at x + 3 in t+1
    measure = TemporalConsistency(CLASSES)
    measure.add(wide[:, 5:18], wide[:, 2:15], correspondence(flow), torch.ones(9, 13, dtype=torch.bool))
    counts = measure.everywhere.counts
    assert counts.trace() == counts.sum() == 9 * 10


def test_ids_are_never_interpolated():
    current = torch.zeros(4, 4, dtype=torch.uint8)
    following = torch.tensor([[0, 2]] * 4, dtype=torch.uint8).repeat(1, 2)
    flow = torch.full((4, 4, 2), 0.4)
    measure = TemporalConsistency(CLASSES)
    measure.add(current, following, correspondence(flow), None)
    assert measure.everywhere.counts[:, 1].sum() == 0  # a mean of classes 0 and 2 would be 1


def slow_vc(labels, predictions, n, classes=CLASSES):
    """Windows of n frames, each by itself: shares of constant predictions, and of constant and right ones."""
    constant, right = [], []
    for start in range(len(labels) - n + 1):
        label, prediction = np.stack(labels[start : start + n]), np.stack(predictions[start : start + n])
        steady = (label == label[0]).all(0) & (label[0] < classes)
        if not steady.any():
            continue
        kept = steady & (prediction == prediction[0]).all(0)
        constant.append(kept.sum() / steady.sum())
        right.append((kept & (prediction[0] == label[0])).sum() / steady.sum())
    return constant, right


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window", [2, 3, 8])
def test_vc_equals_brute_force(seed, window):
    rng = np.random.default_rng(seed)

    def video():  # maps of which a few pixels change from frame to frame
        maps = [rng.integers(0, CLASSES + 1, (6, 7)).astype(np.uint8)]
        for _ in range(11):
            change = rng.random((6, 7)) < 0.08
            maps.append(np.where(change, rng.integers(0, CLASSES + 1, (6, 7)), maps[-1]).astype(np.uint8))
        return maps

    measure, constant, right = VideoConsistency(window), [], []
    for _ in range(2):
        labels, predictions = video(), [x.clip(max=CLASSES - 1) for x in video()]
        labels = [np.where(x == CLASSES, 250, x).astype(np.uint8) for x in labels]
        measure.begin()
        for label, prediction in zip(map(torch.from_numpy, labels), map(torch.from_numpy, predictions)):
            measure.add(label, prediction, label < CLASSES)
        more = slow_vc(labels, predictions, window)
        constant += more[0]
        right += more[1]
    assert measure.windows == len(constant)
    assert measure.constant == pytest.approx(sum(constant)) and measure.correct == pytest.approx(sum(right))
    assert measure.correct < measure.constant


@pytest.mark.tried(
    "Numbers", "consistency over windows of 1 to 8 frames: random videos, sizes and classes, pixels without label"
)
@given(
    size=sizes(6), classes=st.integers(1, 20), window=st.integers(1, 8),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    changing=st.sampled_from([0.02, 0.1, 0.5]), seed=seeds,
)
def test_vc_of_random_videos_equals_brute_force(outcomes, size, classes, window, lengths, changing, seed):
    rng = np.random.default_rng(seed)

    def video(length, ignore):
        maps = [random_labels(rng, size, classes, ignore)]
        for _ in range(length - 1):
            change = torch.from_numpy(rng.random(size) < changing)
            maps.append(torch.where(change, random_labels(rng, size, classes, ignore), maps[-1]))
        return maps

    measure, constant, right = VideoConsistency(window), [], []
    for length in lengths:
        labels, predictions = video(length, 250), video(length, None)
        measure.begin()
        for label, prediction in zip(labels, predictions):
            measure.add(label, prediction, label < classes)
        more = slow_vc([x.numpy() for x in labels], [x.numpy() for x in predictions], window, classes)
        constant += more[0]
        right += more[1]
    assert measure.windows == len(constant)
    assert measure.constant == pytest.approx(sum(constant)) and measure.correct == pytest.approx(sum(right))
    outcomes["equal to brute force"] += 1


def test_dis_flow_finds_a_known_shift_and_what_it_hides():
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (96, 180, 3)).astype(np.uint8), (0, 0), 2)
    first, second = (torch.from_numpy(scene[:, x : x + 128].copy()) for x in (20, 14))  # moves 6 to the right
    between = dis_flow()
    forward, backward = between(first, second), between(second, first)
    inner = forward[16:-16, 16:-32]
    assert (inner - torch.tensor([6.0, 0.0])).abs().median() < 0.3
    visible = visible_in_next(forward, backward)
    assert visible[16:-16, 16:-32].float().mean() > 0.9
    assert not visible[:, -6:].any()  # moved out of the picture


def test_forward_backward_check_on_made_flows():
    forward, backward = torch.zeros(5, 6, 2), torch.zeros(5, 6, 2)
    forward[..., 0], backward[..., 0] = 1.0, -1.0
    backward[2, 3] = 3.0  # the way back from (2,3), where (2,2) leads, ends elsewhere
    visible = visible_in_next(forward, backward)
    expected = torch.ones(5, 6, dtype=torch.bool)
    expected[:, 5], expected[2, 2] = False, False
    assert torch.equal(visible, expected)


def test_the_flow_that_is_used_is_named(tmp_path):
    name, _ = find_flow([tmp_path], torch.device("cpu"))
    assert name.startswith("OpenCV DIS")


def test_raft_is_used_where_its_weights_lie(tmp_path):
    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "raft_small_C_T_V2-01064c6d.pth")
    name, between = find_flow([tmp_path], torch.device("cpu"))
    assert "raft_small" in name
    flow = between(torch.zeros(50, 70, 3, dtype=torch.uint8), torch.zeros(50, 70, 3, dtype=torch.uint8))
    assert flow.shape == (50, 70, 2) and torch.isfinite(flow).all()


@pytest.mark.tried("Numbers", "flow that is NaN or infinite", "counts as leaving the frame")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_flow_that_is_no_number_finds_nothing(value):
    flow = torch.zeros(2, 3, 2)
    flow[0, 1, 0] = flow[1, 2, 1] = value
    index, inside = correspondence(flow)
    assert (index >= 0).all() and (index < 6).all()
    assert inside.logical_not().nonzero().tolist() == [[0, 1], [1, 2]]
