"""Engines, streams and evaluation on a GPU against their results on the CPU. Run by `make gpu`."""
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from config.errors import UserError
from dataloaders.images import read_ids
from inference import VideoSegmenter
from inference.engines import ENGINES
from main import main
from models.label_map import label_map
from streets import StreetSettings, render_sequence
from tests.released import filled_gsvnet

pytestmark = pytest.mark.cuda

FRAMES, SIZE = 5, (128, 256)
NETWORKS = [*(("swiftnet", "light", engine) for engine in ENGINES), ("bisenet", "flownet", "eager")]
# Norm of the difference over the norm of the logits, after four propagations. The edge map is a threshold: where
# rounding moves it, a few pixels differ much, in float32 too.
DIFFERENCE = {"off": 2e-3, "bf16": 1e-1, "fp16": 2e-2}
AGREE = {"off": 0.9995, "bf16": 0.95, "fp16": 0.985}  # share of pixels with the same label


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """Convolutions in float32 proper; TF32, which PyTorch allows by default, keeps 10 bits of the mantissa."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def frames():
    street = render_sequence(StreetSettings(*SIZE, length=FRAMES), "val", 0)
    return [frame.image for frame in street]


def run(net, frames, **settings):
    """Labels (H,W) and logits (C,h,w) of each frame of a stream with a keyframe and four propagated frames."""
    from inference.keyframe_schedule import FixedInterval

    segmenter = VideoSegmenter(net, schedule=FixedInterval(FRAMES), **settings)
    return [(segmenter(frame), segmenter.logits()) for frame in frames]


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize(("segnet", "flow", "engine"), NETWORKS)
def test_logits_of_every_engine_are_those_of_the_cpu(frames, segnet, flow, engine, amp):
    net = filled_gsvnet(segnet, flow)
    expected = run(net, frames, engine="eager", device="cpu")
    try:
        found = run(net, frames, engine=engine, device="cuda", amp=amp)
    except UserError as error:
        if engine == "onnx":  # without onnxruntime-gpu, or with an amp that it does not have
            pytest.skip(str(error))
        raise
    for (labels, logits), (expected_labels, expected_logits) in zip(found, expected):
        assert labels.shape == SIZE and labels.dtype == np.uint8 and logits.dtype == np.float32
        difference = np.linalg.norm(logits - expected_logits) / np.linalg.norm(expected_logits)
        assert difference < DIFFERENCE[amp]
        assert (labels == expected_labels).mean() > AGREE[amp]


@pytest.mark.parametrize(("method", "flow", "carry"), [
    ("warp", "dis", "labels"), ("warp", "dis", "logits"), ("gsv", "dis", "logits"), ("warp", "light", "labels"),
    ("copy", "dis", "labels"),
])
def test_every_way_to_carry_finds_the_labels_of_the_cpu(frames, method, flow, carry):
    net, found = filled_gsvnet("swiftnet", flow), {}
    for device in ("cpu", "cuda"):
        segmenter = VideoSegmenter(net, device=device, method=method, carry=carry)
        found[device] = [segmenter(frame) for frame in frames]
    assert np.mean([(a == b).mean() for a, b in zip(found["cpu"], found["cuda"])]) > 0.999


def test_label_map_agrees_with_the_cpu():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 19, 9, 17, generator=generator)
    logits = 5 * torch.nn.functional.interpolate(coarse, size=(64, 128), mode="bicubic", align_corners=True)
    on_cpu, on_gpu = label_map(logits, (512, 1024)), label_map(logits.cuda(), (512, 1024)).cpu()
    assert (on_cpu == on_gpu).float().mean() > 0.9999


@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_frame_does_not_wait_for_the_gpu_before_its_labels(frames, engine):
    """Nothing between the frame and its logits waits for the GPU; the copy of the labels to the CPU does."""
    segmenter = VideoSegmenter(filled_gsvnet("swiftnet", "light"), engine=engine, device="cuda")
    for frame in frames:  # compiles, records graphs
        segmenter(frame)
    states = []
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for frame in frames:
            before = None if segmenter.state is None else segmenter.state.seen
            states.append(segmenter.advance(segmenter.state, segmenter.see(frame, before)))
            segmenter.state = states[-1]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {state.is_keyframe for state in states} == {True, False}


def test_evaluation_scores_as_on_the_cpu(streets, weights, tmp_path):
    scores = {}
    for device in ("cpu", "cuda"):
        file = tmp_path / f"{device}.json"
        words = ["--evaluate", "1", "--resume", "1", "--dataset", "synthetic", "--data-path", str(streets)]
        words += ["--weights-dir", str(weights), "--eval-multi-step", "1", "2", "--num-worker", "0", "--temporal", "0"]
        words += ["--log-folder", str(tmp_path), "--metrics-file", str(file), "--device", device]
        assert main(words) == 0
        rows = json.loads(file.read_text())["positions"]
        scores[device] = np.array([row["confusion"] for row in rows], np.int64)  # (positions,C,C)
    total = scores["cpu"].sum()
    assert scores["cuda"].sum() == total
    assert np.abs(scores["cuda"] - scores["cpu"]).sum() / 2 < 1e-3 * total


def test_label_maps_of_a_video_agree_with_the_cpu(weights, tmp_path):
    folders = {}
    for device in ("cpu", "cuda"):
        folders[device] = tmp_path / device
        videos = [str(tmp_path / f"{device}.mp4")] if find_spec("av") else []  # such machines may lack PyAV
        words = ["--video", "demo", "--output", str(folders[device]), *videos, "--resume", "1"]
        assert main([*words, "--weights-dir", str(weights), "--device", device, "--engine", "eager"]) == 0
    names = sorted(path.name for path in folders["cpu"].iterdir())
    assert len(names) == 30 and names == sorted(path.name for path in folders["cuda"].iterdir())
    same = [(read_ids(folders["cpu"] / name) == read_ids(folders["cuda"] / name)).mean() for name in names]
    assert np.mean(same) > 0.995
