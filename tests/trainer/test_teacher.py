"""The teacher's pass over videos without labels: what it keeps, that it goes on where it stopped, and full disks."""
import errno
import io
import json
import os
import shutil
from collections import namedtuple
from itertools import zip_longest

import cv2
import numpy as np
import pytest
import torch

from config.cityscapes import CITYSCAPES
from config.errors import UserError
from dataloaders.clips import ClipDataset
from dataloaders.taught_clips import BEGINS, FOLLOWS, REPEATS, UNKNOWN
from evaluation.unlabelled import video_parts
from inference.engines import Engine
from inference.keyframe_schedule import FixedInterval
from inference.stream import VideoSegmenter
from models.load import networks_for_training
from models.resize import grid_size
from tests.films import opened, panning, write_frames, write_video
from tests.taught import SIZE, contents, engine_of, options_of, prepared, tiny_segmenter
from trainer import teacher_cache
from trainer.teacher import keep_arrays, labelled_by_teacher, run, teacher_pass
from trainer.teacher_cache import BATCH, Pass, chosen_frames
from utils.distributed import Ranks

B, F, R, U = BEGINS, FOLLOWS, REPEATS, UNKNOWN
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def segnet(tmp_path_factory):
    return tiny_segmenter(tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="module")
def net(segnet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    return networks_for_training(options_of(folder, folder, folder, "--segnet", segnet), None).eval()


@pytest.fixture
def settled(segnet, tmp_path):
    """Options of a training on all frames of a folder, with the cache in a folder of its own."""

    def of(frames, cache="cache", *more):
        data = write_frames(tmp_path / "film", frames)
        where = ("--val-path", data, "--cache-dir", tmp_path / cache, "--segnet", segnet)
        return options_of(data, tmp_path, tmp_path, *where, *more)

    return of


@pytest.fixture
def segmented(monkeypatch):
    """The frames that an engine segments, as they come."""
    found, first = [], Engine.first

    def counted(self, seen, keyframe=None):
        found.append(seen)
        return first(self, seen, keyframe)

    monkeypatch.setattr(Engine, "first", counted)
    return found


def taught(net, options, **how) -> list[Pass]:
    settings = {"pictures": False} | how
    return teacher_pass(net, video_parts(options, "train"), options, CPU, Ranks(), CITYSCAPES, **settings)


def states_of(each):
    return each.states().tolist()


def film(*steps, seed=0):
    return panning([*steps], seed=seed, size=SIZE)


@torch.inference_mode()
def test_kept_is_what_inference_finds_in_whole_frames(net, settled):
    frames = film(2, 3, 2, 1)
    options = settled(frames)
    (each,) = taught(net, options)
    segmenter = VideoSegmenter(net, schedule=FixedInterval(1), scale=options.scale)
    engine, arrays = segmenter.engine, each.video.arrays
    assert arrays["logits"].shape[1:] == (19, 6, 8) == (19, *grid_size(*SIZE))
    before = None
    for row, frame in enumerate(frames):
        segmenter(frame)
        seen = engine.see(torch.from_numpy(frame)[None], before)
        assert np.array_equal(arrays["logits"][row], segmenter.logits().astype(np.float16))
        assert np.array_equal(arrays["view"][row], seen.view[0].half())
        assert np.array_equal(arrays["flow"][row], seen.flow[0].half() if row else np.zeros((2, 6, 8)))
        before = seen
    assert abs(arrays["flow"][1:, 0].astype(float).mean()) > 0.1
    assert each.video.size == SIZE and each.video.names == [f"film/{number:03}" for number in range(5)]


@torch.inference_mode()
def test_cuts_begin_scenes_and_repeated_frames_are_passed_over(net, settled, segmented):
    one, other = film(2, 2, 2), film(1, 1, seed=5)
    frames = [one[0], one[1], one[1], one[1], one[2], *other, other[-1], one[3]]
    (each,) = taught(net, settled(frames))
    assert states_of(each) == [B, F, R, R, F, B, F, F, R, B]
    assert len(segmented) == 7
    dis, flow = net.flow, each.video.arrays["flow"]
    found = dis.between(dis.look(frames[1]), dis.look(frames[4]), (6, 8))  # over the repetitions
    assert np.array_equal(flow[4], found.astype(np.float16))
    assert not flow[2].any() and not each.video.arrays["logits"][2].any()


@pytest.mark.parametrize("lengths, wanted, run, expected", [
    ([5, 3], 0, 2, [[0, 1, 2, 3, 4], [0, 1, 2]]),
    ([5, 3], 8, 2, [[0, 1, 2, 3, 4], [0, 1, 2]]),
    ([20], 4, 2, [[0, 1, 10, 11]]),
    ([20, 20], 8, 2, [[0, 1, 10, 11], [0, 1, 10, 11]]),
    ([20, 20], 7, 2, [[0, 1, 10, 11], [0, 1, 10, 11]]),
    ([30, 10], 12, 3, [[0, 1, 2, 10, 11, 12, 20, 21, 22], [0, 1, 2]]),
    ([11, 9], 5, 5, [[0, 1, 2, 3, 4], []]),
    ([10, 10], 15, 5, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 6, 7]]),
])
def test_some_frames_are_spread_over_all_videos(lengths, wanted, run, expected):
    assert chosen_frames(lengths, wanted, run) == expected


@pytest.mark.parametrize("wanted", [1, 7, 64, 333, 900])
def test_about_as_many_frames_as_wanted(wanted):
    chosen = chosen_frames([100, 1, 500, 0, 399], wanted, 5)
    assert wanted - 20 <= sum(map(len, chosen)) < wanted + 5  # runs at the videos' ends may overlap
    assert all(numbers == sorted({*numbers}) for numbers in chosen)


def test_gaps_between_chosen_frames_begin_scenes(net, settled):
    (each,) = taught(net, settled(film(*[1] * 15), "cache", "--frames", 6))
    assert [*each.numbers] == [0, 1, 2, 8, 9, 10] and states_of(each) == [B, F, F, B, F, F]
    assert not each.video.arrays["flow"][3].any()


FRAMES = [1] * 9 + [0, 0] + [2] * 12  # steps: 24 frames, of which two are repetitions


@pytest.mark.parametrize("done", [1, 5, BATCH + 3])
def test_stopped_pass_goes_on_and_finds_the_same(net, settled, segmented, done):
    whole, part = (settled(film(*FRAMES), cache) for cache in ("whole", "part"))
    taught(net, whole)
    engine, (each,) = engine_of(net, part), prepared(net, part)
    rows = run(each, engine, range(24), keep_arrays)
    for _ in range(done):
        next(rows)
    rows.close()
    first = len(segmented)
    assert [state != U for state in states_of(each)] == [row < done for row in range(24)]
    taught(net, part)
    assert len(segmented) == 2 * 22 and first > 22  # none twice; repetitions not at all
    assert contents(each.video.folder.parent) == contents(each.video.folder.parent.with_name("whole"))
    before = len(segmented)
    taught(net, part)
    assert len(segmented) == before  # again: nothing to do


def fading():
    """Frames that change too little from one to the next to count as new, and yet drift away."""
    frames, mask = [film()[0]], np.random.default_rng(0).integers(0, 10, SIZE)
    for number in range(29):
        frames.append(frames[-1] + (mask == number % 10)[..., None].astype(np.uint8))
    return frames


@pytest.mark.parametrize("shares", [(range(12), range(12, 24)), (range(15, 24), range(15)), (range(10), range(10, 24))])
@pytest.mark.parametrize("at_once", [False, True])
def test_shares_of_several_processes_make_the_same_files(net, settled, shares, at_once):
    """The repetitions are at the seam, or within the frames that are looked at before it."""
    whole, part = (settled(film(*FRAMES), cache) for cache in ("whole", "part"))
    taught(net, whole)
    (each,) = prepared(net, part)
    passes = [run(each, engine_of(net, part), share, keep_arrays) for share in shares]
    for _ in zip_longest(*passes) if at_once else (row for one in passes for row in one):
        pass
    assert contents(each.video.folder) == contents(each.video.folder.parent.with_name("whole") / each.video.folder.name)


@pytest.mark.parametrize("begin", [11, 13, 14])
def test_slow_changes_are_judged_alike_in_every_share(net, settled, begin):
    whole, part = (settled(fading(), cache) for cache in ("whole", "part"))
    (expected,) = taught(net, whole)
    assert states_of(expected) == [B, *[R] * 29]
    (each,) = prepared(net, part)
    for share in (range(begin), range(begin, 30)):
        for _ in run(each, engine_of(net, part), share, keep_arrays):
            pass
    assert states_of(each) == states_of(expected)


def test_cut_after_many_repetitions_is_judged_alike_in_every_share(net, settled):
    frames = [*film(1, 1), *[film(1, 1)[-1]] * 12, *film(1, 1, seed=5)]
    whole, part = (settled(frames, cache) for cache in ("whole", "part"))
    (expected,), (each,) = taught(net, whole), prepared(net, part)
    for share in (range(14), range(14, 18)):
        for _ in run(each, engine_of(net, part), share, keep_arrays):
            pass
    assert states_of(each) == states_of(expected) == [B, F, F, *[R] * 12, B, F, F]


@pytest.mark.parametrize("change", ["weights", "a frame", "the scale", "DIS", "the number of frames"])
def test_what_changes_the_logits_changes_the_folder(net, settled, segmented, change, tmp_path):
    options = settled(film(1, 1, 1, 1, 1, 1))
    (each,) = taught(net, options)
    segmented.clear()
    more = {"the scale": ("--scale", 0.5), "DIS": ("--dis-side", 32), "the number of frames": ("--frames", 3)}
    options = settled(film(1, 1, 1, 1, 1, 1), "cache", *more.get(change, ()))
    other = net
    if change == "weights":
        other = networks_for_training(options, None).eval()
        next(other.segmenter.parameters()).data.mul_(1.5)
    if change == "a frame":
        path = tmp_path / "film" / "003.png"
        cv2.imwrite(str(path), cv2.imread(str(path)) // 2)
    (again,) = taught(other, options)
    assert again.video.folder != each.video.folder and len(segmented) == len(again.numbers)


def test_copied_or_touched_frames_are_the_same(net, settled, segmented, tmp_path):
    options = settled(film(1, 1))
    (each,) = taught(net, options)
    for path in (tmp_path / "film").iterdir():
        os.utime(path, (1, 1))
    (again,) = taught(net, options)
    assert again.video.folder == each.video.folder and len(segmented) == 3


def test_damaged_note_of_frames_is_made_again(net, settled, segmented, tmp_path):
    options = settled(film(1, 1))
    taught(net, options)
    (note,) = (tmp_path / "cache" / "frames").iterdir()
    good = note.read_text()
    note.write_text("{")
    taught(net, options)
    assert note.read_text() == good and len(segmented) == 3 and set(json.loads(good)) == {"digest", "height", "width"}


Disk = namedtuple("Disk", "total used free")


@pytest.mark.parametrize("missing", [0, 1])
def test_space_is_announced_and_refused_before_the_work(net, settled, segmented, monkeypatch, tmp_path, missing):
    needed = 5 * 2 * (19 + 3 + 2) * 6 * 8
    options = settled(film(1, 1, 1, 1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(2**40, 0, needed - missing))
    told: list[str] = []
    monkeypatch.setattr(teacher_cache.logger, "info", lambda text, *values: told.append(text % values))
    if missing:
        with pytest.raises(UserError, match=f"{tmp_path / 'cache'}: too little space .*--cache-dir.*--teacher-cache 0"):
            taught(net, options)
        assert not segmented and not [*(tmp_path / "cache").rglob("*.npy")]
    else:
        (each,) = taught(net, options)
        assert sum(x.nbytes for x in each.video.arrays.values()) == each.bytes == needed
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(2**40, 0, 0))
        taught(net, options)  # nothing is to be added
    assert told[0].startswith(f"teacher: 5 frames of 1 videos, 0.00 GiB in {tmp_path / 'cache'}, of which")


def test_space_of_a_pass_that_was_stopped_is_still_needed(net, settled, monkeypatch):
    """Its files have their size, but take no space yet."""
    options = settled(film(1, 1, 1, 1))
    prepared(net, options)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(2**40, 0, 0))
    with pytest.raises(UserError, match="too little space"):
        taught(net, options)


class Full(io.FileIO):
    """A file on a disk that is full after so many bytes."""

    left = 0

    def write(self, content):
        if self.left < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= len(content)
        return super().write(content)


@pytest.mark.parametrize("name, rows", [("logits", 0), ("logits", 3), ("logits", BATCH + 2), ("view", 5), ("flow", 20)])
def test_full_disk_is_named_and_nothing_counts_that_is_not_there(net, settled, monkeypatch, segmented, name, rows):
    whole, part = (settled(film(*FRAMES), cache) for cache in ("whole", "part"))
    (expected,) = taught(net, whole)

    def opened_when_full(path, mode="r", **how):
        if mode != "r+b" or path.name != f"{name}.npy":
            return open(path, mode, **how)
        file = Full(path, "r+")
        file.left = rows * expected.video.arrays[name][0].nbytes + 10
        return io.BufferedRandom(file)

    with monkeypatch.context() as patched:
        patched.setattr(teacher_cache, "open", opened_when_full, raising=False)
        with pytest.raises(UserError, match=r"cache|part.*cannot be written \(No space left on device\); free some"):
            taught(net, part)
    (each,) = prepared(net, part)
    done = [row for row, state in enumerate(states_of(each)) if state != U]
    assert len(done) <= rows + 2
    for key, x in each.video.arrays.items():
        assert np.array_equal(x[done], expected.video.arrays[key][done]), key
    taught(net, part)
    assert contents(each.video.folder) == contents(expected.video.folder)


def test_rows_count_when_they_are_on_the_disk(net, settled, monkeypatch):
    (each,) = prepared(net, settled(film(*FRAMES)))
    states, fsync = [], os.fsync

    def watched(number):
        states.append(each.states().any())
        fsync(number)

    monkeypatch.setattr(os, "fsync", watched)
    for _ in run(each, engine_of(net, settled(film(*FRAMES))), range(BATCH), keep_arrays):
        pass
    assert states and not any(states[:4])


@pytest.mark.parametrize("name", ["state", "logits"])
def test_damaged_file_of_the_cache_is_named_in_one_line(net, settled, name):
    options = settled(film(1, 1, 1))
    (each,) = taught(net, options)
    (each.video.folder / f"{name}.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"{name}.npy: cannot be read .*; delete {each.video.folder}, and it is made"):
        (again,) = taught(net, options)
        again.video.arrays  # noqa: B018


def test_frames_of_two_sizes_are_refused(net, settled):
    frames = [*film(1), *panning([1], size=(32, 48))]
    with pytest.raises(UserError, match="film/002 has 48 x 32 pixels, but film/000 of the same video 64 x 48"):
        taught(net, settled(frames))


@pytest.mark.parametrize("kind", ["pictures", "video"])
def test_pictures_are_kept_with_the_label_maps_of_inference(net, segnet, tmp_path, kind):
    data, frames = tmp_path / "film.mp4", film(2, 2, 2)
    if kind == "video":
        frames = opened(write_video(data, count=4, size=SIZE))[2]
    else:
        data = write_frames(tmp_path / "film", frames)
    options = options_of(data, tmp_path, tmp_path, "--val-path", data, "--segnet", segnet)
    passes = taught(net, options, pictures=True)
    found = labelled_by_teacher(passes, past=2)
    segmenter = VideoSegmenter(net, schedule=FixedInterval(1), scale=options.scale)
    assert [len(frame.frames) for frame in found] == [1, 2, 3, 3]
    for frame, image in zip(found, frames, strict=True):
        assert np.array_equal(cv2.imread(str(frame.frames[-1]))[..., ::-1], image)
        assert frame.frames[-1].is_relative_to(tmp_path / "film") == (kind == "pictures")
    clips = ClipDataset(found, 0, CITYSCAPES)
    assert all(np.array_equal(item["label"], segmenter(image)) for item, image in zip(clips, frames))
    assert not [*passes[0].video.folder.glob("logits.npy")]


def test_val_is_not_trained_on(net, segnet, tmp_path):
    data = write_frames(tmp_path / "film", film(*[1] * 14))
    (each,) = taught(net, options_of(data, tmp_path, tmp_path, "--segnet", segnet))
    assert each.video.names == [f"film/{number:03}" for number in range(10)]  # the gap is as long as a clip of 3 frames
    assert each.video.folder.is_relative_to(tmp_path / "logs" / "teacher")
