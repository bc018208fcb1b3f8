"""A run that is killed, out of disk space or given bad data keeps what it has saved and resumes where it was."""
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from config.command_line import parse
from config.errors import UserError
from main import main
from models.released import read_propagation
from tests.main.program import Program
from trainer.stages import STAGES
from trainer.trainer import Trainer
from utils.checkpoint import save_checkpoint
from utils.distributed import Ranks
from utils.run_folder import LATEST, PREVIOUS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def words(streets, weights, tmp_path):
    return ["--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights), "--device", "cpu",
            "--log-folder", str(tmp_path / "logs"), "--crop-height", "64", "--crop-width", "96", "--batch-size", "2",
            "--num-worker", "0", "--eval-multi-step", "1", "--multi-step", "1", "2", "--epoch", "1",
            "--eval-interval", "9", "--early-stop", "0"]


def folder(tmp_path, name="test"):
    return tmp_path / "logs" / "run" / "synthetic" / f"swiftnet_{name}" / "experiment_0"


def weights_of(path):
    content = read_propagation(path).content
    return {**content["state_dict"], **{f"flow.{k}": v for k, v in content["state_dict_of"].items()}}


@pytest.mark.tried(
    "Processes and disks", "a training run killed at chosen steps; then resumed",
    "ends with bit-identical weights",
)
def test_killed_at_several_steps_a_run_ends_bit_equal(words, tmp_path):
    words = [*words, "--epoch", "2", "--resume", "auto", "--save-every", "2"]
    log = folder(tmp_path, "killed") / "log.csv"
    for seen in (30, 110):  # lines of the log, seven a step: in the first epoch and in the second
        run = Program([*words, "--checkname", "killed"], tmp_path / "run")
        run.wait_until(lambda seen=seen: log.is_file() and len(log.read_text().splitlines()) > seen)
        run.kill()
        assert run.process.returncode == -signal.SIGKILL
    for name in ("killed", "whole"):
        assert main([*words, "--checkname", name]) == 0
    killed, whole = (weights_of(folder(tmp_path, name) / LATEST) for name in ("killed", "whole"))
    assert all(torch.equal(killed[key], whole[key]) for key in whole)


@pytest.mark.tried("Weights and checkpoints", "a damaged latest checkpoint, resumed", "the previous one is used")
def test_damaged_latest_checkpoint_is_replaced_by_the_previous_one(words, tmp_path, capsys):
    assert main([*words, "--resume", "auto", "--save-every", "5"]) == 0
    (folder(tmp_path) / LATEST).write_bytes(b"half a file")
    assert (folder(tmp_path) / PREVIOUS).is_file()
    assert main([*words, "--resume", "auto"]) == 0
    assert read_propagation(folder(tmp_path) / LATEST).content["epoch"] == 1
    assert "using checkpoint_previous.pth.tar instead" in capsys.readouterr().out


@pytest.mark.tried("Numbers", "a NaN loss", "stops before the optimizer step, names the frames")
def test_nan_loss_stops_before_the_optimizer(words, tmp_path, monkeypatch):
    trainer, before = Trainer(parse(words), torch.device("cpu"), Ranks()), {}
    real = STAGES["gsv"].loss

    def broken(stage, batch, seed):
        before.update({name: x.clone() for name, x in stage.net.guided.named_parameters()})
        losses = real(stage, batch, seed)
        return {**losses, "total": losses["total"] * float("nan")}

    monkeypatch.setattr(STAGES["gsv"], "loss", broken)
    told = r"the loss became nan in epoch 1, step 1, on the frames streets_\d+_\d+, streets_.*; lower the learning rate"
    with pytest.raises(UserError, match=told):
        trainer.train()
    assert before and all(torch.equal(x, before[name]) for name, x in trainer.stage.net.guided.named_parameters())
    kept = torch.load(folder(tmp_path) / "non_finite_rank_0.pth.tar", weights_only=True)
    assert kept["batch"]["clip"].shape[0] == 2 and "state_dict" in kept


@pytest.mark.tried(
    "Processes and disks", "a full disk when the second checkpoint is written",
    "refused in one line, the first one intact",
)
def test_full_disk_keeps_the_earlier_checkpoint_whole(words, tmp_path):
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here (unshare -rm)")
    command = shlex.join([sys.executable, str(ROOT / "main.py"), *words, "--early-stop", "1", "--resume", "auto"])
    full = tmp_path / "logs"
    full.mkdir()
    script = f"""
        mount -t tmpfs -o size=30m none {full} || exit 90
        {command} || exit 91
        cp -r {full} {tmp_path}/before
        dd if=/dev/zero of={full}/filler bs=64k 2>/dev/null
        truncate -s -512k {full}/filler
        {command} --epoch 2; status=$?
        cp -r {full}/run {tmp_path}/after
        exit $status
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr[-2000:]
    assert "No space left on device" in done.stderr and "the earlier file is intact" in done.stderr
    kept = Path("run/synthetic/swiftnet_test/experiment_0")
    after, before = tmp_path / "after" / kept.relative_to("run"), tmp_path / "before" / kept
    assert (after / LATEST).read_bytes() == (before / LATEST).read_bytes()
    left = {path.name for path in after.iterdir()}
    assert not any(name.endswith(".tmp") for name in left)


@pytest.mark.tried(
    "Processes and disks", "a log.csv ahead of its checkpoint, its last row torn", "later rows are dropped"
)
def test_going_on_forgets_what_was_noted_beyond_the_checkpoint(words, tmp_path):
    assert main([*words, "--early-stop", "1", "--resume", "auto"]) == 0
    log = folder(tmp_path) / "log.csv"
    before = log.read_text()
    log.write_text(before + "999,train/total,1.0\n99")  # a step after the checkpoint, and an incomplete row
    assert main([*words, "--early-stop", "1", "--resume", "auto", "--epoch", "2"]) == 0
    assert log.read_text().startswith(before) and "\n999," not in log.read_text()
    steps = [int(line.split(",")[0]) for line in log.read_text().splitlines()[1:] if "train/total" in line]
    assert steps == sorted(set(steps))


@pytest.mark.tried("Weights and checkpoints", "a checkpoint of other networks or classes", "refused in one line")
@pytest.mark.parametrize(
    "change, message",
    [
        (["--segnet", "bisenet"], "was trained with --segnet swiftnet, but this run has bisenet"),
        (
            ["--optical-flow-network", "flownet"],
            "was trained with --optical-flow-network light, but this run has flownet",
        ),
    ],
)
def test_checkpoint_of_other_networks_is_refused_by_name(words, tmp_path, capsys, change, message):
    assert main([*words, "--early-stop", "1"]) == 0
    path = str(folder(tmp_path) / LATEST)
    assert main([*words, *change, "--resume", path]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.tried("Weights and checkpoints", "a checkpoint of other networks or classes", "refused in one line")
def test_checkpoint_of_other_classes_is_refused_by_number(words, tmp_path, capsys, weights):
    content = dict(read_propagation(weights / "gsvnet_swnet_r18.tar").content)
    content["state_dict"] = dict(content["state_dict"])
    content["state_dict"]["grm.intra_net.intra_net.6.bias"] = torch.zeros(11)
    save_checkpoint(tmp_path / "other.tar", {key: content[key] for key in ("state_dict", "state_dict_of")})
    assert main([*words, "--resume", str(tmp_path / "other.tar")]) == 2
    assert "was trained for 11 classes, but --dataset synthetic has 19" in capsys.readouterr().err


@pytest.mark.slow
def test_half_precision_trains(words, tmp_path):
    assert main([*words, "--early-stop", "1", "--amp", "bf16"]) == 0
    assert all(x.isfinite().all() for x in weights_of(folder(tmp_path) / LATEST).values())


@pytest.mark.slow
@pytest.mark.parametrize("flow, interval, steps", [("light", "3", 2), ("flownet", "4", 1)])
def test_two_processes_take_the_steps_of_one(words, tmp_path, flow, interval, steps):
    # Few steps: a split batch rounds differently; once that moves a pixel of the edge map, a threshold, two runs differ
    # in the third digit. With random weights FlowNet2-S warps much to zero, where classes tie: it happens early.
    common = [*words, "--batch-size", "4", "--sync-bn", "1", "--multi-step", interval, "--optical-flow-network", flow]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, str(ROOT / "main.py"), *common, "--checkname", "two"], env=environment,
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert main([*common, "--checkname", "one"]) == 0
    two, one = (read_propagation(folder(tmp_path, name) / LATEST).content for name in ("two", "one"))
    assert one["progress"]["iteration"] == steps
    assert json.dumps(two["progress"]) == json.dumps({**one["progress"], "best": two["progress"]["best"]})
    for part in ("state_dict", "state_dict_of"):
        for name, value in one[part].items():
            value, other = value.double(), two[part][name].double()
            assert (value - other).norm() <= 1e-5 * max(value.norm(), 1.0), name


@pytest.mark.tried("Numbers", "a network that becomes infinite though the loss does not", "not saved, and named")
def test_diverged_network_is_not_saved(words, tmp_path, monkeypatch, capsys):
    def diverged(stage):
        stage.net.guided.guide.encoder[1].running_var[0] = float("inf")

    assert main([*words, "--early-stop", "1"]) == 0
    monkeypatch.setattr(STAGES["gsv"], "evaluate", diverged)
    words = [*words, "--early-stop", "1", "--epoch", "2", "--eval-interval", "1", "--resume", "auto"]
    assert main(words) == 2
    line = capsys.readouterr().err.strip()
    assert "running_var became NaN or infinite" in line and "lower the learning rates" in line
    assert all(x.isfinite().all() for path in folder(tmp_path).glob("*.tar") for x in weights_of(path).values())
