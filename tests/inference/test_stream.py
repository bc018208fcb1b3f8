"""Streams: frames in, label maps out, one by one or several cameras at once."""
import itertools
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from config.command_line import parse
from config.errors import UserError
from inference import engines
from inference.engines import build_engine
from inference.keyframe_schedule import FixedInterval, SceneCut, Schedule
from inference.stream import CameraGroup, VideoSegmenter
from main import main
from models.gsvnet import State
from models.label_map import label_map
from models.methods.base import Method, SeenFrame
from tests.plain_gsvnet import plain_keyframe, plain_propagated
from tests.released import filled_gsvnet
from utils.run_folder import BEST

CLOSE = 1e-4  # of the largest logit
INVALID_FRAMES = "invalid frames: floats, NaN, other shapes, nothing, lists, None, text, tensors"


class OnTheGpu:
    """A tensor that numpy cannot read."""

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")


@pytest.fixture(scope="module")
def net():
    return filled_gsvnet("swiftnet", "light")


@pytest.fixture(scope="module")
def frames(streets):
    """Two streets of six frames each, (64,128,3) uint8 RGB."""
    paths = sorted((streets / "leftImg8bit_sequence" / "val" / "streets").iterdir())
    return [np.ascontiguousarray(cv2.imread(str(path))[..., ::-1]) for path in paths]


@pytest.fixture
def segmenter(net):
    return VideoSegmenter(net)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.abs(a - b).max() <= CLOSE * np.abs(b).max()


class Planned(Schedule):
    """Keyframes at the calls for which `plan` is true; counts from the frame after the first."""

    def __init__(self, plan):
        self.plan, self.time = plan, 0

    def needs_keyframe(self, since, previous, view):
        self.time += 1
        return self.plan(self.time)

    def reset(self):
        self.time = 0


@pytest.mark.parametrize("segmenter_name, flow", [
    ("swiftnet", "light"), pytest.param("bisenet", "flownet", marks=pytest.mark.slow),
])
def test_stream_is_keyframes_and_propagation_position_by_position(frames, segmenter_name, flow):
    net = filled_gsvnet(segmenter_name, flow)
    segmenter = VideoSegmenter(net, schedule=FixedInterval(4), scale=0.75)
    clip = torch.from_numpy(np.stack(frames[:6])).permute(0, 3, 1, 2)  # (T,3,H,W)
    state = None
    for t, labels in enumerate(segmenter.stream(frames[:6])):
        with torch.no_grad():
            frame = clip[t : t + 1]
            state = plain_keyframe(net, frame) if t % 4 == 0 else plain_propagated(net, state, frame)
        assert segmenter.state.is_keyframe == (t % 4 == 0) and segmenter.state.since == t % 4
        assert close(segmenter.logits(), state.logits[0].numpy())
        assert labels.shape == (64, 128) and labels.dtype == np.uint8
        assert (labels == label_map(state.logits, (64, 128)).numpy()).mean() > 0.999


def test_stream_equals_frames_one_by_one_and_does_not_change_them(segmenter, frames):
    before = [frame.copy() for frame in frames]
    streamed = list(segmenter.stream(frames))
    segmenter.reset()
    assert all((segmenter(frame) == labels).all() for frame, labels in zip(frames, streamed))
    assert all((a == b).all() for a, b in zip(frames, before))


def test_new_stream_and_reset_begin_with_a_keyframe(segmenter, frames):
    first = segmenter(frames[0])
    segmenter(frames[1])
    assert not segmenter.state.is_keyframe
    segmenter.reset()
    assert (segmenter(frames[0]) == first).all() and segmenter.state.is_keyframe
    segmenter(frames[1])
    assert (next(segmenter.stream(frames)) == first).all()


@pytest.mark.tried("Video", "pictures of several sizes for label maps", "a new keyframe at every change of size")
def test_frame_of_another_size_begins_a_new_stream(segmenter, frames):
    small = np.ascontiguousarray(frames[1][:48, :80])
    segmenter(frames[0])
    labels = segmenter(small)
    assert segmenter.state.is_keyframe and labels.shape == (48, 80)
    segmenter.reset()
    assert (segmenter(small) == labels).all()


@pytest.mark.tried("Video", "small, odd, long and narrow frames through every network", "segmented")
@pytest.mark.parametrize("name, flow", [("swiftnet", "light"), ("bisenet", "flownet"), ("swiftnet", "none")])
def test_small_and_odd_frames(name, flow, outcomes):
    segmenter = VideoSegmenter(filled_gsvnet(name, flow))
    for size in (*itertools.product((1, 2, 3, 5, 7, 8, 9), repeat=2), (101, 67), (1, 600), (600, 1)):
        frames = np.random.default_rng(0).integers(0, 255, (3, *size, 3), dtype=np.uint8)
        assert all(labels.shape == size and labels.max() < 19 for labels in segmenter.stream(frames))
        outcomes["segmented"] += 1


def test_labels_and_logits_at_another_size(segmenter, frames):
    assert segmenter(frames[0], size=(32, 64)).shape == (32, 64)
    assert segmenter.logits().shape == (19, 8, 16)
    large = segmenter.logits((64, 128))
    assert large.dtype == np.float32 and large.shape == (19, 64, 128)
    assert (large.argmax(axis=0) == label_map(segmenter.state.last.logits, (64, 128)).numpy()).mean() > 0.999


@pytest.mark.tried("Video", INVALID_FRAMES, "refused in one line, the stream keeps its state")
def test_invalid_frames_are_refused(segmenter, frames, outcomes):
    with pytest.raises(UserError, match="no frame has been segmented yet"):
        segmenter.logits()
    segmenter(frames[0])
    before, frame = segmenter.state, frames[0]
    for wrong in (
        frame.astype(np.float32), np.full(frame.shape, np.nan), frame.astype(np.int64), frame > 9, frame[..., 0],
        frame[..., :2],
        frame[None], frame.transpose(2, 0, 1), np.dstack([frame, frame]), np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        None, "frame", 3, [], {}, frame.tolist(), [[1], [1, 2]], torch.rand(8, 8, 3),
        torch.zeros(3, 8, 8, dtype=torch.uint8), OnTheGpu(),
    ):
        with pytest.raises(UserError, match=r"a frame must be an \(H,W,3\) uint8 RGB array, not "):
            segmenter(wrong)
        assert segmenter.state is before
        outcomes["refused in one line, the stream keeps its state"] += 1


@pytest.mark.tried("Video", "invalid sizes of labels and logits", "refused in one line, the stream keeps its state")
@pytest.mark.parametrize("size", [(0, 8), (8, -1), (8,), (8, 8, 3), (8.0, 8.0), 8, "88", ("a", "b"), ()])
def test_invalid_sizes_are_refused(segmenter, frames, size):
    segmenter(frames[0])
    before = segmenter.state
    for ask in (lambda: segmenter(frames[1], size=size), lambda: segmenter.logits(size)):
        with pytest.raises(UserError, match=r"a size must be \(H,W\), two whole numbers of at least 1, not "):
            ask()
    assert segmenter.state is before


@pytest.mark.tried("Video", "frames read-only, mirrored, strided, as tensors",
                   "segmented as their plain copy, and unchanged")
@pytest.mark.parametrize("kind", ["read-only", "mirrored", "strided", "tensor", "Fortran order"])
def test_frames_of_other_memory_layouts(segmenter, frames, kind, recwarn):
    frame = {
        "read-only": np.frombuffer(frames[0].tobytes(), np.uint8).reshape(frames[0].shape),
        "mirrored": frames[0][:, ::-1],
        "strided": frames[0][::2, ::2], "tensor": torch.from_numpy(frames[0]),
        "Fortran order": np.asfortranarray(frames[0]),
    }[kind]
    copy = np.asarray(frame).copy()
    labels = segmenter(frame)
    segmenter.reset()
    assert (segmenter(np.ascontiguousarray(copy)) == labels).all() and (np.asarray(frame) == copy).all()
    assert not recwarn.list


@pytest.mark.tried("Video", "invalid settings of a VideoSegmenter or CameraGroup", "refused in one line")
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"engine": "egaer"}, "no engine 'egaer'; choose one of: eager, compile, onnx"),
        ({"engine": "auto"}, "auto works with --video only"),
        ({"precision": "fp8"}, "no precision 'fp8'; choose one of: fp32, bf16, fp16, int8"),
        ({"scale": 0}, "scale must be a number above 0, not 0: keyframes are resized by it"),
        ({"scale": -1.0}, "a number above 0, not -1.0"),
        ({"scale": float("nan")}, "a number above 0, not nan"),
        ({"scale": float("inf")}, "a number above 0, not inf"),
    ],
)
def test_invalid_settings_are_refused(net, settings, message):
    with pytest.raises(UserError, match=message):
        VideoSegmenter(net, **settings)


@pytest.mark.tried("Video", "invalid settings of a VideoSegmenter or CameraGroup", "refused in one line")
@pytest.mark.parametrize("count, interval", [(0, 3), (-1, 3), (2, 0), (2, -3), (2.0, 2), (2, "3")])
def test_invalid_groups_are_refused(segmenter, count, interval):
    with pytest.raises(UserError, match=f"count and interval must be whole numbers from 1, not {count} and {interval}"):
        CameraGroup(segmenter.engine, count, interval)


@pytest.mark.tried("Video", "pictures of ever new sizes through ONNX Runtime",
                   "sessions of the last four sizes kept, others dropped")
def test_sessions_of_old_sizes_are_dropped(net, monkeypatch):
    made = []
    monkeypatch.setattr(engines, "session", lambda model, providers: made.append(model) or model)
    monkeypatch.setattr(engines, "onnx_model", lambda graph, program: graph)
    monkeypatch.setattr(engines, "exported", lambda graph: None)
    monkeypatch.setattr(engines, "run_session", lambda graph, **inputs: graph.step(*inputs.values()))
    segmenter = VideoSegmenter(net, engine="onnx")
    with torch.inference_mode():
        for width in (*range(8, 20), 19, 18, 8):
            for _ in range(2):
                segmenter(np.zeros((16, 8 * width, 3), np.uint8))
            assert segmenter.engine._session.cache_info().currsize <= engines.SESSIONS
    assert len(made) == 2 * 13  # 19 and 18 were still there, 8 was not


@pytest.mark.parametrize("schedule, computed", [
    (FixedInterval(1), 0), (FixedInterval(3), 8), (SceneCut(3, 9.0), 8), (SceneCut(5, 0.5), 10),
    (Planned(lambda t: t in (2, 3)), 11),
])
def test_flow_is_computed_only_to_frames_that_may_be_carried(frames, monkeypatch, schedule, computed):
    """Two streets, between which the scene changes; labels are those of flows to all frames."""
    net = filled_gsvnet("swiftnet", "dis")
    found = VideoSegmenter(net, method="warp", carry="labels", schedule=schedule)
    between, flows, state = found.engine.method.flow.between, [], None
    monkeypatch.setattr(found.engine.method.flow, "between", lambda *x: flows.append(x) or between(*x))
    labels = [*found.stream(frames)]
    assert len(flows) == computed
    schedule.reset()
    for frame, expected in zip(frames, labels, strict=True):
        seen = found.engine.see(torch.from_numpy(frame)[None], None if state is None else state.seen)
        state = found.advance(state, seen)
        assert (found.engine.labels(state.last, expected.shape).numpy() == expected).all()


@pytest.mark.parametrize("batched", [True, False])
def test_cameras_of_a_group_are_streams_of_their_own(net, frames, batched):
    engine = build_engine("eager", net, scale=0.75, device=torch.device("cpu"))
    engine.batched = batched
    count, interval = 3, 4
    group = CameraGroup(engine, count, interval)
    alone = [
        VideoSegmenter(net, engine=engine, schedule=Planned(lambda t, phase=phase: (t + phase) % interval == 0))
        for phase in group.phase
    ]
    cameras = [frames[:6], frames[6:], frames[5::-1]]
    for now in zip(*cameras):
        found = group(now)
        for number, (segmenter, frame) in enumerate(zip(alone, now)):
            labels = segmenter(frame)
            assert group.states[number].since == segmenter.state.since
            assert close(group.states[number].last.logits.numpy(), segmenter.state.last.logits.numpy())
            assert (found[number] == labels).mean() > 0.999
    group.reset(1)
    group([camera[0] for camera in cameras])
    assert group.states[1].is_keyframe


@pytest.mark.parametrize("count, interval", [(1, 3), (2, 3), (3, 3), (5, 3), (4, 8), (7, 2)])
def test_load_of_a_group_is_even(count, interval):
    """Calls after the first differ by at most one keyframe; every stream has its interval."""

    class Nothing:
        batched, method = True, Method()
        see = staticmethod(lambda image, before: SeenFrame(image, torch.zeros(len(image), 3, 1, 1)))
        first = staticmethod(lambda seen: State(torch.zeros(len(seen.image), 2, 1, 1), seen.view))
        next = staticmethod(lambda state, seen: State(state.logits, seen.view))
        labels = staticmethod(lambda state, size: torch.zeros(size, dtype=torch.uint8))

    group, frame = CameraGroup(Nothing(), count, interval), np.zeros((8, 8, 3), np.uint8)
    loads, keyframes = [], [[] for _ in range(count)]
    for t in range(4 * interval):
        group([frame] * count)
        keys = [number for number, state in enumerate(group.states) if state.is_keyframe]
        loads.append(len(keys))
        for number in keys:
            keyframes[number].append(t)
    assert loads[0] == count
    assert max(loads[1:]) - min(loads[1:]) <= 1
    assert all(b - a == interval for times in keyframes for a, b in pairwise(times[1:]))


@pytest.mark.tried("Video", "calls of a CameraGroup with frames that do not fit",
                   "refused in one line, the streams keep their states")
def test_group_refuses_what_it_cannot_batch(net, frames):
    group = CameraGroup(build_engine("eager", net, scale=0.75, device=torch.device("cpu")), 2)
    with pytest.raises(UserError, match="CameraGroup: 1 frames for 2 streams"):
        group(frames[:1])
    with pytest.raises(UserError, match="the frames of a call differ in size"):
        group([frames[0], frames[0][:32]])
    group(frames[:2])
    before = list(group.states)
    with pytest.raises(UserError, match="a frame must be an"):
        group([frames[0], None])
    for number in (-1, 2):
        with pytest.raises(UserError, match=f"CameraGroup.reset: no stream {number}; streams are numbered 0 to 1"):
            group.reset(number)
    assert group.states == before and group.time == 1


@pytest.mark.parametrize("name", ["swiftnet", "bisenet"])
def test_released_files_become_a_segmenter(weights, frames, name):
    segmenter = VideoSegmenter.from_released(weights, name)
    expected = VideoSegmenter(filled_gsvnet(name, "light"))
    for frame in frames[:2]:
        assert (segmenter(frame) == expected(frame)).all()


@pytest.mark.slow
def test_trained_run_becomes_a_segmenter(streets, weights, tmp_path, frames):
    words = ["--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights), "--device", "cpu"]
    assert main([
        *words, "--log-folder", str(tmp_path), "--num-worker", "0", "--epoch", "1", "--early-stop", "1", "--batch-size",
        "2",
        "--crop-height", "64", "--crop-width", "96", "--multi-step", "1", "--eval-interval", "9", "--eval-multi-step",
        "1",
        "--interval", "2",
    ]) == 0
    folder = Path(tmp_path, "run", "synthetic", "swiftnet_test", "experiment_0")
    segmenter = VideoSegmenter.from_run(folder)
    expected = VideoSegmenter.from_options(parse([*words, "--resume", str(folder / BEST), "--interval", "2"]))
    for t, frame in enumerate(frames[:4]):
        assert (segmenter(frame) == expected(frame)).all()
        assert segmenter.state.is_keyframe == (t % 2 == 0)
    released = VideoSegmenter.from_released(weights, schedule=FixedInterval(2))
    list(released.stream(frames[:4]))
    assert not close(released.logits(), segmenter.logits())


@pytest.mark.tried("Video", "folder that is not a run, or without weights, for a VideoSegmenter", "refused in one line")
def test_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="parameters.json: not the options of a run"):
        VideoSegmenter.from_run(tmp_path)
    with pytest.raises(UserError, match="not found"):
        VideoSegmenter.from_released(tmp_path)
