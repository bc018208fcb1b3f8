"""Engines in lower precisions, the cache of 8-bit graphs, and the choice of a precision by its labels."""
import logging
import zipfile

import numpy as np
import pytest
import torch

from config.command_line import parse
from config.errors import UserError
from inference import engine_choice, quantised
from inference.calibration import PLACES, calibration_pairs, places, resized
from inference.engine_choice import Choice, Trial, agreement_of, choose_engine
from inference.engines import ENGINES, build_engine, candidates, shown
from inference.stream import VideoSegmenter
from models.build import build_flow
from models.gsvnet import GSVNet
from models.guided_conv import GuidedConv
from models.half_precision import in_half
from models.released import released_name
from tests.films import panning, write_frames
from tests.inference.test_engines import moving_frames
from tests.models.tiny_networks import TinySegmenter, extra
from tests.released import fill, filled_gsvnet

CPU = torch.device("cpu")
AGREE = {"bf16": 0.97, "int8": 0.9}  # of random networks, whose logits are close to each other


@pytest.fixture
def net():
    guided = fill(GuidedConv(TinySegmenter.classes), released_name)
    return GSVNet(fill(TinySegmenter()), build_flow(name="none"), guided).eval()


@pytest.fixture
def frames():
    return moving_frames(64, 96)


@pytest.fixture
def lines(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "gsvnet")
    monkeypatch.setattr(logging.getLogger("gsvnet"), "propagate", True)
    return caplog


def needs(engine: str, precision: str) -> None:
    """Skip without the packages that an engine requires in a precision; with EXTRAS=1 that is a failure."""
    for package in ("openvino", *(["nncf"] if precision == "int8" else [])) if engine == "openvino" else ():
        extra(package)


@pytest.mark.slow
@pytest.mark.parametrize("engine, precision", [
    ("eager", "bf16"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"),
])
def test_labels_of_every_precision_are_nearly_those_of_float32(net, frames, engine, precision):
    needs(engine, precision)
    settings = dict(scale=0.75, device=CPU, precision=precision, calibration=[(frames[0], frames[1])])
    try:
        found = [*VideoSegmenter(net, engine=build_engine(engine, net, **settings)).stream(frames)]
    except UserError as error:
        if "on this processor OpenVINO computes in" in str(error):
            pytest.skip(str(error))
        raise
    expected = [*VideoSegmenter(net).stream(frames)]
    assert all(len(np.unique(labels)) > 1 for labels in expected)
    assert min((a == b).mean() for a, b in zip(expected, found)) >= AGREE.get(precision, 0.999)


def test_bf16_converts_weights_once_and_keeps_logits_in_float32():
    net = filled_gsvnet("swiftnet", "light")
    engine = build_engine("eager", net, scale=0.75, device=CPU, precision="bf16")
    kinds = {x.dtype for x in engine.networks["keyframe"].parameters()}
    seen = engine.see(torch.zeros(1, 64, 128, 3, dtype=torch.uint8))
    state = engine.next(engine.first(seen), seen)
    assert torch.bfloat16 in kinds and state.logits.dtype == state.view.dtype == torch.float32
    assert {x.dtype for x in net.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_in_half_precision_take_any_input(dtype):
    layers = torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1)
    network = in_half(torch.nn.Sequential(*layers), dtype)
    assert network(torch.zeros(2, 3, 4, 4)).dtype == dtype
    assert network[1].running_var.dtype == torch.float32


def test_quantised_graph_is_made_once_and_a_damaged_one_anew(net, frames, monkeypatch, lines):
    from onnxruntime import quantization

    made, quantise = [], quantization.quantize_static
    monkeypatch.setattr(quantization, "quantize_static", lambda *x, **more: made.append(1) or quantise(*x, **more))

    def labels(pair):
        engine = build_engine("onnx", net, scale=0.75, device=CPU, precision="int8", calibration=[pair])
        return VideoSegmenter(net, engine=engine)(frames[0])

    first = labels((frames[0], frames[1]))
    assert (labels((frames[0], frames[1])) == first).all() and len(made) == 1
    (file,) = quantised.cache_folder().iterdir()
    whole = file.read_bytes()
    at = whole.index(b"PK\x01\x02") + 10  # how the directory says that the file is compressed
    nothing = b"PK\x05\x06" + bytes(18)  # a whole archive without files
    unknown = whole[:at] + b"\x01" + whole[at + 1 :]
    damages = whole[:100], whole[:1000] + bytes(100) + whole[1100:], b"", unknown, nothing
    for damage in damages:
        file.write_bytes(damage)
        assert (labels((frames[0], frames[1])) == first).all()
        assert f"{file} is damaged" in lines.text and zipfile.ZipFile(file).testzip() is None
    assert len(made) == 1 + len(damages) and [*quantised.cache_folder().iterdir()] == [file]
    labels((frames[2], frames[3]))  # other frames
    assert len([*quantised.cache_folder().iterdir()]) == 2


def test_a_cache_that_cannot_be_written_only_costs_time(net, frames, monkeypatch, tmp_path, lines):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    engine = build_engine("onnx", net, scale=0.75, device=CPU, precision="int8", calibration=[(frames[0], frames[1])])
    assert VideoSegmenter(net, engine=engine)(frames[0]).shape == (64, 96)
    assert "int8: not kept for the next time: " in lines.text


def test_calibration_takes_pairs_spread_over_the_source_that_the_seed_chooses(tmp_path):
    write_frames(tmp_path, panning([1] * 39, size=(16, 24)))
    pairs = calibration_pairs(str(tmp_path), seed=1)
    assert len(pairs) == PLACES and all(x.shape == (16, 24, 3) for pair in pairs for x in pair)
    again, other = (calibration_pairs(str(tmp_path), seed=seed) for seed in (1, 2))
    assert all((a == b).all() for one, two in zip(pairs, again) for a, b in zip(one, two))
    assert not all((a == b).all() for one, two in zip(pairs, other) for a, b in zip(one, two))
    assert {x.shape for pair in resized(pairs, (8, 12)) for x in pair} == {(8, 12, 3)}


@pytest.mark.parametrize("count", [1, 2, 3, 17, 18, 500])
def test_places_are_different_and_have_a_frame_after_them(count):
    found = places(count)
    assert len(set(found)) == len(found) == max(1, min(PLACES, count - 1))
    assert all(0 <= place <= max(0, count - 2) for place in found) and found == sorted(found)


def test_single_picture_calibrates_alone(tmp_path):
    write_frames(tmp_path, panning([], size=(16, 24)))
    ((first, second),) = calibration_pairs(str(tmp_path))
    assert (first == second).all()


def test_camera_needs_frames_to_calibrate_on():
    with pytest.raises(UserError, match="a camera or a stream cannot be read beforehand; name .* --calibrate PATH"):
        calibration_pairs("")


def test_candidates_are_what_engines_can_do():
    assert candidates("onnx", "auto", CPU) == [("onnx", "fp32"), ("onnx", "int8")]
    assert {name for name, _ in candidates("auto", "fp32", CPU)} == {*ENGINES}
    assert candidates("openvino", "fp32", torch.device("cuda")) == []
    assert [shown(x) for x in candidates("eager", "auto", CPU)] == ["eager", "eager bf16"]


@pytest.fixture
def trials(monkeypatch):
    """Measurements of candidates by name, instead of measuring."""
    def install(**found):
        monkeypatch.setattr(Choice, "trial", lambda self, candidate, known, judged: found.get(
            shown(candidate).replace(" ", "_"), Trial(9.0, 0.0 if judged else None)))
        monkeypatch.setattr(Choice, "set_up", lambda self, candidate: candidate)

    return install


@pytest.mark.parametrize("agreement, chosen", [(0.99, "eager bf16"), (0.97, "onnx int8"), (1.0, "onnx")])
def test_auto_takes_the_fastest_precision_that_keeps_the_labels(net, trials, lines, agreement, chosen):
    trials(eager=Trial(0.4), onnx=Trial(0.25), eager_bf16=Trial(0.2, 0.995), onnx_int8=Trial(0.1, 0.98))
    found = choose_engine("auto", net, size=(64, 96), interval=3, scale=0.75, device=CPU, precision="auto",
                          agreement=agreement)
    assert shown(found) == chosen
    line = lines.records[-1].getMessage()
    assert f"onnx int8 100.0 ms with 98.00 % of the labels{', below --agreement' if agreement > 0.98 else ''}" in line


def test_measurements_are_kept_for_the_same_weights_and_size(net, monkeypatch, lines):
    measured = []
    monkeypatch.setattr(engine_choice, "seconds_a_frame", lambda engine, *_: measured.append(engine.name) or 1.0)
    monkeypatch.setattr(engine_choice, "SET_UP", {name: 0.0 if name == "eager" else 9e9 for name in ENGINES})
    settings = dict(interval=3, scale=0.75, device=CPU, frames=10)
    for size in ((64, 96), (64, 96), (64, 128)):
        assert choose_engine("auto", net, size=size, **settings).name == "eager"
    assert measured == ["eager"] * 2
    assert lines.text.count("measured by an earlier run; delete ") == 1
    damages = "{", '{"eager": ["x", null]}', '{"eager": [-1.0, null]}', '{"eager": [1.0, 2.0]}', "[" * 100_000
    for damage in damages:
        for file in quantised.cache_folder().iterdir():
            file.write_text(damage)
        choose_engine("auto", net, size=(64, 96), **settings)
    net.segmenter.load_state_dict({name: x + 1 for name, x in net.segmenter.state_dict().items()})
    choose_engine("auto", net, size=(64, 96), **settings)
    assert measured == ["eager"] * (3 + len(damages))


def test_agreement_is_that_of_the_worst_position():
    expected = [np.zeros((2, 4, 4), np.uint8)] * 2
    found = [x.copy() for x in expected]
    found[0][1, :2] = 1
    assert agreement_of(found, expected) == 0.75


VIDEO = "--video demo --output out.mp4"


@pytest.mark.parametrize(
    "words, message",
    [
        ("--stage flow --precision bf16", "--precision has an effect only with --video, --evaluate 1, --export, "),
        ("--check 1 --calibrate x", "--calibrate has an effect only with --video"),
        (f"{VIDEO} --amp bf16 --precision int8", "--amp bf16 and --precision int8 are two precisions; drop --amp"),
        (f"{VIDEO} --amp off --precision bf16", "--amp off and --precision bf16 are two precisions; drop --amp"),
        (f"{VIDEO} --agreement 0.9", "--agreement has an effect only with --precision auto"),
        (f"{VIDEO} --calibrate x", "--calibrate has an effect only with --precision int8 or auto"),
        (f"{VIDEO} --engine all", "--engine all is for --benchmark video"),
        ("--benchmark video --engine all --precision bf16", "--engine all measures every precision; drop --prec"),
        ("--evaluate 1 --precision auto", "--precision auto is for --video; choose fp32, bf16, fp16 or int8"),
        ("--benchmark table --precision int8", "--benchmark table measures untrained networks; use --benchmark video"),
    ],
)
def test_options_that_would_be_ignored_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        parse(words.split())


@pytest.mark.parametrize("words, precision", [
    (VIDEO, "fp32"), (f"{VIDEO} --amp bf16", "bf16"), (f"{VIDEO} --amp fp16 --precision fp16", "fp16"),
    ("--benchmark video --amp bf16", "bf16"), ("--evaluate 1 --amp bf16", "fp32"), ("--amp bf16", "fp32"),
])
def test_amp_of_a_video_is_its_precision(words, precision):
    assert parse(words.split()).precision == precision


def test_two_names_of_a_precision_in_python_have_to_agree(net):
    with pytest.raises(UserError, match="amp bf16 and precision int8 are two precisions; drop amp"):
        VideoSegmenter(net, amp="bf16", precision="int8")
    assert VideoSegmenter(net, amp="bf16").engine.precision == "bf16"
    with pytest.raises(UserError, match="engine must be the name of one, or an Engine, not None"):
        VideoSegmenter(net, engine=None)
