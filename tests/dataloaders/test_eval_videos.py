"""Videos to evaluate on: labelled frames joined with their pasts, and labels that do not fit their frame."""
from pathlib import Path

import cv2
import numpy as np
import pytest

from config.errors import UserError
from config.synthetic import SYNTHETIC
from dataloaders.clips import LabelledFrame
from dataloaders.eval_videos import VideoDataset, videos_of
from streets import write_flow

DOOR = "Data"


def labelled(last: int, past: int) -> LabelledFrame:
    """Frame `last` of a video with `past` frames before it."""
    return LabelledFrame(str(last), tuple(Path(str(t)) for t in range(last - past, last + 1)), Path("l"), "p")


def item(folder: Path, frame: tuple[int, int], label: tuple[int, int], ahead: tuple[int, int] | None = None) -> dict:
    cv2.imwrite(str(folder / "f.png"), np.zeros((*frame, 3), np.uint8))
    cv2.imwrite(str(folder / "l.png"), np.full(label, 7, np.uint8))
    if ahead is not None:
        write_flow(folder / "a.png", np.zeros((*ahead, 2), np.float32), np.ones(ahead, bool))
    one = LabelledFrame("x", (folder / "f.png",), folder / "l.png", "p.png", ahead=folder / "a.png" if ahead else None)
    return VideoDataset(videos_of([one]), SYNTHETIC, with_flow=True)[0]


@pytest.mark.tried(
    DOOR, "frame missing in the middle of a sequence", "the past ends there, so no clip crosses the gap"
)
def test_a_gap_begins_a_new_video():
    videos = videos_of([labelled(2, 2), labelled(4, 1), labelled(8, 2)])  # 5 is missing
    assert [[frame.path.name for frame in video] for video in videos] == [["0", "1", "2"], ["3", "4"], ["6", "7", "8"]]
    assert [len(videos_of([labelled(t, min(t, 3)) for t in range(7)])), len(videos_of([]))] == [1, 0]


@pytest.mark.tried(
    DOOR, "label of another size than its frame, in evaluation", "accepted if its aspect ratio is the frame's"
)
@pytest.mark.parametrize(
    "frame, label",
    [((64, 128), (64, 128)), ((64, 128), (32, 64)), ((64, 128), (128, 256)), ((360, 480), (720, 960)),
     ((270, 480), (1080, 1920)), ((37, 91), (18, 45)), ((37, 91), (19, 46)), ((64, 128), (1, 2))],
)
def test_label_of_the_frames_aspect_ratio_is_accepted(tmp_path, frame, label):
    found = item(tmp_path, frame, label)
    assert found["label"].shape == label and (found["label"] == 0).all() and found["image"].shape == (*frame, 3)


@pytest.mark.tried(DOOR, "label of another aspect ratio than its frame, in evaluation", "refused in one line")
@pytest.mark.parametrize(
    "frame, label",
    [((64, 128), (60, 128)), ((64, 128), (128, 64)), ((64, 128), (32, 60)), ((360, 480), (720, 964)),
     ((1024, 2048), (512, 1020)), ((64, 128), (64, 64))],
)
def test_label_of_another_aspect_ratio_is_refused(tmp_path, frame, label):
    with pytest.raises(UserError) as caught:
        item(tmp_path, frame, label)
    sizes = f"{label[1]} x {label[0]} pixels, but its frame {tmp_path}/f.png has {frame[1]} x {frame[0]}; save it at"
    assert str(caught.value).startswith(f"{tmp_path}/l.png: {sizes}")


@pytest.mark.tried(DOOR, "flow of another size than its frames", "refused in one line")
def test_flow_ahead_has_the_size_of_its_frame(tmp_path):
    assert item(tmp_path, (16, 24), (16, 24), (16, 24))["ahead"].shape == (16, 24, 2)
    with pytest.raises(UserError, match=f"{tmp_path}/a.png: 12 x 8 pixels, but its frame {tmp_path}/f.png has 24 x 16"):
        item(tmp_path, (16, 24), (16, 24), (8, 12))
