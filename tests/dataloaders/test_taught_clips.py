"""Clips of videos that a segmenter has segmented once: where they begin and end, what they hold, how much they take."""
import pickle
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from config.cityscapes import CITYSCAPES
from config.errors import UserError
from dataloaders.taught_clips import ARRAYS, BEGINS, FOLLOWS, REPEATS, UNKNOWN, TaughtClips, grid_crop, labels_of
from tests.taught import made_video

B, F, R, U = BEGINS, FOLLOWS, REPEATS, UNKNOWN
LONG = 100_000  # rows


def clips_of(clips):
    """The rows of each clip, as its items say."""
    return [[round(float(x)) for x in item["views"][:, 0, 0, 0]] for item in clips]


@pytest.mark.parametrize("states, interval, expected", [
    ([B, F, F, F], 1, [[0, 1], [1, 2], [2, 3]]),
    ([B, F, F, F], 3, [[0, 1, 2, 3]]),
    ([B, F, B, F, F], 1, [[0, 1], [2, 3], [3, 4]]),  # a cut
    ([B, F, B, F, F], 2, [[2, 3, 4]]),
    ([B, R, F, R, R, F], 1, [[0, 2], [2, 5]]),  # over repetitions
    ([B, R, F, R, R, F], 2, [[0, 2, 5]]),
    ([B, F, R, B, R, F], 1, [[0, 1], [3, 5]]),
    ([B, B, B], 1, []),
    ([B], 1, []),
    ([R, R], 1, []),
    ([B, F, U, U], 1, [[0, 1]]),
])
def test_clips_stay_in_one_scene_and_leave_out_repetitions(tmp_path, states, interval, expected):
    clips = TaughtClips([made_video(tmp_path / "a", states)], interval, CITYSCAPES)
    assert clips_of(clips) == expected and len(clips) == len(expected)


def test_clips_stay_in_one_video(tmp_path):
    videos = [made_video(tmp_path / name, states) for name, states in (("a", [B, F]), ("b", [B, R]), ("c", [B, F, F]))]
    clips = TaughtClips(videos, 1, CITYSCAPES)
    assert clips_of(clips) == [[0, 1], [0, 1], [1, 2]]
    assert [item["name"] for item in clips] == ["a/001", "c/001", "c/002"]


def test_item_holds_both_ends_and_the_flow_of_each_step(tmp_path):
    (item,) = TaughtClips([made_video(tmp_path / "a", [B, R, F, F])], 2, CITYSCAPES)
    assert {name: (tuple(x.shape), x.dtype) for name, x in item.items() if name != "name"} == {
        "key": ((2, 3, 4), torch.float16), "teacher": ((2, 3, 4), torch.float16),
        "views": ((3, 3, 3, 4), torch.float16), "flow": ((2, 2, 3, 4), torch.float16), "label": ((3, 4), torch.uint8),
    }
    assert (item["key"] == 0).all() and (item["teacher"] == 3).all()
    assert item["flow"][:, 0, 0, 0].tolist() == [2.5, 3.5]
    assert (item["label"] == CITYSCAPES.ignore).all()


def test_label_is_that_of_the_last_frame_at_the_pixels_nearest_to_the_grids(tmp_path):
    video, labels = made_video(tmp_path / "a", [B, F, F]), tmp_path / "labels"
    ids = np.full((24, 32), 7, np.uint8)  # road
    ids[:, 16:] = 26  # car
    (labels / "a").mkdir(parents=True)
    cv2.imwrite(str(labels / "a" / "001.png"), ids)
    first, second = TaughtClips([video], 1, CITYSCAPES, labels)
    assert first["label"].tolist() == [[0, 0, 13, 13]] * 3
    assert (second["label"] == CITYSCAPES.ignore).all()


def test_names_of_label_maps(tmp_path):
    videos, labels = [made_video(tmp_path / name, [B, F]) for name in "ab"], tmp_path / "labels"
    labels.mkdir()
    (labels / "001.png").touch()
    assert labels_of(labels, videos[:1]) == {"a/001": labels / "001.png"}
    with pytest.raises(UserError, match=r"no label map of a training frame; name them as a/000\.png"):
        labels_of(labels, videos)  # which of the two it belongs to, nobody knows
    (labels / "b").mkdir()
    (labels / "b" / "000.png").touch()
    assert labels_of(labels, videos) == {"b/000": labels / "b" / "000.png"}


@pytest.mark.parametrize("name", [*ARRAYS, "state"])
@pytest.mark.parametrize("damage", ["gone", "short", "no header"])
def test_damaged_file_is_named(tmp_path, name, damage):
    video = made_video(tmp_path / "a", [B, F])
    path = tmp_path / "a" / f"{name}.npy"
    content = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(content[:-1] if damage == "short" else b"nothing")
    with pytest.raises(UserError, match=f"{path}: cannot be read .*; delete {tmp_path / 'a'}"):
        TaughtClips([video], 1, CITYSCAPES)[0]


def test_worker_processes_map_the_arrays_themselves(tmp_path):
    clips = TaughtClips([made_video(tmp_path / "a", [B] + [F] * 999, (16, 16))], 1, CITYSCAPES)
    expected = clips[5]
    sent = pickle.dumps(clips)
    assert len(sent) < 100_000  # the arrays have 3.5 MB
    assert torch.equal(pickle.loads(sent)[5]["views"], expected["views"])


class Names:
    def __len__(self):
        return LONG

    def __getitem__(self, index):
        return f"a/{index}"


def test_long_video_takes_no_object_for_each_frame(tmp_path):
    video = replace(made_video(tmp_path / "a", [B] + [F] * 99, (1, 1)), names=Names())
    np.save(tmp_path / "a" / "state.npy", np.array([B] + [F] * (LONG - 1), np.uint8))
    tracemalloc.start()
    clips = TaughtClips([video], 3, CITYSCAPES)
    blocks = tracemalloc.take_snapshot().statistics("filename")
    tracemalloc.stop()
    assert len(clips) == LONG - 3
    assert sum(block.count for block in blocks) < 2000 and sum(block.size for block in blocks) < 40 * LONG


def test_rectangle_of_the_grid():
    x = torch.arange(24).view(1, 4, 6)
    assert grid_crop(x, 1, 2, (2, 3), False).tolist() == [[[8, 9, 10], [14, 15, 16]]]
    assert grid_crop(x, 1, 2, (2, 3), True).tolist() == [[[10, 9, 8], [16, 15, 14]]]
