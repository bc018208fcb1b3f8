"""Killed at any moment, again and again, the program loses nothing that it has saved."""
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from main import main
from tests.main.program import (
    DOOR,
    ENVIRONMENT,
    ROOT,
    Program,
    experiment,
    folders,
    iteration,
    latest,
    logged_steps,
    read_all,
    temporaries,
    trained,
    training,
)
from tests.tried import THOROUGH
from utils.run_folder import LATEST

EPOCHS = 6  # of 13 steps; each process is killed within one of them, so that five never reach the end
KINDS = ("starting", "training", "writing a checkpoint", "evaluating", "writing metrics")


@pytest.fixture(scope="module")
def whole(streets, weights, tmp_path_factory):
    """Trained weights of an uninterrupted run, and its metrics."""
    folder = tmp_path_factory.mktemp("whole")
    words = training(streets, weights, folder)
    assert main([*words, "--epoch", str(EPOCHS), "--eval-interval", str(EPOCHS)]) == 0
    last = experiment(folder) / LATEST
    assert main([*words, "--evaluate", "1", "--resume", str(last)]) == 0
    metrics = read_json(experiment(folder, 1) / "metrics.json")
    return SimpleNamespace(latest=last, tensors=trained(last), metrics=metrics)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def die(run: Program, logs: Path, kind: str, rng: random.Random) -> None:
    """Kill the run during `kind`."""
    done = logged_steps(logs)
    if kind == "starting":
        time.sleep(rng.uniform(0, 1))  # a whole evaluation may take less than two seconds
    elif kind == "training":
        target = done + rng.randint(1, 10)
        run.wait_until(lambda: logged_steps(logs) >= target)
        time.sleep(rng.uniform(0, 0.1))
    elif kind == "writing a checkpoint":
        before, target = temporaries(logs), done + rng.randint(1, 4)
        run.wait_until(lambda: logged_steps(logs) >= target and bool(temporaries(logs) - before))
        time.sleep(rng.uniform(0, 0.01))
    elif kind == "evaluating":
        run.wait_until(lambda: "evaluate" in run.output)
        time.sleep(rng.uniform(0, 0.5))
    else:
        run.wait_until(lambda: "pixel acc." in run.output)
        time.sleep(rng.uniform(0, 0.02))
    run.kill()


@pytest.mark.slow
@pytest.mark.tried(DOOR, "a training run killed while starting, training, writing, evaluating; then resumed")
@pytest.mark.parametrize("seed", range(8 if THOROUGH else 1))
def test_killed_while_training(streets, weights, tmp_path, whole, outcomes, seed):
    rng, logs, reached = random.Random(seed), tmp_path / "logs", 0
    every = 1 + seed % 2
    words = training(
        streets, weights, logs, "--epoch", str(EPOCHS), "--eval-interval", "1", "--resume", "auto", "--save-every",
        str(every),
    )
    for life, kind in enumerate(rng.sample(KINDS, k=len(KINDS))):
        run = Program(words, tmp_path / f"life_{life}")
        die(run, logs, kind, rng)
        assert run.process.returncode == -9, f"{kind}: ended by itself: {run.errors}"
        read_all(logs)
        newest = latest(logs)
        now = iteration(newest) if newest else 0
        assert now >= reached and now >= logged_steps(logs) - every, kind
        reached = now
        assert len(temporaries(logs)) <= 2 and len(folders(logs)) <= 1, "temporary files pile up"
        outcomes["nothing lost"] += 1
    run = Program(words, tmp_path / "last")
    assert run.status() == 0, run.errors
    read_all(logs)
    assert not temporaries(logs)
    tensors = trained(latest(logs))
    assert all(torch.equal(tensors[name], x) for name, x in whole.tensors.items()), "differs from an uninterrupted run"


@pytest.mark.slow
@pytest.mark.tried(DOOR, "an evaluation killed; then repeated")
@pytest.mark.parametrize("seed", range(2 if THOROUGH else 1))
def test_killed_while_evaluating(streets, weights, tmp_path, whole, outcomes, seed):
    rng, logs, predictions = random.Random(seed), tmp_path / "logs", tmp_path / "predictions"
    words = training(
        streets, weights, logs, "--evaluate", "1", "--resume", str(whole.latest), "--save-predictions",
        str(predictions), "--visualization", "1", "--metrics-file", str(tmp_path / "metrics.json"),
    )
    kinds = ["starting", "evaluating", "evaluating", "evaluating", "writing metrics"]
    for life, kind in enumerate(rng.sample(kinds, k=len(kinds))):
        run = Program(words, tmp_path / f"life_{life}")
        die(run, logs, kind, rng)
        assert run.process.returncode == -9, f"{kind}: ended by itself: {run.errors}"
        read_all(logs)
        read_all(predictions)
        outcomes["nothing half-written"] += 1
    assert main(words) == 0
    assert read_json(tmp_path / "metrics.json") == read_json(folders(logs)[-1] / "metrics.json") == whole.metrics


@pytest.mark.tried(DOOR, "a run killed before its first save; then resumed", "starts again in its folder")
def test_killed_before_the_first_checkpoint(streets, weights, tmp_path):
    words = training(streets, weights, tmp_path, "--early-stop", "1", "--resume", "auto")
    assert main([*words, "--evaluate", "1", "--resume", "1"]) == 0  # its folder is not a training run's
    assert main(words) == 0
    first = experiment(tmp_path, 1)
    for path in first.glob("*.tar"):
        path.rename(path.with_name(f".{path.name}.99999.tmp"))
    assert main([*words, "--multi-step", "1"]) == 0
    assert iteration(first / LATEST) == logged_steps(tmp_path) == 5
    assert read_json(first / "parameters.json")["multi_step"] == [1]
    assert not experiment(tmp_path, 2).exists() and not temporaries(tmp_path)


@pytest.mark.slow
@pytest.mark.tried(DOOR, "a training run killed at, or within milliseconds of, a file operation; then resumed")
def test_killed_at_file_operations(streets, weights, tmp_path, outcomes):
    kills = 40 if THOROUGH else 10
    words = training(
        streets, weights, tmp_path / "logs", "--multi-step", "1", "--early-stop", "1", "--eval-interval", "2"
    )
    words += ["--save-every", "1", "--resume", "auto", "--epoch", "999"]
    command = [sys.executable, str(ROOT / "tests" / "main" / "dying.py"), str(tmp_path / "logs"), str(kills), *words]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    saved = json.loads(done.stdout)
    assert saved == sorted(saved) and saved[-1] > kills, "a checkpoint was lost"
    outcomes["nothing lost"] += len(saved)
    assert main([*words, "--epoch", str(saved[-1] // 5 + 1)]) == 0
    assert main([*words, "--epoch", str(saved[-1] // 5 + 1), "--checkname", "whole"]) == 0
    names = ("swiftnet_test", "swiftnet_whole")
    killed, whole = (trained(experiment(tmp_path / "logs", name=name) / LATEST) for name in names)
    assert all(torch.equal(killed[name], whole[name]) for name in whole), "differs from an uninterrupted run"
    assert not temporaries(tmp_path)
