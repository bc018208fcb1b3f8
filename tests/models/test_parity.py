"""Every network against the numbers of the released program."""
import pytest
import torch

from models.build import build_flow, build_segmenter
from models.gsvnet import State, keyframe_logits
from models.guided_conv import edge_map
from models.warp import warp
from tests.released import arrays, fill, filled_gsvnet, released_tensors

TOLERANCE = 1e-4


def close(ours: torch.Tensor, theirs: torch.Tensor, stride: int = 4) -> None:
    """Relative to the largest value; the fixtures hold every fourth row and column."""
    ours = ours[..., ::stride, ::stride]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


@pytest.fixture(scope="module")
def numbers():
    return arrays("networks.npz")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", ["swiftnet", "bisenet"])
def test_segmenter(numbers, name):
    close(fill(build_segmenter(name=name, classes=19))(numbers["image"]), numbers[f"{name}_logits"])


def test_light_flow_takes_current_then_previous(numbers):
    first, second = numbers["flow_input"].split(3, dim=1)
    close(fill(build_flow(name="light"))(first, second), numbers["light_flow"], stride=1)


def test_flownet_sees_previous_then_current(numbers):
    first, second = numbers["flow_input"].split(3, dim=1)
    close(fill(build_flow(name="flownet"))(second, first), numbers["flownet_flow"], stride=1)


def test_warp_aligns_corners(numbers):
    maps = torch.cat([numbers["gsv_logits_in"], numbers["gsv_image"]], dim=1)
    # The fixture was warped by the flow network's output, which counts quarter pixels.
    assert (warp(maps, numbers["warp_flow"] / 4)[..., ::4, ::4] - numbers["warped"]).abs().max() < 1e-3


def test_guided_block(numbers):
    guided = filled_gsvnet("swiftnet", "light").guided
    logits, frame = numbers["gsv_logits_in"], numbers["gsv_image"]
    edge = edge_map(logits)
    assert torch.equal(edge, numbers["gsv_edge"])
    close(guided.guide(guided.intra(frame), edge), numbers["gsv_kernels"][:, :, 0])
    close(guided(logits, frame), numbers["gsv_out"])


@pytest.mark.parametrize("flow", ["light", "flownet"])
@pytest.mark.parametrize("segmenter", ["swiftnet", "bisenet"])
def test_whole_clip(numbers, segmenter, flow):
    net = filled_gsvnet(segmenter, flow)
    mean, std = net.segmenter.mean, net.segmenter.std
    frames = numbers["clip"].flip(1) * std + mean  # the fixture's frames are BGR, normalised
    state = State(keyframe_logits(net.segmenter, frames[:1], 0.75), net.view(frames[:1]))
    close(state.logits[0], numbers[f"clip_{segmenter}_{flow}"][0])
    for frame, expected in zip(frames[1:], numbers[f"clip_{segmenter}_{flow}"][1:]):
        state = net.propagate(state, net.view(frame[None]))
        close(state.logits[0], expected)


@pytest.mark.parametrize("name", ["swiftnet", "bisenet"])
def test_segmenter_tensors_are_the_released_ones(name):
    state = build_segmenter(name=name, classes=19).state_dict()
    assert {key: list(x.shape) for key, x in state.items()} == released_tensors()[name]


@pytest.mark.parametrize("name", ["light", "flownet"])
def test_flow_tensors_are_the_released_ones(name):
    state = build_flow(name=name).state_dict()
    assert {key: list(x.shape) for key, x in state.items()} == released_tensors()[name]
