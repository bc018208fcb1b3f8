"""Unreadable training samples: an error, or skipped, counted and listed."""
import csv
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from main import main
from models.released import read_propagation
from tests.main.program import ENVIRONMENT, ROOT, experiment, refusal, trained, training
from trainer.bad_samples import LISTED
from utils.run_folder import LATEST

DOOR = "Data"


@pytest.fixture
def spoiled(streets, tmp_path):
    """The tiny streets with one labelled training frame cut short, which ends a clip of every interval."""
    copy = tmp_path / "streets"
    shutil.copytree(streets, copy)
    frame = copy / "leftImg8bit_sequence" / "train" / "streets" / "streets_000001_000005_leftImg8bit.png"
    frame.write_bytes(frame.read_bytes()[:200])
    return copy, frame


def listed(folder):
    with open(folder / LISTED, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.tried(
    DOOR, "one corrupt frame among the training's: --on-bad-sample error",
    "one line that names it, status 2",
)
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("stage", [[], ["--stage", "segnet", "--pretrained-backbone", "0"], ["--stage", "flow"]])
def test_corrupt_frame_stops_training(spoiled, weights, tmp_path, capsys, stage, workers):
    copy, frame = spoiled
    assert main([*training(copy, weights, tmp_path / "logs"), *stage, "--num-worker", workers]) == 2
    expected = f"error: {frame}: not a readable picture (200 bytes); restore the file"
    assert refusal(capsys.readouterr().err).startswith(expected)


@pytest.mark.tried(
    DOOR, "one corrupt frame among the training's: --on-bad-sample skip",
    "trained, the frame counted and listed",
)
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("stage", ["gsv", "segnet", "flow"])
def test_corrupt_frame_is_skipped_counted_and_listed(spoiled, weights, tmp_path, capsys, stage, workers):
    copy, frame = spoiled
    words = [*training(copy, weights, tmp_path / "logs"), "--stage", stage, "--pretrained-backbone", "0",
             "--on-bad-sample", "skip", "--num-worker", workers, "--epoch", "2"]
    assert main(words) == 0
    name = {"gsv": "swiftnet_test", "segnet": "segnet_swiftnet_test", "flow": "flow_light_test"}[stage]
    head, *rows = listed(experiment(tmp_path / "logs", name=name))
    assert head == ["times", "reason"]
    assert len(rows) == 1 and rows[0][1].startswith(f"{frame}: not a readable picture")
    times = int(rows[0][0])
    assert 1 <= times <= 4  # two epochs of at most two intervals
    printed = capsys.readouterr()
    assert printed.err == "" and printed.out.count("skipped: ") == 1
    assert re.search(rf"{times} times another sample replaced one of 1 unreadable samples: \S+{LISTED}", printed.out)


@pytest.mark.tried(
    DOOR, "the same, interrupted and resumed, and over two processes",
    "same weights and counts as without",
)
def test_counts_and_weights_survive_a_restart(spoiled, weights, tmp_path):
    copy, _ = spoiled
    words = [*training(copy, weights, tmp_path / "logs"), "--on-bad-sample", "skip", "--resume", "auto"]
    assert main([*words, "--checkname", "whole", "--epoch", "2"]) == 0
    for epochs in ("1", "2"):
        assert main([*words, "--checkname", "parts", "--epoch", epochs]) == 0
    whole, parts = (experiment(tmp_path / "logs", name=f"swiftnet_{name}") for name in ("whole", "parts"))
    assert listed(whole) == listed(parts)
    a, b = trained(whole / LATEST), trained(parts / LATEST)
    assert all(torch.equal(a[name], b[name]) for name in a)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
              str(ROOT / "main.py"), *words, "--checkname", "two", "--epoch", "2"]
    done = subprocess.run(launch, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    two = experiment(tmp_path / "logs", name="swiftnet_two")
    assert listed(two) == listed(whole)
    assert read_propagation(two / LATEST).content["bad_samples"] == {listed(whole)[1][1]: int(listed(whole)[1][0])}


@pytest.mark.tried(DOOR, "every training frame corrupt, --on-bad-sample skip", "one line, status 2")
def test_no_sample_that_can_be_read(spoiled, weights, tmp_path, capsys):
    copy, _ = spoiled
    for path in (copy / "leftImg8bit_sequence" / "train").rglob("*.png"):
        path.write_bytes(b"")
    assert main([*training(copy, weights, tmp_path / "logs"), "--on-bad-sample", "skip"]) == 2
    line = refusal(capsys.readouterr().err)
    assert re.search(r"none of the \d+ training samples can be read; the first of them: \S+: not a readable", line)


@pytest.mark.tried(
    DOOR, "corrupt frame in evaluation, --on-bad-sample skip",
    "one line that names it, status 2: a score requires every frame",
)
def test_evaluation_skips_nothing(spoiled, weights, tmp_path, capsys):
    copy, _ = spoiled
    frame = sorted((copy / "leftImg8bit_sequence" / "val").rglob("*.png"))[-1]
    os.truncate(frame, 100)
    words = [*training(copy, weights, tmp_path / "logs"), "--on-bad-sample", "skip", "--evaluate", "1", "--resume", "1"]
    assert main(words) == 2
    assert str(frame) in refusal(capsys.readouterr().err)
    assert not list((tmp_path / "logs").rglob("metrics*"))
