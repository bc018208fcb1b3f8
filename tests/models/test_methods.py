"""Each way to carry a segmentation through video, against a frame-by-frame program written out here."""
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from config.errors import UserError
from inference.engines import Engine, build_engine
from inference.keyframe_schedule import FixedInterval, Schedule
from inference.stream import CameraGroup, VideoSegmenter
from models.build import build_flow
from models.flow_dis import DISFlow
from models.gsvnet import GSVNet, joined
from models.guided_conv import GuidedConv
from models.released import released_name
from models.resize import scaled_size
from tests.models.tiny_networks import TinySegmenter
from tests.plain_gsvnet import normalised, plain_keyframe, plain_view
from tests.released import fill

CPU = torch.device("cpu")
INTERVAL = 3
FLOWS = {"light": ("light", {}), "dis": ("dis", {"preset": "fast"}),
         "small dis": ("dis", {"side": 48, "preset": "medium"})}
PRESETS = {"fast": cv2.DISOPTICAL_FLOW_PRESET_FAST, "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM}
LOGITS = [("per-frame", "light", "logits"), ("copy", "light", "logits"), ("warp", "light", "logits"),
          ("warp", "dis", "logits"), ("warp", "small dis", "logits"), ("gsv", "light", "logits"),
          ("gsv", "dis", "logits")]
LABELS = [("copy", "dis", "labels"), ("warp", "light", "labels"), ("warp", "dis", "labels"),
          ("warp", "small dis", "labels")]
every_method = pytest.mark.parametrize("method, flow, carry", LOGITS + LABELS)
carrying = pytest.mark.parametrize("method, flow, carry", LOGITS[1:] + LABELS)  # does not begin anew at every frame
with_dis = pytest.mark.parametrize("method, carry", [("gsv", "logits"), ("warp", "logits"), ("warp", "labels")])


@cache
def network(flow: str) -> GSVNet:
    name, settings = FLOWS[flow]
    net = GSVNet(fill(TinySegmenter()), fill(build_flow(name=name, **settings)), fill(GuidedConv(5), released_name))
    if flow == "light":
        net.flow.toflow.bias.data.copy_(torch.tensor([5.0, -3.0]))  # quarters of a grid pixel
    return net.eval()


def engine_of(method: str, flow: str, carry: str) -> Engine:
    return build_engine("eager", network(flow), scale=0.75, device=CPU, method=method, carry=carry)


@cache
def moving(size=(72, 100), count=6, seed=3) -> tuple[np.ndarray, ...]:
    """A blurred noise picture passing by, in frames (H,W,3) uint8."""
    (height, width), rng = size, np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height // 6 + 6, width // 6 + 8, 3), dtype=np.uint8)
    picture = cv2.resize(noise, (width + 40, height + 30), interpolation=cv2.INTER_CUBIC)
    across, down = rng.choice([-6, -4, 4, 6]), rng.choice([-3, 2, 4])
    corners = [(15 + down * (2 * t - count) // 2, 20 + across * (2 * t - count) // 2) for t in range(count)]
    return tuple(np.ascontiguousarray(picture[y : y + height, x : x + width]) for y, x in corners)


# The plain program: one frame, one stream, one method at a time, from the definitions.


def plain_labels(method, flow, carry, frames) -> list[np.ndarray]:
    """Label maps (H,W) of a stream."""
    net, found, logits, labels, previous, total = network(flow), [], None, None, None, None
    for t, frame in enumerate(frames):
        image, size = torch.from_numpy(frame).permute(2, 0, 1)[None], frame.shape[:2]
        if method == "per-frame" or t % INTERVAL == 0:
            logits = plain_keyframe(net, image).logits
            labels = largest(logits if carry == "logits" else own_logits(net, image), size)
            keyframe, total = labels, None
        elif method != "copy" and carry == "logits":
            logits = moved(logits, plain_flow(flow, previous, frame, logits.shape[-2:]))
            if method == "gsv":
                logits = net.guided(logits, plain_view(net, image))
            labels = largest(logits, size)
        elif method != "copy":
            small = own_size(flow, size)
            step = plain_flow(flow, previous, frame, small)
            total = step if total is None else step + moved(torch.from_numpy(total)[None], step)[0].numpy()
            full = cv2.resize(total.transpose(1, 2, 0), size[::-1], interpolation=cv2.INTER_LINEAR)
            labels = moved_labels(keyframe, full.transpose(2, 0, 1) * scales(small, size))
        found.append(labels)
        previous = frame
    return found


def own_size(flow, size) -> tuple[int, int]:
    """Size at which a flow is computed: DIS's pictures, or the grid."""
    if flow == "light":
        return max(1, size[0] // 8), max(1, size[1] // 8)
    shrink = min(1, network(flow).flow.side / min(size))
    return round(size[0] * shrink), round(size[1] * shrink)


def own_logits(net, image) -> torch.Tensor:
    """The segmenter's logits at its own stride: (1,C,h',w')."""
    size = scaled_size(image.shape[-2], image.shape[-1], 0.75)
    return net.segmenter(F.interpolate(normalised(net, image), size=size, mode="bilinear", align_corners=True))


def plain_flow(flow, previous, frame, size) -> np.ndarray:
    """From each point of `frame` to where `previous` shows it: (2,h,w) at `size`, in its pixels, x first."""
    if flow == "light":
        views = [plain_view(network(flow), torch.from_numpy(x).permute(2, 0, 1)[None]) for x in (frame, previous)]
        found, grid = network(flow).flow(*views), views[0].shape[-2:]  # quarters of a grid pixel
        found = F.interpolate(found, size=tuple(grid), mode="bilinear", align_corners=True) / 4
        found = found[0].permute(1, 2, 0).numpy()
        if tuple(size) != tuple(grid):
            found = cv2.resize(found, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        return found.transpose(2, 0, 1) * scales(grid, size)
    side, preset = network(flow).flow.side, network(flow).flow.preset
    shrink = min(1, side / min(frame.shape[:2]))
    height, width = (round(length * shrink) for length in frame.shape[:2])
    before, now = (
        cv2.resize(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), (width, height), interpolation=cv2.INTER_AREA)
        for x in (previous, frame)
    )
    found = cv2.DISOpticalFlow.create(PRESETS[preset]).calc(now, before, None)
    way = cv2.INTER_AREA if size[0] < height else cv2.INTER_LINEAR
    found = cv2.resize(found, (size[1], size[0]), interpolation=way).transpose(2, 0, 1)
    return found * scales((height, width), size)


def scales(source, target) -> np.ndarray:
    """How many pixels of `target` a pixel of `source` is, corners on corners: (2,1,1), x first."""
    return np.float32([(target[1] - 1) / (source[1] - 1), (target[0] - 1) / (source[0] - 1)]).reshape(2, 1, 1)


def moved(logits, flow) -> torch.Tensor:
    """Logits (1,C,h,w) at p + flow(p): a weighted mean of four points, those outside counting as zero."""
    values, (height, width) = logits[0].numpy(), logits.shape[-2:]
    y, x = (np.arange(height)[:, None] + flow[1]), (np.arange(width)[None] + flow[0])
    out = np.zeros_like(values)
    for row in (np.floor(y), np.floor(y) + 1):
        for column in (np.floor(x), np.floor(x) + 1):
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            share *= (row >= 0) & (row < height) & (column >= 0) & (column < width)
            at = row.clip(0, height - 1).astype(int), column.clip(0, width - 1).astype(int)
            out += share.astype(np.float32) * values[:, *at]
    return torch.from_numpy(out)[None]


def moved_labels(labels, flow) -> np.ndarray:
    """Labels (H,W) of the pixel nearest to p + flow(p), inside the frame."""
    height, width = labels.shape
    rows, columns = np.rint(np.arange(height)[:, None] + flow[1]), np.rint(np.arange(width)[None] + flow[0])
    return labels[rows.clip(0, height - 1).astype(int), columns.clip(0, width - 1).astype(int)]


def largest(logits, size) -> np.ndarray:
    full = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)
    return full[0].argmax(0).byte().numpy()


def same(a, b) -> bool:
    """Whether two label maps are equal up to rounding, which decides near borders."""
    return a.shape == b.shape and (a == b).mean() > 0.997


# Tests.


@torch.no_grad()
@every_method
def test_engine_finds_the_labels_of_the_plain_program(method, flow, carry):
    frames, engine, state, seen = moving(), engine_of(method, flow, carry), None, None
    expected = plain_labels(method, flow, carry, frames)
    for t, frame in enumerate(frames):
        seen = engine.see(torch.from_numpy(frame)[None], seen)
        state = engine.next(state, seen) if t % INTERVAL else engine.first(seen)
        found = engine.labels(state, frame.shape[:2])
        assert found.dtype == torch.uint8 and same(found.numpy(), expected[t]), t
        assert (state.labels is not None) == (carry == "labels")
    assert all(len(np.unique(labels)) > 2 for labels in expected)


@torch.no_grad()
def test_methods_differ_on_the_frames_of_these_tests():
    """Otherwise the test above would show nothing."""
    last = [plain_labels(*case, moving())[-1] for case in LOGITS[:4] + LOGITS[5:] + LABELS[1:3]]
    assert all((a != b).mean() > 0.01 for number, a in enumerate(last) for b in last[:number])


@every_method
def test_video_segmenter_has_the_same_settings(method, flow, carry):
    frames, engine = moving(), engine_of(method, flow, carry)
    segmenter = VideoSegmenter(network(flow), method=method, carry=carry)
    shared = VideoSegmenter(network(flow), engine=engine)
    assert all((a == b).all() for a, b in zip(segmenter.stream(frames), shared.stream(frames), strict=True))


@carrying
def test_groups_of_one_stream_are_carried_together_as_one_at_a_time(method, flow, carry):
    """Groups that began at different keyframes; their frame is seen once."""
    engine, groups, alone, seen = engine_of(method, flow, carry), [], [], None
    for frame in moving()[:5]:
        seen = engine.see(torch.from_numpy(frame)[None], seen)
        if groups:
            groups = engine.next(joined(groups, one_view=True), seen).split()
            alone = [engine.next(state, seen) for state in alone]
        for both in zip(groups, alone, strict=True):
            assert torch.allclose(both[0].logits, both[1].logits, atol=1e-4) and both[0].logits.shape[0] == 1
            assert torch.equal(both[0].view, both[1].view)
            assert same(*(engine.labels(state, frame.shape[:2]).numpy() for state in both))
        first = engine.first(seen)
        groups, alone = [*groups, first], [*alone, first]
    maps = [engine.labels(state, frame.shape[:2]).numpy() for state in groups]
    assert all((a != b).any() for number, a in enumerate(maps) for b in maps[:number])


@every_method
def test_inputs_are_not_modified(method, flow, carry):
    engine, images = engine_of(method, flow, carry), [torch.from_numpy(frame)[None] for frame in moving()[:2]]
    before = engine.see(images[0])
    seen = engine.see(images[1], before)
    state = engine.first(before)
    tensors = [*images, *parts(before), *parts(seen), *parts(state)]
    copies = [torch.clone(x) for x in tensors]
    after = [engine.next(state, seen) for _ in range(2)]
    engine.labels(state, (72, 100)), engine.labels(after[0], (40, 60))
    assert all(torch.equal(x, copy) for x, copy in zip(tensors, copies))
    assert all(torch.equal(*both) for both in zip(*map(parts, after), strict=True))


def parts(holder) -> list[torch.Tensor]:
    """The tensors of a state or of a frame as it is seen."""
    values = [getattr(holder, field.name) for field in fields(holder)]
    looks = [torch.from_numpy(look) for value in values if isinstance(value, tuple) for look in value]
    return looks + [value for value in values if isinstance(value, torch.Tensor)]


@every_method
def test_two_streams_that_take_turns_are_two_streams(method, flow, carry):
    engine, streams = engine_of(method, flow, carry), (moving(seed=3), moving(seed=4), moving((96, 80), seed=5))
    alone = [[*VideoSegmenter(network(flow), engine=engine).stream(frames)] for frames in streams]
    segmenters = [VideoSegmenter(network(flow), engine=engine) for _ in streams]
    for t, frames in enumerate(zip(*streams)):
        for segmenter, frame, labels in zip(segmenters, frames, alone):
            assert (segmenter(frame) == labels[t]).all(), t


class Staggered(Schedule):
    """A keyframe at every call whose number and `phase` add up to a multiple of the interval."""

    def __init__(self, phase: int):
        self.phase, self.calls = phase, 0

    def needs_keyframe(self, since, previous, view):
        self.calls += 1
        return (self.calls + self.phase) % INTERVAL == 0

    def reset(self):
        self.calls = 0


@pytest.mark.parametrize("method, flow, carry", [*LOGITS[3:], *LABELS])
def test_cameras_of_a_group_are_streams_of_their_own(method, flow, carry):
    engine, cameras = engine_of(method, flow, carry), [moving(seed=seed) for seed in (3, 4, 5)]
    group = CameraGroup(engine, 3, INTERVAL)
    alone = [VideoSegmenter(network(flow), engine=engine, schedule=Staggered(phase)) for phase in group.phase]
    kinds = set()
    for now in zip(*cameras):
        for number, (labels, segmenter, frame) in enumerate(zip(group(now), alone, now)):
            assert same(labels, segmenter(frame))
            assert group.states[number].since == segmenter.state.since
        kinds.add(tuple(state.is_keyframe for state in group.states))
    assert len(kinds) == 4  # all, then each alone
    group.reset(1)
    assert same(group(now)[1], VideoSegmenter(network(flow), engine=engine)(now[1]))


@carrying
def test_frames_that_change_their_size_begin_a_new_stream(method, flow, carry):
    segmenter = VideoSegmenter(network(flow), method=method, carry=carry, schedule=FixedInterval(9))
    parts = moving()[:2], moving((64, 96), seed=4)[:3], moving((96, 64), seed=5)[:2], moving()[2:4]
    found = [(segmenter(frame), segmenter.was_keyframe) for part in parts for frame in part]
    assert [keyframe for _, keyframe in found] == [True, False, True, False, False, True, False, True, False]
    for part in parts:
        for labels in VideoSegmenter(network(flow), method=method, carry=carry).stream(part):
            assert (found.pop(0)[0] == labels).all()


@pytest.mark.parametrize("method, flow, carry", LABELS)
def test_there_are_no_logits_where_labels_are_carried(method, flow, carry):
    segmenter = VideoSegmenter(network(flow), method=method, carry=carry)
    for frame in moving()[:2]:
        segmenter(frame)
        with pytest.raises(UserError, match="VideoSegmenter.logits: there are none where .*carry=\"labels\""):
            segmenter.logits()


@pytest.mark.parametrize("method, flow, carry", LABELS)
def test_carried_labels_at_another_size_are_those_of_the_nearest_pixels(method, flow, carry):
    segmenter, full = (VideoSegmenter(network(flow), method=method, carry=carry) for _ in range(2))
    for frame in moving()[:3]:
        labels, large, small = full(frame), segmenter(frame, size=(143, 199)), full.engine.labels(
            full.state.last, (36, 50)).numpy()
        assert (large[::2, ::2] == labels).all()
        rows, columns = np.rint(np.arange(36) * 71 / 35).astype(int), np.rint(np.arange(50) * 99 / 49).astype(int)
        assert (small == labels[rows[:, None], columns]).mean() > 0.97  # a half may be rounded either way


@with_dis
def test_threads_may_share_an_engine_with_a_classical_flow(method, carry, monkeypatch):
    engine = engine_of(method, "dis", carry)
    streams = [moving((192, 256), count=5, seed=seed) for seed in range(4)]
    expected = [[*VideoSegmenter(network("dis"), engine=engine).stream(frames)] for frames in streams]
    start, at_once, most = threading.Barrier(4), [0], [0]
    between = DISFlow.between

    def counted(*inputs):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        try:
            return between(*inputs)
        finally:
            at_once[0] -= 1

    def segmented(frames):
        torch.set_num_threads(1)
        segmenter = VideoSegmenter(network("dis"), engine=engine)
        start.wait()
        return [[*segmenter.stream(frames)] for _ in range(3)]

    monkeypatch.setattr(DISFlow, "between", counted)
    with ThreadPoolExecutor(4) as pool:
        for passes, labels in zip(pool.map(segmented, streams), expected, strict=True):
            assert all((a == b).all() for found in passes for a, b in zip(found, labels, strict=True))
    assert most[0] > 1  # otherwise nothing has been tried


@pytest.mark.parametrize("preset, size", [("ultrafast", (64, 64)), ("fast", (48, 80)), ("medium", (16, 16))])
def test_flow_does_not_depend_on_the_sizes_seen_before(preset, size):
    dis, frames, small = DISFlow(256, preset), moving((256, 384), count=2), moving(size, count=2)
    before, after = (dis.look(frame) for frame in frames)
    expected = dis.between(before, after, (32, 48))
    dis.between(dis.look(small[0]), dis.look(small[1]), (8, 8))
    assert np.array_equal(dis.between(before, after, (32, 48)), expected)



@with_dis
def test_two_streams_of_different_sizes_that_take_turns_are_two_streams(method, carry):
    engine, streams = engine_of(method, "dis", carry), (moving(seed=3), moving((64, 64), seed=5))
    alone = [[*VideoSegmenter(network("dis"), engine=engine).stream(frames)] for frames in streams]
    segmenters = [VideoSegmenter(network("dis"), engine=engine) for _ in streams]
    for t, frames in enumerate(zip(*streams)):
        for segmenter, frame, labels in zip(segmenters, frames, alone):
            assert (segmenter(frame) == labels[t]).all(), t



@pytest.mark.parametrize("settings", [
    {"carry": "labels"}, {"method": "per-frame", "carry": "labels"}, {"method": "auto"}, {"method": "wrap"},
    {"method": "warp", "carry": "label"},
])
def test_invalid_methods_are_refused(settings):
    with pytest.raises(UserError):
        VideoSegmenter(network("light"), **settings)


@pytest.mark.parametrize("speed", [0.3, 0.45, 0.6, 1.0])
def test_labels_follow_slow_motion_over_many_frames(speed):
    """Each frame moves by less than a pixel; the keyframe's map is moved once, by the sum."""
    engine, (height, width), count = engine_of("warp", "dis", "labels"), (72, 100), 21
    picture = cv2.GaussianBlur(moving((height, width + 40), count=1)[0], (0, 0), 1.5)
    frames = [
        cv2.warpAffine(picture, np.float32([[1, 0, -speed * t], [0, 1, 0]]), (width, height), flags=cv2.INTER_LINEAR)
        for t in range(count)
    ]
    seen = engine.see(torch.from_numpy(frames[0])[None])
    state, sum_of_steps = engine.first(seen), 0.0
    keyframe = engine.labels(state, (height, width))
    for frame in frames[1:]:
        seen = engine.see(torch.from_numpy(frame)[None], seen)
        state = engine.next(state, seen)
        sum_of_steps += float(seen.flow[0, 0, 12:-12, 12:60].median())
    assert sum_of_steps > 0.9 * speed * (count - 1)
    shift, labels = round(sum_of_steps), engine.labels(state, (height, width))
    same_place = labels[12:-12, 12:50] == keyframe[12:-12, 12 + shift : 50 + shift]
    assert same_place.float().mean() > 0.9 > (labels == keyframe).float().mean()
