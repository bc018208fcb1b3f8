"""Killed at any moment, over and over, the program loses nothing that it had saved."""
import json
import random
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch

from main import main
from models.released import read_gsvnet
from tests.main.program import DOOR, Program, experiment, iteration, temporaries, trained, training
from trainer.runs import LATEST

EPOCHS = 6  # of 13 steps; a life ends within one of them, so that five lives end before it does
KINDS = ("starting", "training", "writing a checkpoint", "evaluating", "writing metrics")


@pytest.fixture(scope="module")
def whole(streets, weights, tmp_path_factory):
    """Trained weights of a run that nobody killed, and what it found in evaluation."""
    folder = tmp_path_factory.mktemp("whole")
    words = training(streets, weights, folder)
    assert main([*words, "--epoch", str(EPOCHS), "--eval-interval", str(EPOCHS)]) == 0
    latest = experiment(folder) / LATEST
    assert main([*words, "--evaluate", "1", "--resume", str(latest)]) == 0
    return SimpleNamespace(latest=latest, tensors=trained(latest), metrics=read_json(experiment(folder, 1) / "metrics.json"))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def folders(logs: Path) -> list[Path]:
    return sorted(logs.glob("run/synthetic/*/experiment_*"), key=lambda path: int(path.name.split("_")[1]))


def latest(logs: Path) -> Path | None:
    return next((folder / LATEST for folder in reversed(folders(logs)) if (folder / LATEST).is_file()), None)


def logged_steps(logs: Path) -> int:
    """The last step in the newest log.csv whose row is whole; rows before it have to be."""
    paths = [folder / "log.csv" for folder in folders(logs) if (folder / "log.csv").is_file()]
    lines = paths[-1].read_text().splitlines(keepends=True)[1:] if paths else []
    lines = lines[:-1] if lines and not lines[-1].endswith("\n") else lines
    for line in lines:
        step, tag, value = line.strip().split(",")
        assert int(step) > 0 and "/" in tag and float(value) == float(value)
    return int(lines[-1].split(",")[0]) if lines else 0


def refuse_unreadable(logs: Path) -> None:
    """Everything that has its final name has to be whole."""
    for path in (path for folder in folders(logs) for path in folder.rglob("*") if not path.name.startswith(".")):
        if path.suffix == ".tar":
            read_gsvnet(path)
        elif path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".png":
            assert cv2.imread(str(path)) is not None, path


def die(run: Program, logs: Path, kind: str, rng: random.Random) -> None:
    """Kill the run when it is about what `kind` says."""
    done = logged_steps(logs)
    if kind == "starting":
        time.sleep(rng.uniform(0, 3))
    elif kind == "training":
        wanted = done + rng.randint(1, 10)
        run.wait_until(lambda: logged_steps(logs) >= wanted)
        time.sleep(rng.uniform(0, 0.1))
    elif kind == "writing a checkpoint":
        before, wanted = temporaries(logs), done + rng.randint(1, 4)
        run.wait_until(lambda: logged_steps(logs) >= wanted and bool(temporaries(logs) - before))
        time.sleep(rng.uniform(0, 0.01))
    elif kind == "evaluating":
        run.wait_until(lambda: "evaluate" in run.said)
        time.sleep(rng.uniform(0, 0.5))
    else:
        run.wait_until(lambda: "pixel acc." in run.said)
        time.sleep(rng.uniform(0, 0.02))
    run.kill()


@pytest.mark.slow
@pytest.mark.tried(DOOR, "a training run killed while starting, training, writing, evaluating; then resumed")
@pytest.mark.parametrize("seed", range(8))
def test_killed_while_training(streets, weights, tmp_path, whole, outcomes, seed):
    rng, logs, reached = random.Random(seed), tmp_path / "logs", 0
    every = 1 + seed % 2
    words = training(streets, weights, logs, "--epoch", str(EPOCHS), "--eval-interval", "1", "--resume", "auto", "--save-every", str(every))
    for life, kind in enumerate(rng.sample(KINDS, k=len(KINDS))):
        run = Program(words, tmp_path / f"life_{life}")
        die(run, logs, kind, rng)
        assert run.process.returncode == -9, f"{kind}: ended by itself: {run.errors}"
        refuse_unreadable(logs)
        newest = latest(logs)
        now = iteration(newest) if newest else 0
        assert now >= reached and now >= logged_steps(logs) - every, kind
        reached = now
        assert {name.split(".")[-2] for name in temporaries(logs)} <= {str(run.process.pid)}, "what was half-written piles up"
        outcomes["nothing lost"] += 1
    run = Program(words, tmp_path / "last")
    assert run.status() == 0, run.errors
    refuse_unreadable(logs)
    assert not temporaries(logs)
    tensors = trained(latest(logs))
    assert all(torch.equal(tensors[name], whole.tensors[name]) for name in whole.tensors), "other weights than undisturbed"


@pytest.mark.slow
@pytest.mark.tried(DOOR, "an evaluation killed; then repeated")
@pytest.mark.parametrize("seed", range(2))
def test_killed_while_evaluating(streets, weights, tmp_path, whole, outcomes, seed):
    rng, logs, predictions = random.Random(seed), tmp_path / "logs", tmp_path / "predictions"
    words = training(
        streets, weights, logs, "--evaluate", "1", "--resume", str(whole.latest), "--save-predictions", str(predictions),
        "--visualization", "1", "--metrics-file", str(tmp_path / "metrics.json"),
    )
    for life, kind in enumerate(rng.sample(["starting", "evaluating", "evaluating", "evaluating", "writing metrics"], k=5)):
        run = Program(words, tmp_path / f"life_{life}")
        die(run, logs, kind, rng)
        assert run.process.returncode == -9, f"{kind}: ended by itself: {run.errors}"
        refuse_unreadable(logs)
        for path in predictions.rglob("*.png"):
            assert cv2.imread(str(path)) is not None, path
        outcomes["nothing half-written"] += 1
    assert main(words) == 0
    assert read_json(tmp_path / "metrics.json") == read_json(folders(logs)[-1] / "metrics.json") == whole.metrics
