"""TDNet and Accel as methods: streams against their authors' numbers, restarts, groups, engines, loading, table."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from config.command_line import parse
from config.errors import UserError
from evaluation.keyframe_groups import VideoPropagation, plan_video
from inference.engine_choice import choose_engine
from inference.engines import build_engine
from inference.keyframe_schedule import FixedInterval, SceneCut
from inference.stream import CameraGroup, VideoSegmenter
from models import build
from models.accel import Accel
from models.flow_none import NoFlow
from models.gsvnet import GSVNet, joined
from models.guided_conv import GuidedConv
from models.load import networks_for_inference, networks_for_training
from models.resize import align
from models.segmenters.deeplab import DeepLab18, DeepLab101
from models.segmenters.tdnet import TD4Bise18
from models.segmenters.tdnet_psp import TD4PSP18
from tests.models.test_accel import as_in_fixtures
from tests.models.tiny_video_networks import network_of, small  # noqa: F401 - a fixture
from tests.released import arrays_of, fill
from tests.utils.test_mxnet_params import packed

PEERS = Path(__file__).resolve().parents[3] / "shared" / "peers"
published = pytest.mark.skipif(not PEERS.is_dir(), reason="the fixtures of TDNet and Accel are not here")
CPU, SIZE = torch.device("cpu"), (64, 96)
METHODS = {"tdnet": "td4-bise18", "accel": "accel18"}
every_method = pytest.mark.parametrize("method", METHODS)


def in_frames(count=8, size=SIZE, seed=0) -> list[np.ndarray]:
    """A picture that moves, with new noise in each frame."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(0, 256, (size[0] // 16, size[1] // 16 + count, 3)).repeat(16, 0).repeat(16, 1)
    noise = rng.integers(-20, 21, (count, *size, 3))
    return [np.clip(wide[: size[0], 2 * t : 2 * t + size[1]] + noise[t], 0, 255).astype(np.uint8) for t in range(count)]


def stream_of(method, schedule=None, scale=1.0, **settings) -> VideoSegmenter:
    return VideoSegmenter(network_of(METHODS[method]), method=method, schedule=schedule, scale=scale, **settings)


def equal(found, expected) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def around(segmenter) -> GSVNet:
    segmenter.names = tuple(map(str, range(segmenter.classes)))
    return GSVNet(segmenter.eval(), NoFlow(), GuidedConv(segmenter.classes))


def close(found, expected) -> None:
    assert found.shape == expected.shape and (found - expected).abs().max() <= 1e-4 * expected.abs().max()


class Unnormalised:
    """In place of a segmenter's `normalise`: frames of a clip that is normalised already, as uint8 * 16."""

    def __call__(self, rgb):
        return rgb.float() / 16 - 8


@published
@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind, clip", [("bise", "clip"), ("psp", "psp_clip")])
def test_stream_of_tdnet_is_its_authors(kind, clip):
    numbers = arrays_of(PEERS / "tdnet_seed0.npz")
    net = around(fill(TD4Bise18(19) if kind == "bise" else TD4PSP18(19, norm=(17, 33))))
    engine = build_engine("eager", net, scale=1.0, device=CPU, method="tdnet")
    for step in engine.networks.values():
        step.net.normalise = Unnormalised()
    coded = ((numbers[clip] + 8) * 16).to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(Unnormalised()(coded).permute(0, 3, 1, 2), numbers[clip])
    segmenter = VideoSegmenter(net, engine=engine)
    for t, frame in enumerate(coded):
        labels = segmenter(frame.numpy())
        logits = torch.from_numpy(segmenter.logits())
        close(logits, numbers[f"{kind}_seq"][t])
        full, every = align(logits[None], frame.shape[:2]), 8 if kind == "bise" else 16
        close(full[0, :, ::every, ::every], numbers[f"{kind}_seq_up_{every}"][t])
        assert (labels == full[0].argmax(0).numpy()).mean() > 0.999 and segmenter.was_keyframe == (t == 0)


@published
@pytest.mark.slow
def test_stream_of_accel_is_its_authors():
    numbers, found = arrays_of(PEERS / "accel_seed0.npz"), []
    segmenter = VideoSegmenter(around(as_in_fixtures(Accel(19))), method="accel", scale=1.0, schedule=FixedInterval(5))
    run, outputs = segmenter.engine.run, {}

    def noted(name, *inputs):
        outputs[name] = run(name, *inputs)
        return outputs[name]

    segmenter.engine.run = noted
    for t, frame in enumerate(numbers["clip_rgb"].permute(0, 2, 3, 1)):
        found.append(segmenter(frame.numpy())[::8, ::8])
        assert segmenter.was_keyframe == (t in (0, 5))
        close(outputs["keyframe" if t in (0, 5) else "fused"][0, :, ::8, ::8], numbers["seq_8"][t].float())
    scores = numbers["seq_8"].float()
    assert (np.stack(found) == scores.argmax(1).numpy()).mean() > 0.999


@every_method
def test_reset_and_frames_of_another_size_begin_a_new_stream(small, method):  # noqa: F811
    segmenter, parts = stream_of(method), (in_frames(5), in_frames(6, (48, 80)), in_frames(4, seed=1))
    alone = [[*stream_of(method).stream(part)] for part in parts]
    for part, labels in zip(parts[:2], alone):
        assert equal([segmenter(frame) for frame in part], labels)
    segmenter(parts[2][2])
    segmenter.reset()
    assert equal([segmenter(frame) for frame in parts[2]], alone[2])
    assert sum(len(np.unique(x)) > 1 for labels in alone for x in labels) > 10
    assert not equal(alone[2][2:3], [stream_of(method)(parts[2][2])])  # a frame depends on those before


def cut() -> list[np.ndarray]:
    return [*in_frames(5), *in_frames(5, seed=9)]


@every_method
def test_scene_cut_begins_anew(small, method):  # noqa: F811
    segmenter = stream_of(method, SceneCut(10**9, 0.9))
    found, keyframes = [], []
    for frame in cut():
        found.append(segmenter(frame))
        keyframes.append(segmenter.was_keyframe)
    assert keyframes == [t in (0, 5) for t in range(10)]
    assert equal(found[5:], [*stream_of(method, FixedInterval(10**9)).stream(cut()[5:])])


def test_keyframes_come_by_interval_where_there_are_some(small):  # noqa: F811
    frames, segmenter = in_frames(8), stream_of("accel", FixedInterval(3))
    found = [*segmenter.stream(frames)]
    for start in (0, 3, 6):
        assert equal(found[start : start + 3], [*stream_of("accel").stream(frames[start : start + 3])])
    never = stream_of("tdnet")
    assert [never(frame) is not None and never.was_keyframe for frame in frames] == [True] + 7 * [False]


def test_scale_resizes_the_frame(small):  # noqa: F811
    """TDNet takes frames resized as decoded pictures are."""
    frames, half, whole = in_frames(5, (128, 192)), stream_of("tdnet", scale=0.5), stream_of("tdnet")
    for frame in frames:
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
        image = F.interpolate(image, size=SIZE, mode="bilinear").round()[0].permute(1, 2, 0).byte()
        assert half(frame).shape == (128, 192) and whole(image.numpy()).shape == SIZE
        close(torch.from_numpy(half.logits()), torch.from_numpy(whole.logits()))
    found = [*stream_of("accel", scale=0.5).stream(frames)]
    assert all(labels.shape == (128, 192) for labels in found)


@every_method
def test_states_come_apart_and_together_with_all_they_have(small, method):  # noqa: F811
    engine, frames, states = stream_of(method).engine, in_frames(5), []
    for seed in (0, 1, 2):
        state = None
        for frame in in_frames(4, seed=seed):
            seen = engine.see(torch.from_numpy(frame)[None])
            state = engine.first(seen) if state is None else engine.next(state, seen)
        states.append(state)
    together = joined(states)
    assert together.step == states[0].step == (3 if method == "tdnet" else 0)
    for one, other in zip(together.split(), states, strict=True):
        assert len(one.memory) == len(other.memory) == (3 if method == "tdnet" else 1) and one.step == other.step
        for x, y in zip((one.logits, one.view, *one.memory), (other.logits, other.view, *other.memory), strict=True):
            assert torch.equal(x, y)
        assert (one.labels is None) == (method == "tdnet") or torch.equal(one.labels, other.labels)
    assert not torch.equal(*(state.memory[0] for state in states[:2]))
    seen = engine.see(torch.from_numpy(frames[4])[None])
    after = engine.next(joined([states[0], states[0]], one_view=True), seen).split()
    alone = engine.next(states[0], seen)
    for state in after:
        assert all(torch.allclose(x, y, atol=1e-4) for x, y in zip(state.memory, alone.memory, strict=True))


@every_method
def test_inputs_are_not_modified(small, method):  # noqa: F811
    engine = stream_of(method).engine
    seen = [engine.see(torch.from_numpy(frame)[None]) for frame in in_frames(5)]
    state = engine.first(seen[0])
    for frame in seen[1:4]:
        state = engine.next(state, frame)
    tensors = [seen[4].image, seen[4].view, state.view, *state.memory, state.logits]
    copies = [x.clone() for x in tensors]
    first, second = (engine.next(state, seen[4]) for _ in range(2))
    assert all(map(torch.equal, tensors, copies))
    assert all(map(torch.equal, first.memory, second.memory)) and torch.equal(first.logits, second.logits)


@every_method
def test_groups_of_a_video_are_streams_that_begin_at_each_keyframe(small, method):  # noqa: F811
    frames, alone = in_frames(8), {}
    engine = stream_of(method).engine
    for start in range(8):
        segmenter = stream_of(method, FixedInterval(10**9))
        alone |= {(start, start + n): labels for n, labels in enumerate(segmenter.stream(frames[start:]))}
    walk = VideoPropagation({method: engine}, plan_video([True] * 8, range(7), intervals=(10**9,)))
    for t, frame in enumerate(frames):
        states = walk.advance(torch.from_numpy(frame))[method]
        assert sorted(states) == sorted({0, *range(max(0, t - 6), t + 1)})
        for start, state in states.items():
            assert (engine.labels(state, SIZE).numpy() == alone[start, t]).mean() > 0.999, (start, t)


def test_cameras_of_a_group(small):  # noqa: F811
    with pytest.raises(UserError, match="CameraGroup: this method has no keyframes; use a VideoSegmenter for each"):
        CameraGroup(stream_of("tdnet").engine, 2)
    group = CameraGroup(stream_of("accel").engine, 2, interval=3)
    cameras = [in_frames(7, seed=seed) for seed in (0, 1)]
    alone = [stream_of("accel", FixedInterval(10**9)) for _ in cameras]
    for t, now in enumerate(zip(*cameras)):
        for number, (labels, segmenter) in enumerate(zip(group(now), alone)):
            if t and (t + group.phase[number]) % 3 == 0:
                segmenter.reset()
            assert (labels == segmenter(now[number])).mean() > 0.999


def test_logits_of_a_stream(small):  # noqa: F811
    segmenter = stream_of("tdnet")
    segmenter(in_frames(1)[0])
    assert segmenter.logits().shape == (5, 8, 12) and segmenter.logits(SIZE).shape == (5, *SIZE)
    segmenter = stream_of("accel")
    segmenter(in_frames(1)[0])
    with pytest.raises(UserError, match="VideoSegmenter.logits: there are none where .*method=\"accel\""):
        segmenter.logits()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tdnet", "accel"])
@pytest.mark.parametrize("name", ["compile", "onnx"])
def test_engines_find_the_same(small, method, name):  # noqa: F811
    """Both set up by frames of noise, as for --video; after those, nothing is made anew."""
    net = network_of(METHODS[method])
    engine = choose_engine(name, net, size=SIZE, interval=3, scale=1.0, device=CPU, method=method)
    graphs = {"tdnet": 15, "accel": 6}[method]
    if name == "onnx":
        engine._create_session = None
        assert engine._session.cache_info().currsize == graphs == engine._session.cache_info().misses
    other = VideoSegmenter(net, engine=engine)
    for labels, expected in zip(other.stream(in_frames(8)), stream_of(method).stream(in_frames(8)), strict=True):
        assert (labels == expected).mean() > 0.995
    assert name != "onnx" or engine._session.cache_info().misses == graphs


def loaded(*words):
    return networks_for_inference(parse([*map(str, words), "--evaluate", "1", "--dataset", "synthetic"])).segmenter


@pytest.mark.slow
def test_released_file_of_psp18(tmp_path, monkeypatch):
    """It has classifiers of ImageNet, and lacks the auxiliary heads."""
    monkeypatch.setattr(build, "SEGMENTERS", {**build.SEGMENTERS, "td4-psp18": (TD4PSP18, {"norm": (9, 17)})})
    theirs = TD4PSP18(19, norm=(9, 17)).state_dict()
    heads = {name for name in theirs if name.startswith("auxlayer")}
    state = {name: x for name, x in theirs.items() if name not in heads}
    state |= {f"pretrained{n}.fc.{part}": torch.zeros(7) for n in range(1, 5) for part in ("weight", "bias")}
    torch.save(state, tmp_path / "td4-psp18.pkl")
    words = ("--method", "tdnet", "--tdnet", "psp18", "--weights-dir", tmp_path)
    found = loaded(*words).state_dict()
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[name], x) for name, x in theirs.items() if name not in heads)
    torch.save({**state, "enc5.weight": torch.zeros(1)}, tmp_path / "td4-psp18.pkl")
    with pytest.raises(UserError, match="td4-psp18.pkl: does not fit the keyframe segmenter td4-psp18 .*enc5.weight"):
        loaded(*words)


@pytest.mark.parametrize("more", [(), ("--resume", "1")])
def test_bise18_was_never_published(tmp_path, more):
    found = "td4-bise18: its authors published no weights; train it with --stage tdnet" if not more else (
        "--resume 1: the release has no file of td4-bise18; use --resume PATH")
    with pytest.raises(UserError, match=found):
        loaded("--method", "tdnet", "--weights-dir", tmp_path, *more)


def as_mxnet(state) -> dict:
    """Tensors under the names of MXNet's files."""
    endings = {".running_mean": "_moving_mean", ".running_var": "_moving_var", ".bias": "_bias"}
    found = {}
    for name, x in state.items():
        layer, _, ending = name.rpartition(".")
        if ending != "num_batches_tracked":
            norm = f"{layer}.running_mean" in state
            known = {".weight": "_gamma", ".bias": "_beta"} if norm else {".weight": "_weight"}
            ending = {**endings, **known}[f".{ending}"]
            kind = "aux" if "moving" in ending else "arg"
            found[f"{kind}:{layer.replace('correction', 'corr')}{ending}"] = x.numpy()
    return found


def test_accel_is_read_from_a_file_laid_over_another(small, tmp_path):  # noqa: F811
    theirs = network_of("accel18", 19).segmenter.state_dict()
    deep = {*DeepLab101(19).state_dict(), *DeepLab18(19).state_dict(), "correction.weight", "correction.bias"}
    flow = {name: x + 1 for name, x in theirs.items() if name not in deep}
    rest = {name: x for name, x in theirs.items() if name in deep or name == "Convolution5.bias"}
    below = {**flow, "rfcn.weight": torch.zeros(2), "score.bias": torch.zeros(19)}
    for name, state in (("accel-18-0000", rest), ("flow", below)):
        (tmp_path / f"{name}.params").write_bytes(packed(as_mxnet(state), 2))
    words = ("--method", "accel", "--weights-dir", tmp_path)
    found = loaded(*words, "--flow-weights", tmp_path / "flow.params").state_dict()
    for name, x in {**flow, **rest}.items():
        assert torch.equal(found[name], x), name
    with pytest.raises(UserError, match="accel-18-0000.params: does not fit the keyframe segmenter accel18.*conv"):
        loaded(*words)
    (tmp_path / "flow.params").write_bytes((tmp_path / "flow.params").read_bytes()[:-9])
    with pytest.raises(UserError, match="flow.params: cannot be read as weights of a part of Accel .*with --flow"):
        loaded(*words, "--flow-weights", tmp_path / "flow.params")


@pytest.mark.parametrize("segnet", ["td4-bise18", "accel18", "deeplab101", "deeplab18"])
def test_weights_for_other_classes_start_a_training(small, tmp_path, segnet):  # noqa: F811
    """All but what depends on the classes; Accel's upsampling stays bilinear."""
    theirs = network_of(segnet, 11).segmenter.state_dict()
    torch.save(theirs, tmp_path / "weights.pth")
    words = ["--stage", "segnet", "--segnet", segnet, "--segnet-weights", str(tmp_path / "weights.pth")]
    found = networks_for_training(parse([*words, "--dataset", "synthetic"]), None).segmenter
    differing = {name for name, x in found.state_dict().items() if x.shape != theirs[name].shape}
    kept = {name: x for name, x in found.state_dict().items() if name not in differing}
    assert differing and all(torch.equal(x, theirs[name]) for name, x in kept.items())
    for name in differing & {"upsampling.weight", "18_upsampling.weight"}:
        assert torch.equal(found.state_dict()[name][:11], theirs[name])
    with pytest.raises(UserError, match="weights.pth: does not fit the keyframe segmenter|no logits for|has no"):
        method = {"accel18": ["--method", "accel"], "td4-bise18": ["--method", "tdnet"]}.get(segnet, words[:4])
        loaded(*method, *words[4:])
