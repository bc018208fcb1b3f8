"""When a frame becomes a keyframe."""
from itertools import pairwise

import pytest
import torch

from config.command_line import parse
from inference.keyframe_schedule import Budget, FixedInterval, SceneCut, change
from models.build import build_gsvnet
from models.methods.base import SeenFrame
from models.steps import ViewStep
from streets import StreetSettings, render_sequence

STILL = torch.zeros(1, 3, 4, 8)
NO_IMAGE = torch.empty(0)


def keyframes(schedule, costs=None, views=None, count: int = 40) -> list[int]:
    """Numbers of the keyframes among `count` frames; costs: seconds of a keyframe and of a propagated frame."""
    costs, views = costs or (0.1, 0.01), views or [STILL] * count
    schedule.reset()
    found, since = [], 0
    for t, view in enumerate(views):
        since += 1
        key = t == 0 or schedule.needs_keyframe(since, SeenFrame(NO_IMAGE, views[t - 1]), SeenFrame(NO_IMAGE, view))
        if key:
            found.append(t)
            since = 0
        schedule.spent(key, costs[0] if key else costs[1])
    return found


@pytest.mark.parametrize("interval", [1, 3, 7])
def test_fixed_interval(interval):
    assert keyframes(FixedInterval(interval)) == list(range(0, 40, interval))


def test_change_is_a_mean_absolute_difference():
    assert change(STILL, STILL) == 0
    assert change(STILL, STILL + 0.5) == change(STILL + 0.5, STILL) == 0.5
    half = STILL.clone()
    half[..., :4] = -2
    assert change(STILL, half) == 1


def test_cut_brings_a_keyframe_and_the_interval_counts_from_it():
    views = [STILL] * 5 + [STILL + 1] * 10
    assert keyframes(SceneCut(4, threshold=0.5), views=views) == [0, 4, 5, 9, 13]
    assert keyframes(SceneCut(4, threshold=1.5), views=views) == [0, 4, 8, 12]


@pytest.mark.parametrize("segmenter", ["swiftnet", "bisenet"])
def test_default_threshold_parts_moving_streets_from_cuts(segmenter):
    view = ViewStep(build_gsvnet(segmenter=segmenter, flow="light", classes=19))
    settings = StreetSettings(height=128, width=256, length=6, seed=1)
    streets = [
        [view(torch.from_numpy(frame.image)[None]) for frame in render_sequence(settings, "val",
                                                                                index)] for index in range(4)
    ]
    within = [change(a, b) for street in streets for a, b in pairwise(street)]
    across = [change(a[-1], b[0]) for a in streets for b in streets if a is not b]
    threshold = parse(["--schedule", "cut", "--video", "demo", "--output", "out"]).cut_threshold
    assert max(within) < threshold < min(across)


def test_budget_spends_what_it_has_and_no_more():
    for milliseconds in (15, 20, 40, 80):
        found = keyframes(Budget(milliseconds), count=400, views=[STILL] * 400)
        spent = 0.1 * len(found) + 0.01 * (400 - len(found))
        assert spent <= 0.4 * milliseconds + 0.1  # the first keyframe comes before anything is saved
        assert spent >= 0.4 * milliseconds - 0.1
        gaps = {b - a for a, b in pairwise(found[1:])}
        assert max(gaps) - min(gaps) <= 1  # evenly spread


def test_budget_below_a_propagated_frame_has_one_keyframe_and_above_a_keyframe_has_only_them():
    assert keyframes(Budget(9)) == [0]
    assert keyframes(Budget(150)) == list(range(40))


def test_budget_gets_over_a_slow_start():
    schedule = Budget(20)
    found = keyframes(schedule, costs=(0.03, 0.005), count=200, views=[STILL] * 200)
    schedule.reset()
    schedule.spent(True, 3.0)  # set-up
    waited = 1
    while not schedule.needs_keyframe(waited, STILL, STILL):
        schedule.spent(False, 0.005)
        waited += 1
    assert waited < 80 and len(found) > 50


def test_budget_forgets_with_a_new_stream():
    schedule = Budget(20)
    assert keyframes(schedule) == keyframes(schedule) != [0]
