"""Labels of another kind than the data set's: trainIds, the ids of other data, only void."""
import cv2
import numpy as np
import pytest

from config.camvid import CAMVID
from config.cityscapes import CITYSCAPES
from config.errors import UserError
from config.synthetic import SYNTHETIC
from dataloaders.clips import LabelledFrame
from dataloaders.label_check import check_label_kind, wrong_kind

DOOR = "Data"


def counted(*ids: int) -> np.ndarray:
    return np.bincount(ids, minlength=256)


def frames(folder, *labels) -> list[LabelledFrame]:
    """Labelled frames whose labels hold these ids; bytes stand for a file's content."""
    found = []
    for number, ids in enumerate(labels):
        path = folder / f"{number}.png"
        if isinstance(ids, bytes):
            path.write_bytes(ids)
        else:
            cv2.imwrite(str(path), np.array([ids], np.uint8))
        found.append(LabelledFrame(str(number), (), path, ""))
    return found


@pytest.mark.parametrize(
    "config, ids",
    [(CITYSCAPES, (0, 1, 3, 7, 11, 23)), (CITYSCAPES, (7,)), (CITYSCAPES, (7, 8, 255)), (SYNTHETIC, (0, 7, 11)),
     (CAMVID, (3, 11)), (CAMVID, (0, 1, 2, 255))],
)
def test_labels_of_the_right_kind_are_accepted(config, ids):
    assert wrong_kind(counted(*ids), config) == ""


@pytest.mark.parametrize(
    "config, ids, message",
    [
        (CITYSCAPES, (0, 3, 255), "holds no id of a class of cityscapes_2k, only 0, 3, 255"),
        (CAMVID, (255,), "holds no id of a class of camvid, only 255"),
        (CAMVID, tuple(range(100, 120)),
         "holds no id of a class of camvid, only 100, 101, 102, 103, 104, 105, 106, 107, ..."),
        (CITYSCAPES, (0, 1, 2, 8, 10, 13, 255), "looks like trainIds (0 to 18, 255); labelIds are required"),
        (SYNTHETIC, (0, 7, 18, 255), "looks like trainIds (0 to 18, 255); labelIds are required"),
    ],
)
def test_labels_of_another_kind_are_recognised(config, ids, message):
    assert wrong_kind(counted(*ids), config) == message


@pytest.mark.tried(
    DOOR, "split whose labels are all of another kind: trainIds, other data's ids, void", "refused in one line"
)
@pytest.mark.parametrize(
    "labels, message",
    [([(0, 1, 8, 255), (2, 255)], "looks like trainIds"), ([(0, 255), (3,)], "holds no id"),
     ([(99, 98)], "holds no id"),
     ([b"no picture", (255, 255)], "holds no id")],
)
def test_split_of_another_kind_is_refused(tmp_path, labels, message):
    told = rf"\.png: {message}.*; no label of the split is better; count their ids with --check 1"
    with pytest.raises(UserError, match=told) as caught:
        check_label_kind(frames(tmp_path, *labels), CITYSCAPES)
    assert "\n" not in str(caught.value)


@pytest.mark.tried(
    DOOR, "split with some labels of another kind, or that cannot be read", "accepted; each is reported when it is read"
)
@pytest.mark.parametrize("labels", [[], [(7,)], [(0, 255), (7, 23)], [b"no picture"], [b"", (0,), (11,)]])
def test_one_good_label_is_enough(tmp_path, labels):
    check_label_kind(frames(tmp_path, *labels), CITYSCAPES)


def test_only_the_first_label_is_read_if_it_is_right(tmp_path):
    good = frames(tmp_path, (7,), (8,))
    good[1].label.unlink()
    check_label_kind(good, CITYSCAPES)
