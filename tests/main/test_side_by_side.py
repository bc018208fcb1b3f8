"""Several runs at once with one folder, cache, data set or name."""
import errno
import filecmp
import json
import shutil

import pytest
import torch

from dataloaders.cache import PictureCache
from dataloaders.images import read_image
from main import main
from tests.main.program import DOOR, Program, experiment, iteration, on_streets, refusal, temporaries, trained, training
from utils import folder_lock as lock
from utils.folder_lock import FolderLock
from utils.run_folder import LATEST, PREVIOUS


@pytest.mark.slow
@pytest.mark.tried(
    DOOR, "two runs of one name at once that share a cache and make their data", "a folder each; cache and data whole"
)
def test_twins(weights, streets, tmp_path):
    script, data = tmp_path / "tiny.py", tmp_path / "data" / "streets"
    cache, logs = tmp_path / "cache", tmp_path / "logs"
    script.write_text(on_streets(height=64, width=128, train=3, val=2, length=6, seed=11))
    words = training(data, weights, logs, "--cache-dir", str(cache), "--multi-step", "1", "--num-worker", "1")
    for twin in [Program(words, tmp_path / f"run_{i}", script) for i in range(2)]:
        assert twin.status() == 0, twin.errors
    first, second = (trained(experiment(logs, number) / LATEST) for number in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not experiment(logs, 2).exists() and not temporaries(tmp_path)
    made = [str(path.relative_to(streets)) for path in sorted(streets.rglob("*")) if path.is_file()]
    assert filecmp.cmpfiles(streets, data, made, shallow=False) == (made, [], [])
    assert list(data.parent.iterdir()) == [data]
    assert list(cache.rglob("*.npy"))
    for path in (data / "leftImg8bit_sequence" / "train").rglob("*.png"):
        assert (PictureCache(cache).read(path, read_image) == read_image(path)).all()


@pytest.fixture
def words(streets, weights, tmp_path):
    return training(streets, weights, tmp_path / "logs", "--save-every", "1")


@pytest.mark.tried(
    DOOR, "a run continued while another process trains in its folder", "refused in one line, until that process ends"
)
@pytest.mark.parametrize("folder", ["new", "continued"])
def test_a_folder_has_one_run_at_a_time(words, tmp_path, capsys, folder):
    if folder == "continued":
        assert main([*words, "--early-stop", "1"]) == 0
    again = ["--resume", "auto", "--epoch", "99"]
    first = Program([*words, "--num-worker", "1", *(again if folder == "continued" else again[2:])], tmp_path / "run")
    latest = experiment(tmp_path / "logs") / LATEST
    before = iteration(latest) if latest.is_file() else 0
    first.wait_until(lambda: latest.is_file() and iteration(latest) > before)
    first.hold()  # it stays where it is while this test compares files
    kept = {path.name: path.read_bytes() for path in latest.parent.iterdir()}
    capsys.readouterr()
    assert main([*words, *again]) == 2
    line = refusal(capsys.readouterr().err)
    assert str(latest.parent) in line and f"another process ({first.process.pid} on " in line
    assert "wait until it has ended, or choose another --checkname" in line
    assert kept == {path.name: path.read_bytes() for path in latest.parent.iterdir()}
    first.kill()  # its loader process, still alive, locks nobody out
    assert main([*words, "--resume", "auto", "--early-stop", "1"]) == 0
    assert not experiment(tmp_path / "logs", 1).exists()


@pytest.mark.tried(DOOR, "a file system without locks", "a warning, and the run continues")
def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    monkeypatch.setattr(lock.logger, "propagate", True)
    with caplog.at_level("WARNING", logger="gsvnet"):
        FolderLock(tmp_path).release()
    assert "cannot be locked (No locks available); only one process may train in it" in caplog.text


@pytest.mark.slow
@pytest.mark.tried(DOOR, "evaluating a run while it is being trained", "neither disturbs the other")
def test_evaluating_while_training(words, weights, tmp_path):
    logs = tmp_path / "logs"
    run = Program([*words, "--epoch", "3"], tmp_path / "run")
    run.wait_until((experiment(logs) / PREVIOUS).is_file)
    evaluated = 0
    while run.process.poll() is None:
        assert main([*words, "--evaluate", "1", "--resume", "auto"]) == 0
        evaluated += 1
    assert evaluated and run.status() == 0, run.errors
    assert iteration(experiment(logs) / LATEST) == 39 and not list(logs.rglob("*.tmp"))
    for number in range(1, evaluated + 1):
        assert json.loads((experiment(logs, number) / "metrics.json").read_text())["positions"]
        assert not (experiment(logs, number) / LATEST).exists()


@pytest.mark.tried(DOOR, "half-written files of a killed process", "deleted by the next run in the folder")
def test_temporary_files_of_killed_processes_are_deleted(words, tmp_path):
    assert main([*words, "--early-stop", "1"]) == 0
    folder = experiment(tmp_path / "logs")
    dead = [folder / f".{name}.99999.tmp" for name in (LATEST, PREVIOUS, "metrics.json", "log.csv")]
    for path in dead:
        shutil.copyfile(folder / LATEST, path)
    mine = folder / "notes.tmp"
    mine.write_text("a file of the user")
    assert main([*words, "--early-stop", "1", "--resume", "auto"]) == 0
    assert not any(path.exists() for path in dead) and mine.exists()
