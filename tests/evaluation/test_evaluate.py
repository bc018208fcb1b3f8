"""Evaluation per position: one pass over a video against each position on its own, and who computes what how often."""
import cv2
import numpy as np
import pytest
import torch

from config.datasets import DATASETS
from config.errors import UserError
from dataloaders.clips import LabelledFrame
from dataloaders.eval_videos import VideoDataset, share, videos_of
from dataloaders.loaders import labelled_frames
from evaluation.evaluate import Tally
from evaluation.evaluated_frames import evaluated_frames
from evaluation.keyframe_groups import VideoPropagation, plan_video
from inference.engines import build_engines
from models.label_map import label_map
from tests.plain_gsvnet import plain_keyframe, plain_propagated
from tests.released import filled_gsvnet
from utils.metrics import ConfusionMatrix

METHODS = ("per-frame", "copy", "warp", "gsv")


@pytest.fixture(scope="module")
def net():
    return filled_gsvnet("swiftnet", "light")


@pytest.fixture(scope="module")
def clip():
    return torch.randint(0, 256, (7, 3, 64, 96), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def one_by_one(net, clip, position):
    """The released way: start the group that many frames before the last, propagate frame by frame."""
    frames = clip[len(clip) - 1 - position :]
    with torch.no_grad():
        state = plain_keyframe(net, frames[:1])
        for frame in frames[1:]:
            state = plain_propagated(net, state, frame[None])
    return state.logits


def walk(net, clip, plan, methods):
    propagation = VideoPropagation(engines_of(net, methods), plan)
    found = [propagation.advance(image.permute(1, 2, 0)) for image in clip]
    return [
        {method: {start: state.logits for start, state in states.items()} for method, states in by_method.items()}
        for by_method in found
    ]


def engines_of(net, methods):
    return build_engines(net, methods, scale=0.75, device=torch.device("cpu"))


@pytest.mark.parametrize("positions", [(0, 1, 2, 3, 4), (1, 3)])
def test_all_positions_in_one_pass_equal_each_on_its_own(net, clip, positions):
    plan = plan_video([False, True, False, True, True, True, True], positions)
    for t, found in enumerate(walk(net, clip, plan, ["gsv"])):
        possible = [position for position in positions if position <= t] if t not in (0, 2) else []
        assert sorted(found["gsv"]) == sorted(t - position for position in possible)
        for position in possible:
            expected = one_by_one(net, clip[: t + 1], position)
            assert (found["gsv"][t - position] - expected).abs().max() < 1e-4 * expected.abs().max()


def test_streams_of_every_interval_begin_with_the_video(net, clip):
    plan = plan_video([False] * 7, (), intervals=(1, 3))
    for t, found in enumerate(walk(net, clip, plan, ["gsv"])):
        assert sorted(found["gsv"]) == sorted({t, t - t % 3})
        expected = one_by_one(net, clip[: t + 1], t % 3)
        assert (found["gsv"][t - t % 3] - expected).abs().max() < 1e-4 * expected.abs().max()


def test_baselines(net, clip):
    found = walk(net, clip[:3], plan_video([False, False, True], (0, 2)), METHODS)[-1]
    keyframe, earlier = one_by_one(net, clip[:3], 0), one_by_one(net, clip[:1], 0)
    assert torch.equal(found["per-frame"][0], found["per-frame"][2])
    for method in METHODS:
        assert torch.allclose(found[method][2], keyframe, atol=1e-3)
    assert torch.allclose(found["copy"][0], earlier, atol=1e-3)
    assert not torch.allclose(found["warp"][0], found["copy"][0], atol=1e-2)
    assert not torch.allclose(found["gsv"][0], found["warp"][0], atol=1e-2)


@pytest.mark.parametrize("methods, passes", [(METHODS, 3), (("copy",), 3), (("per-frame",), 1)])
def test_segmenter_and_flow_run_once_per_frame(net, clip, methods, passes):
    calls = {"segmenter": 0, "flow": 0}
    engines = engines_of(net, methods)
    segmenter = engines[methods[0]].networks["keyframe"].segmenter
    assert all(engine.networks["keyframe"].segmenter is segmenter for engine in engines.values())
    segmenter.register_forward_hook(lambda *_: calls.update(segmenter=calls["segmenter"] + 1))
    if "gsv" in methods:
        flow = engines["gsv"].networks["propagation"].flow
        flow.register_forward_hook(lambda *_: calls.update(flow=calls["flow"] + 1))
    propagation = VideoPropagation(engines, plan_video([False, False, True], (0, 1, 2)))
    for image in clip[:3]:
        propagation.advance(image.permute(1, 2, 0))
    assert calls == {"segmenter": passes, "flow": 2 if "gsv" in methods else 0}


def test_confusion_matrices_equal_those_of_frame_by_frame_evaluation(net, streets):
    """Decodes, segments, propagates and scores every position of every frame by itself."""
    dataset, positions = DATASETS["synthetic"], (0, 2)
    frames = labelled_frames(dataset="synthetic", root=streets, split="val", past=2)[:5]
    videos = videos_of(frames)
    items = VideoDataset(videos, dataset)
    tally = Tally(19, methods=["gsv"], positions=positions)
    engines, device = engines_of(net, ["gsv"]), torch.device("cpu")
    for frame in evaluated_frames(engines, videos, items, positions=positions, device=device):
        tally.add(frame)
    found = tally.matrices["gsv"]
    images, labels = ([items[i][name] for i in range(5)] for name in ("image", "label"))
    for position in positions:
        expected = ConfusionMatrix(19)
        for t in range(position, 5):
            clip = torch.stack(images[t - position : t + 1]).permute(0, 3, 1, 2)
            expected.add(labels[t], label_map(one_by_one(net, clip, position), labels[t].shape))
        assert found[position].frames == expected.frames == 5 - position
        assert (found[position].counts - expected.counts).abs().sum() <= 4  # of 8192 pixels a frame: rounding


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_processes_share_every_labelled_frame_once(streets, ranks, whole):
    frames = labelled_frames(dataset="synthetic", root=streets, split="val", past=2)
    names = []
    for rank in range(ranks):
        for video in share(frames, rank=rank, ranks=ranks, whole_videos=whole):
            for t, frame in enumerate(video):
                if frame.labelled is not None:
                    names.append(frame.labelled.name)
                    past = [each.path for each in video[: t + 1]][-len(frame.labelled.frames) :]
                    assert past == list(frame.labelled.frames)
    assert sorted(names) == sorted(frame.name for frame in frames)


def test_frames_of_different_size_are_named(net, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, width in zip(paths, (48, 56)):
        cv2.imwrite(str(path), np.zeros((32, width, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "l.png"), np.zeros((32, 56), np.uint8))
    videos = videos_of([LabelledFrame("b", tuple(paths), tmp_path / "l.png", "b_pred.png")])
    with pytest.raises(UserError, match=r"b.png: 56 x 32 pixels, but .*a.png of the same video has 48 x 32"):
        items = VideoDataset(videos, DATASETS["synthetic"])
        engines = engines_of(net, ["gsv"])
        list(evaluated_frames(engines, videos, items, positions=(0, 1), device=torch.device("cpu")))
