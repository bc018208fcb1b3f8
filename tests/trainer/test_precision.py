"""The frozen segmenter's engine and precision in training, and --amp auto."""
import json
from dataclasses import replace

import pytest
import torch

from config.command_line import parse
from config.errors import UserError
from main import main
from models.gsvnet import segment
from tests.models.tiny_networks import extra
from tests.released import filled_gsvnet
from trainer import precision
from trainer.frozen import frozen_segmenter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net():
    return filled_gsvnet("swiftnet", "light").eval()


def frames():
    return 255 * torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def short_run(streets, weights, logs, *more):
    """Words of a dry run of the propagation."""
    return [
        "--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights), "--log-folder", str(logs),
        "--crop-height", "64", "--crop-width", "96", "--batch-size", "2", "--num-worker", "0", "--multi-step", "1",
        "--eval-multi-step", "1", "--epoch", "1", "--early-stop", "1", *more,
    ]


def no_frames():
    raise AssertionError("calibration was not asked for")


@pytest.mark.parametrize(("words", "tolerance"), [([], 1e-5), (["--amp", "bf16"], 0.05), (["--engine", "onnx"], 1e-4)])
def test_frozen_segmenter_is_that_of_the_networks_in_any_engine(net, words, tolerance):
    if words == ["--engine", "onnx"]:
        pytest.importorskip("onnxscript")
    expected = segment(net.segmenter, frames())
    run = frozen_segmenter(net, parse(words), CPU, no_frames)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):  # of a training with --amp bf16
        found = run(frames())
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert (found - expected).norm() < tolerance * expected.norm()


def test_share_of_kept_classes_is_logged_once_and_one_below_agreement_is_refused(net, caplog):
    caplog.set_level("INFO")
    words = ["--precision", "bf16", "--agreement", "0.5"]
    with torch.inference_mode():
        run = frozen_segmenter(net, parse(words), CPU, no_frames)
        run(frames()), run(frames())
        said = [record.message for record in caplog.records if "float32's class" in record.message]
        assert len(said) == 1 and said[0].startswith("frozen segmenter, --engine eager --precision bf16: ")
        options = replace(parse(words), agreement=1.0)
        with pytest.raises(UserError, match=r"--precision bf16: only \d+\.\d\d % .*--agreement asks for 100"):
            frozen_segmenter(net, options, CPU, no_frames)(255 * torch.rand(1, 3, 256, 256))


@pytest.mark.slow
def test_propagation_trains_under_an_8_bit_segmenter(streets, weights, tmp_path):
    extra("openvino"), extra("nncf")
    more = ["--engine", "openvino", "--precision", "int8", "--agreement", "0"]
    assert main(short_run(streets, weights, tmp_path, *more)) == 0
    assert list(tmp_path.rglob("checkpoint.pth.tar"))


@pytest.mark.parametrize(("seconds", "chosen"), [((0.2, 0.1), "bf16"), ((0.1, 0.1), "off"), ((0.105, 0.1), "off")])
def test_amp_auto_takes_bf16_only_where_it_is_clearly_quicker(monkeypatch, seconds, chosen):
    monkeypatch.setattr(precision, "_seconds", lambda name, device: dict(zip(("fp32", "bf16"), seconds))[name])
    assert precision.with_measured_amp(parse(["--amp", "auto"]), CPU).amp == chosen
    assert precision.with_measured_amp(parse(["--amp", "off"]), CPU).amp == "off"


def test_a_run_records_what_amp_auto_chose(streets, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_seconds", lambda name, device: {"fp32": 2.0, "bf16": 1.0}[name])
    assert main(short_run(streets, weights, tmp_path, "--amp", "auto")) == 0
    recorded, = (json.loads(path.read_text()) for path in tmp_path.rglob("parameters.json"))
    assert "bf16" in json.dumps(recorded) and "auto" not in json.dumps(recorded.get("amp", ""))


@pytest.mark.parametrize(("words", "line"), [
    (["--stage", "flow", "--precision", "bf16"], "--precision has an effect only with --video"),
    (["--stage", "segnet", "--engine", "onnx"], "--engine has an effect only with --video"),
    (["--precision", "auto"], "--precision auto is for --video"),
    (["--agreement", "0.9"], "--agreement has an effect only with --precision auto, or in training"),
])
def test_what_has_no_effect_in_training_is_refused(words, line):
    with pytest.raises(UserError, match=line):
        parse(words)
