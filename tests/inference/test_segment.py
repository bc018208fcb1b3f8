"""`segment`: the results of a video's frames, one after the other, from Python."""
import itertools
import threading

import numpy as np
import pytest

from config.cityscapes import CITYSCAPES
from config.errors import UserError
from inference import VideoSegmenter, segment
from inference.containers import Frames, TimedImage
from inference.segment import Segmentation
from inference.video_input import open_frames
from tests.films import encoded, heard_at, picture, times_of, write_pictures, write_video
from utils.visualize import overlay

SIZE = (64, 96)
FRAMES = [picture(i % 20, SIZE) for i in range(12)]
CODE = """
from torch import nn
def build():
    return nn.Sequential(nn.Conv2d(3, 3, 3, 4, 1)), dict(classes=["road", "car", "tree"])
"""


@pytest.fixture(scope="module")
def segmenter(weights):
    return VideoSegmenter.from_released(weights)


@pytest.fixture(autouse=True)
def every_thread_ends():
    before = set(threading.enumerate())
    yield
    assert not {x for x in set(threading.enumerate()) - before if x.name.startswith(("read ahead", "write behind"))}


def test_results(segmenter, tmp_path):
    times = [0, 0.1, 0.2, 2.2, 2.3, 2.4, 2.5]
    source = encoded(tmp_path / "in.mp4", FRAMES[:7], times=times)
    shown = list(open_frames(str(source)))
    results = list(segment(source, segmenter, interval=3))
    assert [x.is_keyframe for x in results] == [True, False, False] * 2 + [True]
    assert [x.time for x in results] == pytest.approx(times, abs=1e-3)
    assert [(x.number, x.title) for x in results] == [(i, f"frame_{i:06d}") for i in range(7)]
    segmenter.reset()
    for result, labels, image in zip(results, segmenter.stream(shown), shown, strict=True):
        assert (result.image == image).all() and (result.labels == labels).all()
        assert result.labels.dtype == np.uint8 and result.labels.shape == SIZE and result.latency > 0
        assert (result.overlay() == overlay(image, labels, CITYSCAPES.colours)).all()
        found = result.probabilities()
        assert found.shape == (19, *SIZE) and found.dtype == np.float32
        assert found.sum(0) == pytest.approx(1, abs=1e-5) and (found.argmax(0) == labels).mean() > 0.999


def test_videos_may_share_a_segmenter(segmenter, tmp_path):
    sources = [write_video(tmp_path / "a.mp4", 5, size=SIZE), encoded(tmp_path / "b.mp4", FRAMES[6:11])]
    alone = [[x.labels for x in segment(source, segmenter)] for source in sources]
    for a, b, *expected in zip(*(segment(source, segmenter) for source in sources), *alone, strict=True):
        assert np.array_equal(a.labels, expected[0]) and np.array_equal(b.labels, expected[1])


def test_labels_that_the_caller_changes_do_not_reach_the_next_frame(tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    source = write_video(tmp_path / "in.mp4", 5, size=SIZE)
    segmenter = VideoSegmenter.from_segmenter(f"{tmp_path}/net.py:build")
    expected = [result.labels for result in segment(source, segmenter)]
    for result, labels in zip(segment(source, segmenter), expected, strict=True):
        assert np.array_equal(result.labels, labels)
        result.labels[:] = 0


def test_save_keeps_the_source_and_takes_the_whole_video(segmenter, tmp_path):
    source = write_video(tmp_path / "in.mp4", 3, size=SIZE)
    before = source.read_bytes()
    with pytest.raises(UserError, match="in.mp4: is the video that is read, and would be overwritten; choose another"):
        segment(source, segmenter).save(source)
    with segment(source, segmenter) as results:
        next(results)
        with pytest.raises(UserError, match="1 frames have been taken already; save a new segmentation"):
            results.save(tmp_path / "out.mp4")
    assert source.read_bytes() == before and not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("settings", [{"codec": "vp9"}, {"quality": 99}])
def test_settings_of_save_are_checked(segmenter, tmp_path, settings):
    with pytest.raises(UserError, match=r"out.mp4: no codec .* of quality .*; choose h264, .*, quality 0 to 51"):
        segment(write_video(tmp_path / "in.mp4", 3, size=SIZE), segmenter).save(tmp_path / "out.mp4", **settings)


@pytest.mark.parametrize("interval", [0, -1, 1.5])
def test_interval_is_a_whole_number(segmenter, tmp_path, interval):
    with pytest.raises(UserError, match="interval must be a whole number from 1 on"):
        segment(write_video(tmp_path / "in.mp4", 3, size=SIZE), segmenter, interval=interval)


def test_interval_is_the_segmenters_own_unless_given(segmenter, tmp_path):
    source = write_video(tmp_path / "in.mp4", 5, size=SIZE)
    assert sum(x.is_keyframe for x in segment(source, segmenter, interval=1)) == 5
    assert sum(x.is_keyframe for x in segment(source, segmenter)) == 2


def test_it_reads_a_few_frames_ahead_and_closes(segmenter):
    taken = []
    images = (taken.append(i) or FRAMES[i % 12] for i in itertools.count())
    endless = Frames("endless", (TimedImage(x, 0.0, 0.0) for x in images), 30.0, SIZE)
    with Segmentation(endless, segmenter, colours=segmenter.colours) as results:
        kept = list(itertools.islice(results, 20))
        assert len(kept) == 20 and len(taken) < 20 + 16



def test_error_of_the_source_comes_behind_its_frames(segmenter, tmp_path):
    write_pictures(tmp_path, ["0.png", "1.png", "2.png"], size=SIZE)
    (tmp_path / "2.png").write_bytes(b"torn")
    results = segment(tmp_path, segmenter)
    assert [next(results).title, next(results).title] == ["0", "1"]
    with pytest.raises(UserError, match="2.png: not a readable picture"):
        next(results)
    results.close()
    with pytest.raises(UserError, match="nowhere.mp4: no such file; source takes a video file"):
        segment("nowhere.mp4", segmenter)


def test_save_keeps_times_and_sound(segmenter, tmp_path):
    times = [i / 10 for i in range(6)] + [2.5 + i / 10 for i in range(6)]
    source = encoded(tmp_path / "in.mp4", FRAMES, times=times, sound="aac", click=1, seconds=3.0)
    segment(source, segmenter).save(tmp_path / "out.mp4")
    assert times_of(tmp_path / "out.mp4") == pytest.approx(times, abs=1e-3)
    assert heard_at(tmp_path / "out.mp4") == pytest.approx(1, abs=3e-3)
    segment(source, segmenter, start=0.5, end=2.7, stride=2).save(str(tmp_path / "part.mkv"), codec="lossless")
    assert times_of(tmp_path / "part.mkv") == pytest.approx([0, 2.1], abs=2e-3)
    assert heard_at(tmp_path / "part.mkv") == pytest.approx(0.5, abs=3e-3)
    (_, x), y = segment(source, segmenter, end=0.2), next(iter(open_frames(str(tmp_path / "part.mkv"))))
    assert y.shape == x.overlay().shape
    segment(source, segmenter).save(tmp_path / "silent.mp4", sound=None)
    with pytest.raises(IndexError):
        heard_at(tmp_path / "silent.mp4")


def test_segmenter_by_name(tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    source = write_video(tmp_path / "in.mp4", 4, size=SIZE)
    results = list(segment(source, f"{tmp_path}/net.py:build"))
    assert [x.is_keyframe for x in results] == [True, False, False, True]
    assert all(x.labels.max() < 3 and x.overlay().shape == (*SIZE, 3) for x in results)
    with pytest.raises(UserError, match="this method carries labels; use one that carries logits"):
        results[1].probabilities()
    with pytest.raises(UserError, match="no segmenter|swiftnett"):
        segment(source, "swiftnett")
