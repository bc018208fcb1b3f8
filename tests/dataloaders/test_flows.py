"""True flow at the propagation grid: units, direction, and how sure a cell is."""
import cv2
import numpy as np
import pytest
import torch

from config.errors import UserError
from dataloaders.build import labelled_frames
from dataloaders.clips import LabelledFrame
from dataloaders.flows import FlowDataset
from dataloaders.synthetic import write_flow


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


def test_flow_of_a_cell_is_the_mean_of_its_pixels(tmp_path):
    flow = constant((8, 8), 0, 0)
    flow[:, 4:, 0] = 16
    assert item(tmp_path, flow, np.ones((8, 8), bool))["flow"][0].item() == pytest.approx(1.0)


def test_picture_smaller_than_a_cell_has_one(tmp_path):
    assert item(tmp_path, constant((4, 6), 0, 0), np.ones((4, 6), bool))["flow"].shape == (2, 1, 1)


def test_frames_without_flow_or_past_are_left_out(streets):
    assert len(FlowDataset(labelled_frames(dataset="synthetic", root=streets, split="train", past=1), 8)) == 3 * 5
    assert len(FlowDataset(labelled_frames(dataset="synthetic", root=streets, split="train", past=0), 8)) == 0


def test_unreadable_flow_file_is_named(tmp_path):
    item(tmp_path, constant((8, 8), 0, 0), np.ones((8, 8), bool))
    (tmp_path / "f.png").write_bytes(b"")
    frame = LabelledFrame("x", (tmp_path / "a.png", tmp_path / "b.png"), tmp_path / "l.png", "p.png", tmp_path / "f.png")
    with pytest.raises(UserError, match="f.png: not a readable"):
        FlowDataset([frame], 8)[0]
