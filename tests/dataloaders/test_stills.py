"""Clips made from stills: exact labels, true flow, objects that cover and uncover, reproducible."""
import cv2
import numpy as np
import pytest
import torch

from config.camvid import CAMVID
from dataloaders import stills
from dataloaders.clips import LabelledFrame
from dataloaders.stills import MadeClips, StillsDataset, find_objects, mirrored
from models.warp import sample_at

SKY, BUILDING, ROAD, CAR = (CAMVID.classes.index(name) for name in ("sky", "building", "road", "car"))
SIZE = (96, 128)
ROWS, COLUMNS = (np.arange(side, dtype=np.float32) for side in SIZE)


def scene(seed=0):
    """A picture with texture everywhere, a street under a sky, and two cars on it; its label and objects."""
    rng = np.random.default_rng(seed)
    label = np.full(SIZE, BUILDING, np.uint8)
    label[:30], label[50:] = SKY, ROAD
    label[46:58, 30:48], label[60:84, 80:108] = CAR, CAR
    image = cv2.GaussianBlur(rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8), (0, 0), 2.5)
    image = cv2.normalize(image, None, 20, 235, cv2.NORM_MINMAX)
    image[label == CAR] //= 2
    objects = find_objects(label, [CAR])
    return tuple(torch.from_numpy(x)[None] for x in (image, label, objects))


def make(*, seeds=((1, 2),), steps=4, parts=None, **changes):
    image, label, objects = parts or scene()
    many = (len(seeds),)
    return MadeClips(
        image.expand(*many, -1, -1, -1), label.expand(*many, -1, -1), objects.expand(*many, -1, -1), steps, CAMVID,
        seeds=seeds,
    )


@pytest.fixture
def clean(monkeypatch):
    """Without noise, blur and drift, so that pixels can be compared."""
    monkeypatch.setattr(stills, "exposed", lambda frame, shots, dense: frame)


def test_objects_are_regions_from_far_to_near_that_do_not_touch_the_edge():
    label = np.full(SIZE, ROAD, np.uint8)
    label[60:90, 10:40], label[20:32, 60:80], label[36:52, :8], label[2:5, 100:103] = CAR, CAR, CAR, CAR
    objects = find_objects(label, [CAR])
    assert objects[25, 70] == 1 and objects[70, 20] == 2  # the lower is nearer and painted last
    assert objects[45, 5] == 0 and objects[3, 101] == 0  # cut by the edge; too small
    assert objects.max() == 2 and (objects[label != CAR] == 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_the_flow_leads_to_the_same_point_of_the_previous_frame(clean, seed):
    made = make(seeds=[(seed,)])
    before, (flow, visible) = made.frame(1, ROWS, COLUMNS), made.flow(ROWS, COLUMNS)
    last = scene()[0].permute(0, 3, 1, 2).float()
    fetched = sample_at(before, torch.from_numpy(COLUMNS) + flow[:, 0], torch.from_numpy(ROWS)[:, None] + flow[:, 1])
    moved = (fetched - last).abs().mean(1)[visible]
    stayed = (before - last).abs().mean(1)[visible]
    assert visible.float().mean() > 0.75
    assert moved.mean() < 0.35 * stayed.mean() + 1.0  # the rest is interpolation and borders of depth


def test_objects_move_against_the_scene_and_hide_and_show_it():
    covered = uncovered = moved = 0
    for seed in range(8):
        made = make(seeds=[(seed,)])
        flow, visible = made.flow(ROWS, COLUMNS)
        owner = made._owners(1, *made._points(ROWS, COLUMNS), None)
        objects = scene()[2]
        covered += int((~visible & (objects == 0)).sum())
        uncovered += int(((owner == 0) & (objects > 0)).sum())
        inner, around = flow[0, :, 64:80, 84:104], flow[0, :, 88:94, 84:104]
        moved += float((inner.mean((1, 2)) - around.mean((1, 2))).norm()) > 0.5
    assert covered > 50 and uncovered > 50 and moved >= 4


def test_hidden_ground_has_the_colours_around_it():
    image, _, objects = scene()
    image = torch.full_like(image, 90)
    image[objects > 0] = 250
    behind = stills.without_objects(image.permute(0, 3, 1, 2).float(), objects)
    assert (behind - 90).abs().max() < 1


def test_the_same_seed_makes_the_same_clip_in_any_batch():
    alone, together = make(seeds=[(5, 1)]), make(seeds=[(3, 3), (5, 1)])
    first, second = alone.frame(2, ROWS, COLUMNS), together.frame(2, ROWS, COLUMNS)
    assert torch.equal(first[0], second[1]) and not torch.equal(second[0], second[1])


def test_depth_reaches_the_edges_and_the_flow_inverts_the_motion():
    for seed in range(10):
        made = make(seeds=[(seed,)])
        at_x, at_y = made._points(ROWS, COLUMNS)
        flow, visible = made.flow(ROWS, COLUMNS)
        back_x, back_y = made._scene(1, at_x + flow[:, 0], at_y + flow[:, 1])
        scene_only = visible & (scene()[2] == 0)
        gap = torch.maximum((back_x - at_x).abs(), (back_y - at_y).abs())[scene_only]
        assert gap.max() < 0.25 and gap.mean() < 0.01
        x, y = made._scene(4, at_x, at_y)
        assert ((x[0, -1] - x[0, -4]).abs() < 6).all() and ((y[0, :, -1] - y[0, :, -4]).abs() < 6).all()


def test_a_frame_does_not_depend_on_the_order_of_calls():
    made = make()
    first = made.frame(2, ROWS, COLUMNS)
    made.frame(1, ROWS, COLUMNS)
    assert torch.equal(first, made.frame(2, ROWS, COLUMNS))


def test_only_the_requested_rows_and_columns_are_computed(clean):
    whole = make().frame(3, ROWS, COLUMNS)
    part = make().frame(3, ROWS[8::16], COLUMNS[4::8][::-1].copy())
    assert part.shape == (1, 3, 6, 16)
    assert torch.allclose(part, whole[:, :, 8::16, 4::8].flip(-1), atol=1e-3)


def test_earlier_frames_are_farther_from_the_last():
    far = [0.0] * 4
    for seed in range(6):
        made = make(seeds=[(seed,)])
        last = scene()[0].permute(0, 3, 1, 2).float()
        for back in range(1, 5):
            far[back - 1] += float((made.frame(back, ROWS, COLUMNS) - last).abs().mean())
    assert far == sorted(far) and far[0] > 6


def test_points_beyond_the_edge_are_mirrored():
    x, y = mirrored(torch.tensor([-2.0, 3.0, 9.0, 11.0]), torch.tensor([0.0, -1.0, 4.0, 5.5]), (5, 10))
    assert x.tolist() == [2.0, 3.0, 9.0, 7.0] and y.tolist() == [0.0, 1.0, 4.0, 2.5]


def test_items_have_the_inputs_of_a_clip(tmp_path):
    image, label, objects = (x[0].numpy() for x in scene())
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "l.png"), label)
    item = StillsDataset([LabelledFrame("a", (tmp_path / "a.png",), tmp_path / "l.png", "p.png")], 3, CAMVID)[0]
    assert item["clip"].shape == (1, *SIZE, 3) and item["steps"] == 3
    assert (item["objects"].numpy() == objects).all() and item["objects"].max() == 2
