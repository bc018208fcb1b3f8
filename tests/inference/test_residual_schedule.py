"""The residual schedule on pictures that move: when it asks for a keyframe, and when it does not."""
import statistics
from itertools import pairwise

import numpy as np
import pytest
import torch

from config.segmenters import NATIVE
from inference.keyframe_schedule import Residual
from models.build import segmenter_class
from models.frame_view import FrameView
from models.methods.base import SeenFrame
from models.resize import channels_first
from tests.films import panning


def seen_frames(frames, grid: int = 8) -> list[SeenFrame]:
    """The frames as VideoSegmenter shows them to a schedule."""
    segmenter = segmenter_class(NATIVE[0])
    view = FrameView(segmenter.view_mean, segmenter.view_std, grid)
    images = [torch.from_numpy(frame)[None] for frame in frames]
    return [SeenFrame(image, view(channels_first(image))) for image in images]


def keyframes(schedule, frames, forced=()) -> list[int]:
    """Numbers of the keyframes of a stream; forced: frames that become one whatever the schedule says."""
    seen, found, since = seen_frames(frames), [0], 0
    for t in range(1, len(seen)):
        since += 1
        if schedule.needs_keyframe(since, seen[t - 1], seen[t]) or t in forced:
            found.append(t)
            since = 0
    return found


def gaps(found) -> list[int]:
    return [b - a for a, b in pairwise(found)]


@pytest.mark.parametrize("threshold", [0.5, 7.0])
def test_still_video_never_asks_again(threshold):
    assert keyframes(Residual(threshold), panning([0] * 40)) == [0]


@pytest.mark.parametrize("speed", [1, 2])
def test_steady_motion_asks_at_about_equal_distances_and_more_often_with_a_smaller_threshold(speed):
    frames = panning([speed] * 60)
    found = {threshold: keyframes(Residual(threshold), frames) for threshold in (3.0, 7.0, 15.0)}
    for key in found.values():
        middle = statistics.median(gaps(key))
        assert len(key) > 5 and all(abs(gap - middle) <= 1 for gap in gaps(key))
    assert len(found[3.0]) > len(found[7.0]) > len(found[15.0])


def test_twice_as_fast_asks_more_often():
    slow, fast = (keyframes(Residual(7.0), panning([speed] * 40)) for speed in (1, 2))
    assert len(fast) >= 1.5 * len(slow)


@pytest.mark.parametrize("seeds", [(0, 5), (1, 2), (3, 4)])
@pytest.mark.parametrize("speed", [0, 1])
def test_cut_to_other_content_asks_at_once(seeds, speed):
    """However large the threshold: it has no part in it."""
    first, second = (panning([speed] * 14, seed) for seed in seeds)
    assert keyframes(Residual(1e6), first) == [0]
    assert keyframes(Residual(1e6), first[:9] + second) == [0, 9]


def test_a_cut_does_not_ask_twice():
    assert keyframes(Residual(7.0), panning([0] * 9) + panning([0] * 20, seed=5)) == [0, 10]


def test_faster_stretch_gets_more_keyframes_per_frame_than_slow_ones():
    found = keyframes(Residual(7.0), panning([1] * 30 + [4] * 30 + [1] * 30))
    before, within, behind = (sum(start < t <= start + 30 for t in found) for start in (0, 30, 60))
    assert within > 1.8 * before and within > 1.8 * behind


def test_new_keyframe_starts_a_new_sum():
    """Even one that the schedule did not ask for: the next comes as long after it as after any other."""
    frames = panning([1] * 30)
    (_, second, *_), forced = keyframes(Residual(7.0), frames), keyframes(Residual(7.0), frames, forced=(4,))
    assert forced[1] == 4 < second and abs(forced[2] - 4 - second) <= 1


def test_sum_goes_on_where_a_request_is_not_followed():
    """Only `since` tells the schedule that there was a keyframe."""
    schedule, seen = Residual(7.0), seen_frames(panning([1] * 20))
    asked = [schedule.needs_keyframe(t, seen[t - 1], seen[t]) for t in range(1, len(seen))]
    first = asked.index(True)
    assert 0 < first < 15 and all(asked[first:])


def test_reset_forgets_everything():
    schedule, frames, other = Residual(7.0), panning([1] * 30), panning([6] * 15, seed=2)
    expected = keyframes(Residual(7.0), frames)
    for earlier in (frames, other, other[:3], frames[:5]):
        keyframes(schedule, earlier)
        schedule.reset()
        assert keyframes(schedule, frames) == expected
    seen, twice = seen_frames(other[:2]), seen_frames(frames[:2])
    schedule.reset()
    schedule.needs_keyframe(1, *seen)
    schedule.reset()
    schedule.needs_keyframe(7, *twice)  # as if the stream's first frames had not been asked about
    fresh = Residual(7.0)
    fresh.needs_keyframe(7, *twice)
    assert (schedule.sum, schedule.share, schedule.usual) == (fresh.sum, fresh.share, fresh.usual)


def test_frame_before_need_not_be_the_last_that_was_seen():
    """The grey picture that is kept is used for its own frame alone."""
    schedule, fresh = Residual(7.0), Residual(7.0)
    schedule.needs_keyframe(1, *seen_frames(panning([1], seed=5)))
    schedule.usual, schedule.frames, schedule.share = fresh.usual, fresh.frames, fresh.share
    pair = seen_frames(panning([2]))
    assert not fresh.needs_keyframe(1, *pair) and not schedule.needs_keyframe(1, *pair)
    assert (schedule.sum, schedule.share) == (fresh.sum, fresh.share) and fresh.sum < 0.3


@pytest.mark.parametrize("size", [(10, 12), (9, 200), (40, 8), (1, 30), (5, 5)])
def test_frames_smaller_than_the_pictures_of_dis(size):
    assert keyframes(Residual(7.0), panning([0] * 8, size=size)) == [0]
    found = keyframes(Residual(7.0), panning([1] * 12, size=size))
    assert found[0] == 0 and found == keyframes(Residual(7.0), panning([1] * 12, size=size))


def test_frames_larger_than_the_pictures_of_dis():
    found = keyframes(Residual(7.0), panning([3] * 16, size=(384, 512)))
    assert 2 <= len(found) < 10


def test_small_frames_change_at_a_cut_too():
    size = (40, 56)
    frames = panning([0] * 9, size=size) + panning([0] * 9, seed=5, size=size)
    assert keyframes(Residual(1e6), frames) == [0, 10]


def test_frame_of_another_picture_at_the_beginning_changes_nothing_after_it():
    drive = panning([2] * 60)
    alone, behind = keyframes(Residual(7.0), drive), keyframes(Residual(7.0), [np.zeros_like(drive[0]), *drive])
    assert behind[:2] == [0, 1] and all(abs(a + 1 - b) <= 1 for a, b in zip(alone, behind[1:]))
    assert len(behind) == len(alone) + 1


def test_other_size_begins_anew():
    schedule, fresh = Residual(7.0), Residual(7.0)
    for t, pair in enumerate(pairwise(seen_frames(panning([1] * 3)))):
        schedule.needs_keyframe(1 + t, *pair)
    other = seen_frames(panning([1], size=(64, 96)))
    assert schedule.needs_keyframe(2, *other) == fresh.needs_keyframe(2, *other)
    assert schedule.carried.shape == fresh.carried.shape
