"""What holds for every network, whatever its weights; for segmenters see segmenter_tester.py."""
import pytest
import torch

from models.build import FLOW_NETWORKS, build_flow, build_gsvnet, build_segmenter
from models.flow_none import NoFlow
from models.gsvnet import GSVNet, State, keyframe_logits
from models.guided_conv import GuidedConv
from models.resize import grid_size, scaled_size
from models.segmenters.base import Segmenter

SIZES = [(64, 128), (72, 104), (90, 122), (45, 61)]


def no_gradient(module: torch.nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}


def test_segmenter_and_view_normalise_each_with_its_own_mean_and_std():
    class Grey(Segmenter):
        pixel_mean, pixel_std = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
        view_mean, view_std = (0.0, 5.0, 10.0), (10.0, 5.0, 1.0)

    segmenter, frame = Grey(), torch.full((1, 3, 8, 16), 10, dtype=torch.uint8)
    assert torch.equal(segmenter.normalise(frame)[0, :, 0, 0], torch.tensor([0.0, -5.0, -5.0]))
    net = GSVNet(segmenter, NoFlow(), GuidedConv(2))
    assert torch.equal(net.view(frame)[0, :, 0, 0], torch.tensor([0.0, 1.0, 1.0]))  # BGR
    assert segmenter.state_dict() == {}


def test_bisenet_inference_skips_the_auxiliary_heads():
    segmenter = build_segmenter(name="bisenet", classes=4).eval()
    for head in segmenter.heads[:2]:
        head.register_forward_hook(lambda *_: pytest.fail("an auxiliary head ran"))
    segmenter(torch.randn(1, 3, 64, 64))


def test_bisenet_trains_on_full_size_auxiliary_logits():
    outputs = build_segmenter(name="bisenet", classes=4).training_logits(torch.randn(2, 3, 64, 96))
    shapes = [tuple(x.shape) for x in outputs]
    assert shapes == [(2, 4, 8, 12), (2, 4, 64, 96), (2, 4, 64, 96)]


@pytest.mark.parametrize("size", [(32, 64), (11, 15), (5, 7), (1, 1)])
@pytest.mark.parametrize("name", sorted({*FLOW_NETWORKS} - {"dis"}))
def test_flow_takes_any_size(name, size):
    flow = build_flow(name=name).eval()
    out = flow(torch.randn(1, 3, *size), torch.randn(1, 3, *size))
    assert out.shape[:2] == (1, 2) and out.isfinite().all()


@pytest.mark.parametrize("name", ["light", "flownet"])
def test_every_parameter_of_a_flow_network_learns(name):
    flow = build_flow(name=name)
    flow(torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert no_gradient(flow) == set()


@pytest.mark.parametrize("size", [*SIZES, (8, 8)])
def test_clip_of_any_size(size):
    net = build_gsvnet(segmenter="swiftnet", flow="light", classes=3).eval()
    frames = torch.randint(0, 256, (3, 1, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        state = State(keyframe_logits(net.segmenter, frames[0], 0.75), net.view(frames[0]))
        for frame in frames[1:]:
            state = net.propagate(state, net.view(frame))
    assert state.logits.shape == (1, 3, *grid_size(*size))
    assert state.logits.isfinite().all()


def test_propagation_does_not_change_its_input_state():
    net = build_gsvnet(segmenter="swiftnet", flow="light", classes=3).eval()
    state = State(torch.randn(1, 3, 8, 16), torch.randn(1, 3, 8, 16))
    logits, view = state.logits.clone(), state.view.clone()
    with torch.no_grad():
        net.propagate(state, torch.randn(1, 3, 8, 16))
    assert torch.equal(state.logits, logits) and torch.equal(state.view, view)


def test_parts_are_injected():
    seen = []

    def flow(current, previous):
        seen.append((current, previous))
        return torch.zeros(1, 2, 1, 2)

    class Part(Segmenter):
        pixel_mean = view_mean = (0.0, 0.0, 0.0)
        pixel_std = view_std = (1.0, 1.0, 1.0)

        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, *inputs):
            return self.function(*inputs)

    net = GSVNet(Part(lambda x: x[:, :2]), Part(flow), Part(lambda warped, frame: warped + 1))
    frame = torch.ones(1, 3, 16, 32)
    state = State(keyframe_logits(net.segmenter, frame), net.view(frame))
    after = net.propagate(state, torch.full((1, 3, 2, 4), 2.0))
    assert torch.allclose(after.logits, torch.full((1, 2, 2, 4), 2.0))
    assert seen[0][0].mean() == 2 and seen[0][1].mean() == 1


@pytest.mark.parametrize(
    "size, scale, expected",
    [
        ((1024, 2048), 0.75, (768, 1536)), ((1023, 2049), 0.75, (765, 1536)), ((360, 480), 0.5, (180, 240)),
        ((3, 3), 0.75, (1, 1)),
    ],
)
def test_keyframe_size(size, scale, expected):
    assert scaled_size(*size, scale) == expected


def test_without_flow_the_logits_stay_where_they_are():
    net = build_gsvnet(segmenter="swiftnet", flow="none", classes=3).eval()
    assert not list(net.flow.parameters())
    state = State(torch.randn(2, 3, 9, 14), torch.randn(2, 3, 9, 14))
    assert torch.allclose(net.warp(state, torch.randn(2, 3, 9, 14)), state.logits, atol=1e-5)
