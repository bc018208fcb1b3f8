"""Engines: the labels of all are the same; and the choice among them."""
import logging
import shutil
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from config.errors import UserError
from config.options import ENGINES as NAMES
from inference import engine_choice, engines
from inference import onnx_graphs as graphs
from inference.engine_choice import choose_engine
from inference.engines import ENGINES, OnnxEngine, build_engine
from inference.stream import CameraGroup, VideoSegmenter
from models.build import build_flow
from models.gsvnet import GSVNet, State
from models.guided_conv import GuidedConv
from models.label_map import label_map, upsampled_labels
from models.methods.base import Method, SeenFrame
from models.released import released_name
from tests.models.tiny_networks import TinySegmenter
from tests.released import fill, filled_gsvnet

CPU = torch.device("cpu")
CHOICE = dict(size=(64, 128), interval=3, scale=0.75, device=CPU)


def moving_frames(height: int, width: int, count: int = 5) -> list[np.ndarray]:
    """A blurred noise picture passing by: frames (H,W,3) uint8."""
    noise = np.random.default_rng(3).integers(0, 256, (height // 6 + 4, width // 6 + 4, 3), dtype=np.uint8)
    picture = cv2.resize(noise, (width + 40, height + 40), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(picture[3 * t : 3 * t + height, 5 * t : 5 * t + width]) for t in range(count)]


def agreement(net, engine, frames) -> float:
    """Share of pixels that get eager's label from `engine`, in the worst frame of a stream."""
    expected = list(VideoSegmenter(net).stream(frames))
    assert all(len(np.unique(labels)) > 1 for labels in expected)
    return min((a == b).mean() for a, b in zip(expected, VideoSegmenter(net, engine=engine).stream(frames)))


@pytest.fixture
def tiny_net():
    guided = fill(GuidedConv(TinySegmenter.classes), released_name)
    return GSVNet(fill(TinySegmenter()), build_flow(name="none"), guided).eval()


def test_command_line_offers_every_engine():
    assert NAMES == ("auto", *ENGINES, "all")


@pytest.mark.slow
@pytest.mark.parametrize("segmenter, flow, size", [("swiftnet", "light", (64, 128)), ("bisenet", "flownet", (72, 100))])
def test_onnx_finds_eagers_labels(segmenter, flow, size):
    net = filled_gsvnet(segmenter, flow)
    assert agreement(net, "onnx", moving_frames(*size)) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("method, flow, carry", [
    ("gsv", "dis", "logits"), ("warp", "dis", "logits"), ("warp", "light", "logits"), ("copy", "none", "labels"),
    ("warp", "dis", "labels"), ("warp", "light", "labels"),
])
def test_onnx_finds_eagers_labels_whatever_is_carried(method, flow, carry):
    guided = fill(GuidedConv(TinySegmenter.classes), released_name)
    net = GSVNet(fill(TinySegmenter()), fill(build_flow(name=flow)), guided).eval()
    if flow == "light":
        net.flow.toflow.bias.data.copy_(torch.tensor([2.0, -1.5]))  # quarters of a grid pixel
    frames, settings = moving_frames(72, 120), dict(method=method, carry=carry)
    eager, onnx = (VideoSegmenter(net, engine=name, **settings) for name in ("eager", "onnx"))
    for labels, found in zip(eager.stream(frames), onnx.stream(frames), strict=True):
        assert len(np.unique(labels)) > 2 and (labels == found).mean() >= 0.999
        assert found.dtype == np.uint8 and found.shape == (72, 120)
    networks = {"keyframe"} | ({"propagation"} if carry == "logits" else {"flow"} if flow == "light" else set())
    assert onnx.engine.networks.keys() == networks and not onnx.engine.plain
    assert onnx.engine._session.cache_info().currsize == len(networks)


@pytest.mark.slow
def test_onnx_is_finite_where_no_kernel_is_above_zero(tiny_net):
    """There the kernels' sum is zero, and only the epsilon keeps the quotient finite."""
    norm = tiny_net.guided.guide.decoder[1]
    norm.bias.data.fill_(-100.0)
    engines_ = [build_engine(name, tiny_net, scale=0.75, device=CPU) for name in ("eager", "onnx")]
    view = torch.randn(1, 3, 8, 16)
    state = State(torch.randn(1, 5, 8, 16), view)
    seen = SeenFrame(torch.zeros(1, 64, 128, 3, dtype=torch.uint8), view)
    eager, onnx = (engine.next(state, seen).logits for engine in engines_)
    assert torch.isfinite(eager).all() and torch.equal(eager, onnx)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")),
                    reason="torch.compile requires a C++ compiler")
def test_compiled_networks_find_eagers_labels(tiny_net):
    assert agreement(tiny_net, "compile", moving_frames(64, 64)) >= 0.999
    logits = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.compile(upsampled_labels, dynamic=False)(logits, (64, 64))  # as on a GPU
    assert (labels == label_map(logits, (64, 64))).float().mean() > 0.999


@pytest.mark.slow
def test_onnx_serves_several_frame_sizes_and_cameras(tiny_net):
    engine = build_engine("onnx", tiny_net, scale=0.75, device=CPU)
    for size in ((64, 96), (40, 72)):
        frames = moving_frames(*size, count=4)
        expected = list(VideoSegmenter(tiny_net).stream(frames))
        group = CameraGroup(engine, 2, interval=3)
        for frame, labels in zip(frames, expected):
            assert (group([frame, frame])[0] == labels).mean() >= 0.999
    assert engine._session.cache_info().currsize == 2 * 2  # each size's keyframe and propagation, made once


def test_missing_package_is_named_and_other_engines_do_without(monkeypatch, tiny_net):
    for name in ("onnxruntime", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError,
                       match="--engine onnx: .*onnxruntime.*; install .*: pip install onnxruntime onnx onnxscript"):
        build_engine("onnx", tiny_net, scale=0.75, device=CPU)
    assert choose_engine("eager", tiny_net, **CHOICE).name == "eager"
    assert choose_engine("auto", tiny_net, frames=2, **CHOICE).name == "eager"


@pytest.mark.parametrize(
    "engine, device, precision, message",
    [
        ("onnx", "cpu", "bf16", "--engine onnx: computes in fp32, int8 on a CPU, not in bf16; use --engine eager or "
         "compile or openvino$"),
        ("eager", "cpu", "int8", "computes in fp32, bf16 on a CPU, not in int8; use --engine onnx or openvino$"),
        ("compile", "cuda", "int8", "computes in fp32, bf16, fp16 on a GPU, not in int8; use another --precision"),
        ("openvino", "cuda", "bf16", "--engine openvino: does not run on a GPU; use --engine eager or compile$"),
        ("onnx", "cpu", "int8", "int8 is set up on frames; name a video or a folder of pictures with --calibrate PATH"),
        ("onnx", "cuda", "fp32", "has no CUDA provider; pip install onnxruntime-gpu in place of onnxruntime"),
    ],
)
def test_engines_name_what_they_do_not_support(monkeypatch, tiny_net, engine, device, precision, message):
    runtime = SimpleNamespace(get_available_providers=lambda: [graphs.CPU_PROVIDER])
    monkeypatch.setattr(engines, "require_packages", lambda *wanted: (runtime, None, None))
    with pytest.raises(UserError, match=message):
        build_engine(engine, tiny_net, scale=0.75, device=torch.device(device), precision=precision)


def test_int8_is_refused_where_there_are_no_keyframes(tiny_net):
    networks = SimpleNamespace(networks={"part": torch.nn.Identity()}, foldable=True)
    with pytest.raises(UserError, match="int8 is for the segmenter of keyframes, and this method has none"):
        OnnxEngine(tiny_net, networks, device=CPU, precision="int8", calibration=[(None, None)])


class Fake:
    """An engine that sleeps by a fake clock: `costs` are the seconds of a keyframe and of a propagated frame."""

    clock, method = 0.0, Method()

    def __init__(self, name, costs):
        self.name, self.costs = name, costs

    def see(self, image, before=None):
        return image

    def first(self, seen):
        Fake.clock += self.costs[0]

    def next(self, state, seen):
        Fake.clock += self.costs[1]


@pytest.fixture
def fakes(monkeypatch, caplog):
    """Replaces the engines by fake ones; a cost that is an error is raised."""
    caplog.set_level(logging.INFO, "gsvnet")
    monkeypatch.setattr(logging.getLogger("gsvnet"), "propagate", True)

    def install(**costs):
        def build(name, net, **settings):
            cost = costs.get(name, UserError(f"--engine {name}: not here"))
            if isinstance(cost, Exception):
                raise cost
            return Fake(name, cost)

        monkeypatch.setattr(engine_choice, "build_engine", build)
        monkeypatch.setattr(engine_choice.time, "perf_counter", lambda: Fake.clock)

    return install


@pytest.mark.parametrize(
    "costs, frames, chosen, words",
    [
        ({"eager": (0.4, 0.1), "onnx": (0.3, 0.03), "compile": (0.35, 0.01)}, None, "onnx",
         ["eager 200.0 ms", "onnx 120.0 ms", "compile 123.3 ms"]),
        ({"eager": (0.4, 0.1), "onnx": (0.3, 0.03), "compile": (0.1, 0.01)}, 10_000, "compile", ["compile 40.0 ms"]),
        ({"eager": (0.4, 0.1), "onnx": (0.3, 0.03), "compile": (0.1, 0.01)}, 200, "onnx",
         ["not tried, 200 frames are not worth the set-up: compile"]),
        ({"eager": (0.4, 0.1), "onnx": (0.3, 0.03), "compile": (0.1, 0.01)}, 30, "eager",
         ["not tried, 30 frames are not worth the set-up: onnx, openvino, compile"]),
        (
            {"eager": (0.4, 0.1), "onnx": UserError("--engine onnx: No module named 'onnx'"),
             "compile": RuntimeError("no compiler\nhere")},
            None, "eager", ["onnx skipped: No module named 'onnx'",
                            "compile skipped: does not work here: no compiler; it requires a C"],
        ),
    ],
)
def test_auto_takes_the_fastest_engine_worth_its_set_up_and_logs_why(
    fakes, caplog, tiny_net, costs, frames, chosen, words
):
    fakes(**costs)
    assert choose_engine("auto", tiny_net, frames=frames, **CHOICE).name == chosen
    line = caplog.records[-1].getMessage()  # before it, that it takes a while
    assert line.startswith(f"--engine auto: {chosen}; a frame at interval 3: ")
    for word in words:
        assert word in line


def test_named_engine_that_fails_is_a_user_error(fakes):
    fakes(compile=RuntimeError("No working C++ compiler found"))
    with pytest.raises(UserError,
                       match=r"--engine compile does not work here: No working C\+\+ compiler found; .* "
                             r"--engine eager or onnx"):
        choose_engine("compile", None, **CHOICE)
