"""The program as its users call it: trains, resumes, evaluates, and answers mistakes."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch

from config.cityscapes import CITYSCAPES
from dataloaders.images import id_table
from main import main
from models.label_map import label_map
from models.released import GSVNET_FILES, read_propagation
from tests.main.program import Program
from tests.plain_gsvnet import plain_keyframe, plain_propagated
from tests.released import filled_gsvnet, released_tensors
from utils.run_folder import LATEST

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["--crop-height", "64", "--crop-width", "96", "--batch-size", "2", "--num-worker", "0", "--epoch", "1"]


@pytest.fixture
def call(streets, weights, tmp_path):
    """Run the program in this process on the tiny streets; returns the exit status."""

    def run(*words: str) -> int:
        common = ["--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights),
                  "--log-folder", str(tmp_path / "logs"), "--num-worker", "0", "--device", "cpu"]
        return main(common + list(words))

    return run


def experiment(tmp_path: Path, name: str, number: int = 0) -> Path:
    return tmp_path / "logs" / "run" / "synthetic" / name / f"experiment_{number}"


def tensors(path: Path) -> dict:
    content = read_propagation(path).content
    return {**content["state_dict"], **{f"flow.{k}": v for k, v in content["state_dict_of"].items()}}


@pytest.mark.parametrize("segmenter, flow", [
    ("swiftnet", "light"), pytest.param("bisenet", "flownet", marks=pytest.mark.slow),
])
def test_released_files_evaluate_to_the_right_label_maps(call, streets, tmp_path, segmenter, flow):
    predictions, metrics = tmp_path / "predictions", tmp_path / "metrics.json"
    words = ["--load-flow", "0"] if flow == "flownet" else []
    assert call("--evaluate", "1", "--batch-size", "1", "--resume", "1", "--segnet", segmenter,
                "--optical-flow-network",
                flow, "--save-predictions", str(predictions), "--metrics-file", str(metrics), *words) == 0
    net, table = filled_gsvnet(segmenter, flow), id_table(CITYSCAPES)
    folder = streets / "leftImg8bit_sequence" / "val" / "streets"
    checked = 0
    for position in (0, 1, 4):
        for path in sorted((predictions / f"position_{position}").iterdir()):
            prefix, last = path.name.removesuffix("_pred_labelIds.png").rsplit("_", 1)
            names = [f"{prefix}_{t:06d}_leftImg8bit.png" for t in range(int(last) - position, int(last) + 1)]
            frames = np.stack([cv2.imread(str(folder / name))[..., ::-1] for name in names])
            clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
            with torch.no_grad():
                state = plain_keyframe(net, clip[:1])
                for frame in clip[1:]:
                    state = plain_propagated(net, state, frame[None])
            expected = table[label_map(state.logits, frames.shape[1:3]).numpy()]
            assert (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == expected).mean() >= 0.999
            checked += 1
    assert checked == 12 + 10 + 4
    content = json.loads(metrics.read_text())
    assert content["classes"] == list(CITYSCAPES.classes)
    assert [row["frames"] for row in content["positions"]] == [12, 10, 8, 6, 4]
    row = content["positions"][1]
    assert np.array(row["confusion"]).sum() <= 10 * 64 * 128
    assert set(row) == {"position", "frames", "miou", "pixel_accuracy", "mean_class_accuracy", "frequency_weighted_iou",
                        "class_iou", "confusion"}
    assert content["avg_miou"] == pytest.approx(np.mean([r["miou"] for r in content["positions"]]))
    assert content["min_miou"] == min(r["miou"] for r in content["positions"])


def test_propagation_training_writes_the_run_folder(call, tmp_path):
    assert call(*TRAIN, "--early-stop", "1", "--multi-step", "1", "2", "--eval-multi-step", "1") == 0
    folder = experiment(tmp_path, "swiftnet_test")
    for name in (LATEST, "model_best.pth.tar", "parameters.json", "log.csv", "metrics.json"):
        assert (folder / name).is_file(), name
    assert list(folder.glob("events.*"))
    content = read_propagation(folder / LATEST).content
    assert {name: list(x.shape) for name, x in content["state_dict"].items()} == released_tensors()["gsv"]
    assert {"epoch", "state_dict", "state_dict_of", "optimizer", "best_pred"} <= set(content)
    assert content["epoch"] == 1
    assert call("--evaluate", "1", "--resume", str(folder / LATEST), "--eval-multi-step", "1") == 0


@pytest.mark.parametrize("segmenter", ["swiftnet", pytest.param("bisenet", marks=pytest.mark.slow)])
def test_segmenter_stage_makes_a_file_that_segnet_weights_takes(call, tmp_path, segmenter):
    assert call("--stage", "segnet", "--segnet", segmenter, "--pretrained-backbone", "0", *TRAIN, "--early-stop",
                "1") == 0
    best = experiment(tmp_path, f"segnet_{segmenter}_test") / "model_best.pth.tar"
    assert call("--evaluate", "1", "--segnet", segmenter, "--segnet-weights", str(best), "--method", "copy",
                "--eval-multi-step", "1") == 0


@pytest.mark.slow
@pytest.mark.parametrize("segmenter", ["pidnet-s", "ddrnet23-slim", "bisenet-xception39", "bisenetv2"])
def test_further_segmenters_train_and_carry_a_propagation(call, tmp_path, segmenter):
    words = [*TRAIN, "--segnet", segmenter, "--early-stop", "1", "--multi-step", "1", "--eval-multi-step", "1"]
    assert call("--stage", "segnet", *words) == 0
    best = experiment(tmp_path, f"segnet_{segmenter}_test") / "model_best.pth.tar"
    slowly = ["--lr", "1e-4", "--guide-lr", "1e-4", "--optical-flow-lr", "1e-6"]  # the logits of 5 steps are large
    assert call(*words, *slowly, "--segnet-weights", str(best)) == 0
    trained = experiment(tmp_path, f"{segmenter}_test") / LATEST
    path = tmp_path / "metrics.json"
    assert call("--evaluate", "1", "--resume", str(trained), "--eval-multi-step", "1", "--metrics-file", str(path)) == 0
    metrics = json.loads(path.read_text())
    assert (metrics["segnet"], metrics["scale"]) == (segmenter, 1.0)


@pytest.mark.parametrize("words, message", [
    (["--resume", "1", "--evaluate", "1"], "--resume 1: the release has no file of GSVNet on pidnet-s; use --resume"),
    (["--stage", "segnet", "--pretrained-backbone", "1"], "for swiftnet and bisenet alone; start pidnet-s with --seg"),
    (["--evaluate", "1", "--method", "per-frame"], "PIDNet_S_Cityscapes_val.pt: not found"),
])
def test_what_is_not_there_for_a_further_segmenter(call, capsys, words, message):
    assert call("--segnet", "pidnet-s", *words) == 2
    assert message in capsys.readouterr().err


def test_flow_stage_makes_a_file_that_flow_weights_takes(call, tmp_path):
    assert call("--stage", "flow", *TRAIN, "--early-stop", "1") == 0
    folder = experiment(tmp_path, "flow_light_test")
    assert json.loads((folder / "metrics.json").read_text())["end_point_error"] > 0
    assert call("--evaluate", "1", "--method", "warp", "--flow-weights", str(folder / "model_best.pth.tar"),
                "--eval-multi-step", "1") == 0


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--edge", "0"], ["--intra", "0"], ["--optical-flow-network", "none"]])
def test_ablations_train_and_evaluate(call, tmp_path, words):
    assert call(*TRAIN, *words, "--early-stop", "1", "--multi-step", "1", "--eval-interval", "9", "--eval-multi-step",
                "1") == 0
    trained, found = str(experiment(tmp_path, "swiftnet_test") / LATEST), []
    for more in (["--resume", trained, *words], ["--resume", "1", *words], ["--resume", "1"]):
        path = tmp_path / "metrics.json"  # of the whole method, or said to be without the part
        assert call("--evaluate", "1", *more, "--eval-multi-step", "1", "--eval-single", "0", "--temporal", "0",
                    "--metrics-file", str(path)) == 0
        found.append(json.loads(path.read_text())["positions"][0]["confusion"])
    assert found[1] != found[2]  # a whole network that is evaluated without the part differs from itself


def test_stills_train_flow_and_propagation(call, tmp_path):
    words = [*TRAIN, "--clip-source", "stills", "--early-stop", "1", "--eval-multi-step", "1"]
    assert call("--stage", "flow", *words) == 0
    flow = experiment(tmp_path, "flow_light_test")
    assert json.loads((flow / "metrics.json").read_text())["end_point_error_without_motion"] > 0
    assert call(*words, "--multi-step", "1", "3", "--flow-weights", str(flow / "model_best.pth.tar")) == 0
    assert (experiment(tmp_path, "swiftnet_test") / LATEST).is_file()


def test_evaluation_writes_tables_and_consistency_over_time(call, tmp_path, capsys):
    assert call("--evaluate", "1", "--resume", "1") == 0
    folder = experiment(tmp_path, "swiftnet_test")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["temporal_flow"] == "true flow of the data set"
    assert [row["interval"] for row in metrics["intervals"]] == [1, 2, 3, 4, 5]
    miou = [row["miou"] for row in metrics["positions"]]
    for row in metrics["intervals"]:
        assert row["mean_miou"] == pytest.approx(np.mean(miou[: row["interval"]]))
        assert row["min_miou"] == min(miou[: row["interval"]])
        assert 0 < row["tc"] <= 1 and 0 < row["tc_visible"] <= 1 and row["pairs"] == 2 * 5
        assert row["mvc"] == row["mvc_right"] == {"8": None, "16": None}  # these videos have six frames
    assert metrics["intervals"][-1]["pooled_miou"] == pytest.approx(metrics["pooled_miou"])
    assert all(Path(row["path"]).is_file() and row["last_position"] == 4 for row in metrics["worst"])
    lost = [row["lost"] for row in metrics["worst"]]
    assert lost == sorted(lost, reverse=True) and all(x > 0 for x in lost)
    assert lost == [pytest.approx(row["first_miou"] - row["last_miou"]) for row in metrics["worst"]]
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    assert ["position", "2", "miou", "", repr(miou[2])] in rows
    printed, page = capsys.readouterr().out, (folder / "metrics.md").read_text()
    for row in metrics["positions"]:
        assert f"{100 * row['miou']:.2f}" in printed and f"| {100 * row['miou']:.2f} |" in page
    assert (folder / "report.html").stat().st_size > 0


@pytest.mark.slow
def test_resumed_run_ends_with_the_weights_of_one_that_was_never_stopped(call, tmp_path):
    words = [*TRAIN, "--multi-step", "1", "2", "--eval-interval", "9", "--resume", "auto"]
    assert call(*words, "--checkname", "whole", "--epoch", "2") == 0
    assert call(*words, "--checkname", "parts", "--epoch", "1") == 0
    assert call(*words, "--checkname", "parts", "--epoch", "2") == 0
    whole, parts = (tensors(experiment(tmp_path, f"swiftnet_{name}") / LATEST) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    assert not experiment(tmp_path, "swiftnet_parts", 1).exists()


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupt_saves_and_resume_goes_on_to_the_same_weights(streets, weights, tmp_path, number, status):
    common = ["--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights), "--log-folder",
              str(tmp_path / "logs"), "--device", "cpu", *TRAIN, "--multi-step", "1", "2", "--eval-interval", "9",
              "--epoch", "2", "--resume", "auto"]
    run = Program([*common, "--checkname", "cut"], tmp_path / "cut")
    log = experiment(tmp_path, "swiftnet_cut") / "log.csv"
    run.wait_until(lambda: log.is_file() and len(log.read_text().splitlines()) > 20)
    run.process.send_signal(number)
    assert run.status() == status
    assert (log.parent / LATEST).is_file()
    for name in ("cut", "whole"):
        assert main([*common, "--checkname", name]) == 0
    cut, whole = (tensors(experiment(tmp_path, f"swiftnet_{name}") / LATEST) for name in ("cut", "whole"))
    assert all(torch.equal(cut[k], whole[k]) for k in whole)


@pytest.mark.slow
def test_resuming_a_file_restores_the_optimizer_when_asked(call, tmp_path):
    assert call(*TRAIN, "--early-stop", "1", "--multi-step", "1", "--eval-interval", "9") == 0
    first = experiment(tmp_path, "swiftnet_test") / LATEST
    assert call(*TRAIN, "--early-stop", "1", "--multi-step", "1", "--eval-interval", "9", "--resume", str(first),
                "--reset-optimizer", "0", "--reset-best-pred", "0", "--epoch", "2") == 0
    content = read_propagation(experiment(tmp_path, "swiftnet_test", 1) / LATEST).content
    assert content["epoch"] == 2
    assert content["progress"]["iteration"] == 2 * read_propagation(first).content["progress"]["iteration"]


def test_training_from_the_released_file_starts_at_its_weights(call, weights, tmp_path):
    assert call(*TRAIN, "--early-stop", "1", "--multi-step", "1", "--eval-interval", "9", "--resume", "1", "--lr",
                "1e-30",
                "--guide-lr", "1e-30", "--optical-flow-lr", "1e-30") == 0
    after = tensors(experiment(tmp_path, "swiftnet_test") / LATEST)
    before = tensors(weights / GSVNET_FILES["swiftnet"])
    for name in before:
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(before[name], after[name]), name


def test_frozen_filter_bank_and_flow_stay_as_they_are(call, weights, tmp_path):
    assert call(*TRAIN, "--early-stop", "1", "--multi-step", "1", "--eval-interval", "9", "--resume", "1",
                "--train-optical-flow", "0") == 0
    after, before = tensors(experiment(tmp_path, "swiftnet_test") / LATEST), tensors(weights / GSVNET_FILES["swiftnet"])
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("flow.")} <= unchanged
    assert "grm.ideal_dk.filter_copy_s" in unchanged
    assert "grm.guide.guide_conv.0.weight" not in unchanged


@pytest.mark.parametrize(
    "words, message",
    [
        (["--segnt", "swiftnet"], r"unknown option --segnt \(did you mean --segnet\?\)"),
        (["--evaluate", "1"], "--evaluate 1 requires a trained propagation"),
        (["--evaluate", "1", "--resume", "nowhere.tar"], "nowhere.tar: not found"),
        (["--data-path", "/nowhere", "--dataset", "cityscapes_2k"], "/nowhere: no such folder; --data-path"),
        (["--multi-step", "9", "--epoch", "1", "--use-crop", "0"], "no labelled train frame has 9 frames before it"),
        (["--stage", "flow", "--dataset", "camvid"], "no CamVid here"),
    ],
)
def test_mistakes_get_one_line_and_status_2(call, capsys, words, message):
    assert call(*words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_broken_picture_is_named_in_one_line_whichever_process_reads_it(call, streets, tmp_path, capsys, workers):
    copy = tmp_path / "copy"
    shutil.copytree(streets, copy)
    broken = sorted((copy / "leftImg8bit_sequence" / "val").rglob("*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:100])
    capsys.readouterr()
    assert call("--evaluate", "1", "--resume", "1", "--data-path", str(copy), "--num-worker", workers) == 2
    line = capsys.readouterr().err.strip()
    assert re.fullmatch(rf"error: {re.escape(str(broken))}: not a readable picture .100 bytes.; restore the file .*",
                        line)


@pytest.mark.slow
def test_imagenet_weights_out_of_reach_are_explained(call, capsys, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr("models.resnet.resnet18", unreachable)
    assert call("--stage", "segnet", *TRAIN) == 2
    assert "cannot download the backbone's ImageNet weights" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_three_processes_evaluate_two_videos_as_one_process_does(call, streets, weights, tmp_path):
    """Consistency over time included; one of the three has no video."""
    assert call("--evaluate", "1", "--resume", "1", "--eval-multi-step", "1", "--metrics-file",
                str(tmp_path / "one.json")) == 0
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3",
             str(ROOT / "main.py"),
             "--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights), "--device", "cpu",
             "--num-worker",
             "0", "--log-folder", str(tmp_path / "logs"), "--evaluate", "1", "--resume", "1", "--eval-multi-step", "1",
             "--metrics-file", str(tmp_path / "three.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    one, three = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "three"))
    assert one["positions"] == three["positions"] and one["worst"] == three["worst"]
    for a, b in zip(one["intervals"], three["intervals"], strict=True):
        assert a["tc"] == pytest.approx(b["tc"])
        assert a["tc_visible"] == pytest.approx(b["tc_visible"])
        assert a["pairs"] == b["pairs"]


def test_segmenter_stage_evaluates_the_file_it_is_given(call, weights, tmp_path, capsys):
    assert call("--stage", "segnet", "--evaluate", "1", "--resume", "nowhere.pt", "--eval-multi-step") == 2
    assert "nowhere.pt: not found" in capsys.readouterr().err
    assert call("--stage", "segnet", "--evaluate", "1", "--resume", str(weights / "cityscapes-swnet-R18.pt"),
                "--eval-multi-step",
                "--metrics-file", str(tmp_path / "metrics.json")) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["method"] == "per-frame"


@pytest.mark.slow
def test_what_was_trained_without_a_part_is_not_given_it(call, tmp_path, capsys):
    assert call(*TRAIN, "--edge", "0", "--early-stop", "1", "--multi-step", "1", "--eval-interval", "9",
                "--eval-multi-step", "1") == 0
    trained = str(experiment(tmp_path, "swiftnet_test") / LATEST)
    assert call("--evaluate", "1", "--resume", trained, "--early-stop", "1", "--temporal", "0") == 0  # as the run
    assert call("--evaluate", "1", "--resume", trained, "--edge", "1") == 2
    assert "was trained with --edge 0, but this run has 1" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_and_count_every_frame_once(streets, weights, tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
             str(ROOT / "main.py"),
             "--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights), "--device", "cpu",
             "--log-folder", str(tmp_path / "logs"), *TRAIN, "--early-stop", "1", "--multi-step", "1",
             "--eval-multi-step", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((experiment(tmp_path, "swiftnet_test") / "metrics.json").read_text())
    # A dry run: 10 frames, two of them the first of their sequence.
    assert [row["frames"] for row in metrics["positions"]] == [10, 8]
