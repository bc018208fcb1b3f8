"""Evaluation per position."""
import pytest
import torch

from dataloaders.transforms import normalise
from models.gsvnet import grid_view
from tests.released import filled_gsvnet
from trainer.evaluate import position_logits


@pytest.fixture(scope="module")
def net():
    return filled_gsvnet("swiftnet", "light")


@pytest.fixture(scope="module")
def clip():
    return torch.randint(0, 256, (5, 3, 64, 96), dtype=torch.uint8)


def one_by_one(net, clip, position):
    """The released way: start the group that many frames before the last, propagate frame by frame."""
    frames = normalise(clip, net.segmenter.pixel_mean, net.segmenter.pixel_std)[len(clip) - 1 - position :]
    with torch.no_grad():
        state = net.keyframe(frames[:1], 0.75)
        for frame in frames[1:]:
            state = net.propagate(state, grid_view(frame[None]))
    return state.logits


def test_all_positions_at_once_equal_each_on_its_own(net, clip):
    found = position_logits(net, clip, [0, 1, 2, 3, 4], methods=["gsv"], scale=0.75)["gsv"]
    for position in range(5):
        expected = one_by_one(net, clip, position)
        assert (found[position] - expected).abs().max() < 1e-4 * expected.abs().max()


def test_some_positions_only(net, clip):
    found = position_logits(net, clip, [1, 3], methods=["gsv"], scale=0.75)["gsv"]
    assert sorted(found) == [1, 3]
    assert torch.allclose(found[3], one_by_one(net, clip, 3), atol=1e-3)


def test_baselines(net, clip):
    found = position_logits(net, clip, [0, 2], methods=["per-frame", "copy", "warp", "gsv"], scale=0.75)
    keyframe, earlier = one_by_one(net, clip, 0), one_by_one(net, clip[:3], 0)
    assert torch.equal(found["per-frame"][2], found["per-frame"][0])
    for method in found:
        assert torch.allclose(found[method][0], keyframe, atol=1e-4)
    assert torch.allclose(found["copy"][2], earlier, atol=1e-4)
    assert not torch.allclose(found["warp"][2], found["copy"][2], atol=1e-2)
    assert not torch.allclose(found["gsv"][2], found["warp"][2], atol=1e-2)


def test_segmenter_runs_once_per_keyframe(net, clip):
    calls = []
    handle = net.segmenter.register_forward_hook(lambda *_: calls.append(1))
    position_logits(net, clip, [0, 1, 2], methods=["per-frame", "copy", "warp", "gsv"], scale=0.75)
    handle.remove()
    assert len(calls) == 3
