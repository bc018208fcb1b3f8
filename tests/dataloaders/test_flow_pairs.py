"""True flow on the propagation grid: units, direction, and weight of a cell."""
import dataclasses

import cv2
import numpy as np
import pytest
import torch

from config.errors import UserError
from dataloaders.clips import LabelledFrame
from dataloaders.flow_pairs import FlowDataset
from dataloaders.loaders import labelled_frames
from streets import write_flow
from tests import pictures
from utils.logging import logger

DOOR = "Data"


def item(folder, flow, valid, stride=8):
    height, width = valid.shape
    for name, value in (("a.png", 1), ("b.png", 2)):
        cv2.imwrite(str(folder / name), np.full((height, width, 3), value, np.uint8))
    write_flow(folder / "f.png", flow, valid)
    frame = LabelledFrame("x", (folder / "a.png", folder / "b.png"), folder / "l.png", "p.png", folder / "f.png")
    return FlowDataset([frame], stride)[0]


def constant(size, x, y):
    return np.full((*size, 2), (x, y), np.float32)


@pytest.mark.parametrize("size", [(32, 64), (36, 60), (33, 71)])
def test_constant_flow_is_scaled_by_the_grid_on_each_axis(tmp_path, size):
    found = item(tmp_path, constant(size, 12, -6), np.ones(size, bool))
    h, w = size[0] // 8, size[1] // 8
    assert found["flow"].shape == (2, h, w) and found["flow"].dtype == torch.float32
    assert torch.allclose(found["flow"][0], torch.tensor(12 * w / size[1]), atol=1e-3)
    assert torch.allclose(found["flow"][1], torch.tensor(-6 * h / size[0]), atol=1e-3)


def test_clip_is_previous_then_current(tmp_path):
    clip = item(tmp_path, constant((16, 16), 0, 0), np.ones((16, 16), bool))["clip"]
    assert clip.shape == (2, 16, 16, 3) and clip.flatten(1).unique(dim=1).tolist() == [[1], [2]]


def test_cell_without_valid_pixels_has_no_weight_and_a_finite_flow(tmp_path):
    valid = np.ones((16, 16), bool)
    valid[:8, 8:] = False
    found = item(tmp_path, constant((16, 16), 8, 8), valid)
    assert found["valid"].tolist() == [[[1, 0], [1, 1]]]
    assert found["flow"].isfinite().all()


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_weight_is_the_share_of_valid_pixels(tmp_path, rows):
    valid = np.zeros((8, 8), bool)
    valid[:rows] = True
    assert item(tmp_path, constant((8, 8), 0, 0), valid)["valid"].item() == pytest.approx(rows / 8)


def test_flow_of_a_cell_is_the_mean_over_its_pixels(tmp_path):
    flow = constant((8, 8), 0, 0)
    flow[:, 4:, 0] = 16
    assert item(tmp_path, flow, np.ones((8, 8), bool))["flow"][0].item() == pytest.approx(1.0)


def test_picture_smaller_than_a_cell_has_one(tmp_path):
    assert item(tmp_path, constant((4, 6), 0, 0), np.ones((4, 6), bool))["flow"].shape == (2, 1, 1)


def test_frames_without_flow_or_past_are_skipped(streets):
    assert len(FlowDataset(labelled_frames(dataset="synthetic", root=streets, split="train", past=1), 8)) == 3 * 5
    assert len(FlowDataset(labelled_frames(dataset="synthetic", root=streets, split="train", past=0), 8)) == 0


@pytest.fixture
def pair(tmp_path) -> LabelledFrame:
    """Two frames of 16 x 24 pixels and the flow between them."""
    item(tmp_path, constant((16, 24), 3, -2), np.ones((16, 24), bool))
    return LabelledFrame("x", (tmp_path / "a.png", tmp_path / "b.png"), tmp_path / "l.png", "p.png", tmp_path / "f.png")


def refusal(frame: LabelledFrame) -> str:
    with pytest.raises(UserError) as caught:
        FlowDataset([frame], 8)[0]
    assert str(caught.value).startswith(f"{frame.flow}: ") and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{frame.flow}: ")


@pytest.mark.tried(
    DOOR, "flow file that is missing, empty, text, or a huge picture by its header", "refused in one line"
)
@pytest.mark.parametrize(
    "content, message",
    [(None, "cannot be opened"), (b"", "not a readable picture (0 bytes)"),
     (b"no flow", "not a readable picture (7 bytes)"),
     (pictures.png(65535, 65535, bytes(50), bits=16, kind=2), "65535 x 65535 pixels by its header"),
     (pictures.png(24, 16, bytes(50), bits=16, kind=2), "not a readable picture")],
)
def test_unreadable_flow_file_is_named(pair, content, message):
    pair.flow.unlink() if content is None else pair.flow.write_bytes(content)
    assert refusal(pair).startswith(message)


@pytest.mark.tried(DOOR, "another picture in place of a flow file: 8 bits, grey, with alpha", "refused in one line")
@pytest.mark.parametrize(
    "shape, kind", [((16, 24, 3), np.uint8), ((16, 24), np.uint16), ((16, 24, 4), np.uint16), ((16, 24), np.uint8)]
)
def test_picture_in_place_of_a_flow_is_refused(pair, shape, kind):
    cv2.imwrite(str(pair.flow), np.ones(shape, kind))
    message = "not a flow PNG, which has three 16-bit channels; remove its folder and generate the data again"
    assert refusal(pair) == message


@pytest.mark.tried(DOOR, "flow of another size than its frames", "refused in one line")
@pytest.mark.parametrize("size", [(8, 12), (24, 16), (16, 25)])
def test_flow_of_another_size_is_refused(pair, size):
    write_flow(pair.flow, constant(size, 0, 0), np.ones(size, bool))
    message = f"{size[1]} x {size[0]} pixels, but its frame {pair.frames[-1]} has 24 x 16; save it at"
    assert refusal(pair).startswith(message)


@pytest.mark.tried(DOOR, "every byte of a flow file changed", "refused in one line")
def test_a_wrong_byte_in_a_flow_is_refused(pair, outcomes):
    whole = pair.flow.read_bytes()
    for place in range(len(whole)):
        pair.flow.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert refusal(pair).startswith("not a readable picture")
        outcomes["refused in one line"] += 1


@pytest.mark.tried(
    DOOR, "flow file missing in the middle of a sequence", "its frame skipped, and the number of such logged"
)
def test_missing_flow_is_counted(streets, monkeypatch):
    said = []
    monkeypatch.setattr(logger, "info", lambda text, *words: said.append(text % words))
    frames = labelled_frames(dataset="synthetic", root=streets, split="train", past=1)
    assert len(FlowDataset(frames, 8)) == 15 and not said  # nothing about the first frame of each sequence
    frames[3] = dataclasses.replace(frames[3], flow=None)
    assert len(FlowDataset(frames, 8)) == 14
    assert said == ["flow: 1 of 15 labelled frames with a previous one have no true flow"]
