"""Training without labels: what a step sees of a batch, which labels count, and what val decides."""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from config.errors import UserError
from dataloaders.loaders import TrainingLoader
from models import load
from models.load import LEAST_GAIN, chosen_by_val
from models.warp import warp
from tests.films import panning, write_frames
from tests.taught import SIZE, options_of, tiny_segmenter
from trainer.stages.distillation import DistillationStage, compared
from utils.distributed import Ranks

CPU = torch.device("cpu")
SEED = (1, 0, 0, 0)


@pytest.fixture(scope="module")
def segnet(tmp_path_factory):
    return tiny_segmenter(tmp_path_factory.mktemp("segmenter"))


@pytest.fixture
def film(tmp_path):
    return write_frames(tmp_path / "film", panning([2] * 9, size=SIZE))


@pytest.fixture
def stage_of(segnet, tmp_path):
    """The stage as the program builds it; all frames of `data` are trained on."""

    def build(data, *more):
        words = ("--val-path", data, "--segnet", segnet, *more)
        return DistillationStage(options_of(data, tmp_path, tmp_path, *words), CPU, Ranks(), None)

    return build


def batch_of(stage, interval=2, size=2):
    loader = TrainingLoader(stage.passes, batch=size, workers=0, mixed=stage.options.use_crop)
    return next(loader.start(interval, seed=(1,))[1])


def coded(sizes, steps=2):
    """A batch whose maps all hold the place of each pixel; of several sizes, with lists."""
    found = []
    for height, width in sizes:
        x = torch.arange(height).view(-1, 1) * 16 + torch.arange(width)  # (h,w)
        shapes = {"key": (19,), "teacher": (19,), "views": (steps + 1, 3), "flow": (steps, 2)}
        maps = {name: x.half().expand(*shape, -1, -1) for name, shape in shapes.items()}
        found.append({**maps, "label": x.to(torch.uint8)})
    if len({*sizes}) > 1:
        return {name: [one[name] for one in found] for name in found[0]}
    return {name: torch.stack([one[name] for one in found]) for name in found[0]}


@pytest.mark.parametrize("sizes", [[(12, 16), (12, 16)], [(12, 16), (9, 14)]], ids=["one size", "two sizes"])
@pytest.mark.parametrize("flip", [0, 1])
def test_all_of_a_batch_is_cut_and_flipped_alike(stage_of, film, sizes, flip):
    stage, corners = stage_of(film, "--flip", flip), set()
    for seed in range(20):
        key, teacher, views, flows, label = stage.crops(coded(sizes), np.random.default_rng(seed))
        assert label.shape == (2, 4, 6) and label.dtype == torch.int64 and len(views) == 3 and len(flows) == 2
        for x in (key, teacher, *views):
            assert torch.equal(x, label[:, None].expand_as(x).float())
        for x in flows:
            assert torch.equal(x[:, 0] * (-1 if flip else 1), label.float()) and torch.equal(x[:, 1], label.float())
        across, down = label.diff(dim=2), label.diff(dim=1)
        assert (across == (-1 if flip else 1)).all() and (down == 16).all()
        corners.add(tuple(label[:, 0, -1 if flip else 0].tolist()))
    assert len(corners) > 10
    assert all((first == second) or sizes[0] != sizes[1] for first, second in corners)


def test_without_augmentation_a_batch_is_whole(stage_of, film):
    stage = stage_of(film, "--use-crop", 0)
    key, _, _, flows, label = stage.crops(coded([(12, 16)]), np.random.default_rng(0))
    assert label.shape == (1, 12, 16) and torch.equal(key[0, 0], label[0].float())
    assert torch.equal(flows[0][0, 0], label[0].float())


def test_crop_larger_than_a_frame_takes_all_of_it(stage_of, film):
    stage = stage_of(film, "--crop-height", 768, "--flip", 0)
    *_, label = stage.crops(coded([(12, 16)]), np.random.default_rng(0))
    assert label.shape == (1, 12, 6)


def test_warping_what_is_flipped_is_flipping_what_is_warped(stage_of, film):
    """To the last bit but one; the crop is the whole grid."""
    plain, flipped = (stage_of(film, "--crop-height", 48, "--crop-width", 64, "--flip", flip) for flip in (0, 1))
    batch = batch_of(plain)
    batch["flow"] = batch["flow"] + torch.randn(batch["flow"].shape).half()
    (key, _, _, flows, _), (other, _, _, others, _) = (
        stage.crops(batch, np.random.default_rng(0)) for stage in (plain, flipped)
    )
    assert torch.equal(key.flip(-1), other)
    assert torch.allclose(warp(other, others[0]), warp(key, flows[0]).flip(-1), atol=1e-4)
    assert not torch.allclose(warp(other, others[0] * -1), warp(key, flows[0]).flip(-1), atol=1e-1)


def test_same_seed_gives_the_same_loss(stage_of, film):
    stage = stage_of(film)
    stage.trained.eval()
    batch = batch_of(stage)
    first, again, *others = (float(stage.loss(batch, (1, 0, 0, i))["total"].detach()) for i in (0, 0, 1, 2, 3))
    assert first == again and len({first, *others}) > 2


def test_loss_goes_down_and_the_segmenter_stays(stage_of, film):
    stage = stage_of(film)
    batch, before = batch_of(stage), {name: x.clone() for name, x in stage.net.segmenter.state_dict().items()}
    stage.train_mode()
    losses = []
    for _ in range(12):
        loss = stage.loss(batch, SEED)["total"]
        stage.optimizer.zero_grad()
        loss.backward()
        stage.optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-3:]) < 0.8 * losses[0], losses
    assert all(torch.equal(x, before[name]) for name, x in stage.net.segmenter.state_dict().items())


WAYS = {"cache": (), "live": ("--teacher-cache", 0), "stills": ("--clip-source", "stills")}


@pytest.mark.parametrize("more", WAYS.values(), ids=WAYS)
def test_videos_of_two_sizes_train_in_one_batch(stage_of, tmp_path, more):
    for name, size in (("a", (48, 64)), ("b", (40, 80))):
        write_frames(tmp_path / "videos" / name, panning([2] * 3, size=size))
    stage = stage_of(tmp_path / "videos", *more)
    loader = TrainingLoader(stage.passes, batch=4, workers=0, mixed=True)
    (batch,) = loader.start(1, seed=(1,))[1] if not more else [next(loader.start(1, seed=(1,))[1])]
    assert isinstance(batch["label"], list)
    losses = stage.loss(batch, SEED)
    losses["total"].backward()
    assert bool(losses["total"].detach().isfinite()) and losses["distillation"] > 0


def labels_for(folder, numbers):
    folder.mkdir()
    for number in numbers:
        cv2.imwrite(str(folder / f"{number:03}.png"), np.full(SIZE, 3, np.uint8))
    return folder


def test_labels_count_where_there_are_some(stage_of, film, tmp_path):
    plain, mixed = stage_of(film), stage_of(film, "--label-path", labels_for(tmp_path / "labels", [4]))
    mixed.trained.load_state_dict(plain.trained.state_dict())
    seen = []
    for one, other in zip(*(stage.passes[1] for stage in (plain, mixed)), strict=True):
        losses = []
        for stage, item in ((plain, one), (mixed, other)):
            stage.trained.eval()
            batch = {name: x[None] if isinstance(x, torch.Tensor) else [x] for name, x in item.items()}
            losses.append({name: float(x.detach()) for name, x in stage.loss(batch, SEED).items()})
        assert losses[0]["ce"] > 0 and losses[0]["distillation"] == losses[1]["distillation"] > 0
        seen.append(losses[1]["ce"] != losses[0]["ce"])
    assert seen == [number == 4 for number in range(1, 10)]


@pytest.mark.parametrize("more", [(), ("--teacher-cache", 0)])
def test_folder_without_a_fitting_label_is_refused(stage_of, film, tmp_path, more):
    with pytest.raises(UserError, match="--label-path .*labels: no label map of a training frame; name them as film/0"):
        stage_of(film, "--label-path", labels_for(tmp_path / "labels", [77]), *more)


def test_given_labels_replace_the_segmenters_without_the_cache(stage_of, film, tmp_path):
    stage = stage_of(film, "--label-path", labels_for(tmp_path / "labels", [4]), "--teacher-cache", 0)
    label = {item["name"]: item["label"] for item in stage.passes[1]}
    assert (label["film/004"] == label["film/004"][0, 0]).all() and len(label["film/005"].unique()) > 1


@pytest.mark.parametrize("more", [(), ("--teacher-cache", 0)], ids=["cache", "live"])
def test_label_of_another_size_than_its_frame_is_refused(stage_of, film, tmp_path, more):
    labels = labels_for(tmp_path / "labels", range(10))
    cv2.imwrite(str(labels / "004.png"), np.full((SIZE[1], SIZE[0]), 3, np.uint8))
    with pytest.raises(UserError, match="labels/004.png: 48 x 64 pixels, but its frame"):
        assert all(stage_of(film, "--label-path", labels, *more).passes[1])


@pytest.mark.parametrize("more", [(), ("--teacher-cache", 0)], ids=["cache", "live"])
def test_without_distillation_only_the_labels_count(stage_of, film, tmp_path, more):
    stage = stage_of(film, "--label-path", labels_for(tmp_path / "labels", range(10)), "--distil", 0, *more)
    losses = stage.loss(batch_of(stage), SEED)
    assert losses["distillation"] == 0 and losses["ce"] > 0


def test_video_that_stands_still_is_refused(stage_of, tmp_path):
    data = write_frames(tmp_path / "film", panning([1, 0, 0, 0], size=SIZE))
    with pytest.raises(UserError, match=f"{data}: no 3 frames in a row that differ .*--multi-step 2 requires"):
        stage_of(data)


@pytest.mark.parametrize("more", WAYS.values(), ids=WAYS)
def test_classes_and_ids_are_the_same_when_a_run_goes_on(stage_of, film, more):
    fresh, continued = (stage_of(film, *more, *words) for words in ((), ("--resume", "auto")))
    assert continued.dataset == fresh.dataset
    items = zip(*(sorted(stage.passes[1], key=lambda item: item["name"]) for stage in (fresh, continued)), strict=True)
    assert all(torch.equal(one["label"], other["label"]) for one, other in items)


def rows(*accuracies):
    return SimpleNamespace(positions=[
        SimpleNamespace(position=k, frames=10 - k, pixel_accuracy=x) for k, x in enumerate(accuracies)
    ])


@pytest.mark.parametrize("gsv, logits, labels, way, gain", [
    ((0.9, 0.8, 0.7), (0.9, 0.7, 0.5), (1.0, 0.4, 0.3), "warp", 15.0),
    ((0.9, 0.8, 0.7), (0.9, 0.7, 0.5), (1.0, 0.8, 0.6), "warp labels", 5.0),
    ((0.9, 0.5, 0.5), (0.9, 0.6, 0.6), (1.0, 0.6, 0.4), "warp", -10.0),
    ((0.9, 0.5, 0.5), (0.9, 0.62, 0.62), (1.0, 0.6, 0.6), "warp", -12.0),  # the keyframe itself does not count
])
def test_gain_over_the_better_way_to_warp(gsv, logits, labels, way, gain):
    found = compared({"gsv": rows(*gsv), "warp": rows(*logits), "warp labels": rows(*labels)})
    assert found["warping"] == way and found["gain"] == pytest.approx(gain)
    assert found["frames"] == 10 and found["positions"] == [0, 1, 2]
    assert found["ways"]["gsv"] == pytest.approx([100 * x for x in gsv])
    assert found["ways"][way] == pytest.approx([100 * x for x in (logits if way == "warp" else labels)])


def test_positions_that_no_frame_reaches_do_not_count():
    accuracies = {"gsv": (0.9, 0.8), "warp": (0.9, 0.7), "warp labels": (0.8, 0.4)}
    assert compared({name: rows(*x, None, None) for name, x in accuracies.items()})["gain"] == pytest.approx(10)


@pytest.mark.parametrize("val, given, method", [
    ({"gain": LEAST_GAIN - 0.01, "frames": 5}, {}, "warp"), ({"gain": LEAST_GAIN, "frames": 5}, {}, "gsv"),
    ({"gain": 7.0, "frames": 5}, {}, "gsv"), ({"gain": -3.0, "frames": 5}, {"resume": "auto"}, "warp"),
    (None, {}, "warp"),
    ({"gain": -3.0, "frames": 5}, {"resume": "1"}, "gsv"), ({"gain": -3.0, "frames": 5}, {"method": "copy"}, "copy"),
])
def test_val_decides_how_labels_are_moved(monkeypatch, val, given, method):
    content = {"args": {"dataset": "unlabelled"}} | ({} if val is None else {"val": val})
    file = SimpleNamespace(path="run/model_best.pth.tar", content=content)
    monkeypatch.setattr(load, "read_resumed", lambda _: file)
    options = chosen_by_val(load.Options(**{"resume": "run/model_best.pth.tar", "video": "a.mp4"} | given))
    moved = ("warp", "labels", "dis", False) if method == "warp" else (method, "logits", "light", True)
    assert (options.method, options.carry, options.optical_flow_network, options.load_flow) == moved


def test_run_that_was_trained_with_labels_is_used(monkeypatch):
    file = SimpleNamespace(path="run/model_best.pth.tar", content={"args": {"dataset": "camvid"}})
    monkeypatch.setattr(load, "read_resumed", lambda _: file)
    options = load.Options(resume="run/model_best.pth.tar", video="a.mp4")
    assert chosen_by_val(options) is options
