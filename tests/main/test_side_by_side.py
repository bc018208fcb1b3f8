"""Several runs at once: on one folder, one cache, one data set, one name."""
import errno
import filecmp
import json
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch

from dataloaders.cache import PictureCache
from dataloaders.images import read_image
from main import main
from tests.main.program import DOOR, Program, experiment, iteration, refusal, trained, training
from trainer.runs import LATEST, PREVIOUS
from utils import lock
from utils.lock import FolderLock

TINY_STREETS = """
import sys
from dataloaders import build
from dataloaders.synthetic import StreetSettings
from main import main

build.StreetSettings = lambda: StreetSettings(height=64, width=128, train=3, val=2, length=6, seed=11)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def twins(weights, tmp_path_factory):
    """Two runs of one name, started together, that share a cache and want data that is not there yet."""
    folder = tmp_path_factory.mktemp("twins")
    script = folder / "tiny.py"
    script.write_text(TINY_STREETS)
    words = training(folder / "streets", weights, folder / "logs", "--cache-dir", str(folder / "cache"), "--multi-step", "1")
    both = [Program([*words, "--num-worker", "1"], folder / f"run_{i}", script) for i in range(2)]
    for program in both:
        assert program.status() == 0, program.errors
    return SimpleNamespace(folder=folder, logs=folder / "logs", data=folder / "streets", cache=folder / "cache")


@pytest.mark.xdist_group("twins")
@pytest.mark.tried(DOOR, "two runs of one name started together", "each trains in a folder of its own")
def test_runs_of_one_name_get_folders_of_their_own(twins):
    first, second = (trained(experiment(twins.logs, number) / LATEST) for number in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not experiment(twins.logs, 2).exists()


@pytest.mark.xdist_group("twins")
@pytest.mark.tried(DOOR, "two runs that share a cache of decoded frames", "every entry whole")
def test_runs_share_a_cache(twins):
    pictures = list((twins.data / "leftImg8bit_sequence" / "train").rglob("*.png"))
    assert pictures and list(twins.cache.rglob("*.npy")) and not list(twins.cache.rglob("*.tmp"))
    for path in pictures:
        assert (PictureCache(twins.cache).read(path, read_image) == read_image(path)).all()


@pytest.mark.xdist_group("twins")
@pytest.mark.tried(DOOR, "two runs that both make the synthetic streets", "the data made once, whole")
def test_runs_that_make_the_same_data_do_not_destroy_it(twins, streets):
    made = sorted(path.relative_to(streets) for path in streets.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(streets, twins.data, map(str, made), shallow=False) == ([str(path) for path in made], [], [])
    assert not [path.name for path in twins.folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def words(streets, weights, tmp_path):
    return training(streets, weights, tmp_path / "logs", "--save-every", "1")


@pytest.mark.tried(DOOR, "a run continued while another process trains in its folder", "refused in one line, until that process ends")
@pytest.mark.parametrize("folder", ["new", "continued"])
def test_a_folder_has_one_run_at_a_time(words, tmp_path, capsys, folder):
    if folder == "continued":
        assert main([*words, "--early-stop", "1"]) == 0
    again = ["--resume", "auto", "--epoch", "99"]
    first = Program([*words, "--num-worker", "1", *(again if folder == "continued" else again[2:])], tmp_path / "run")
    latest = experiment(tmp_path / "logs") / LATEST
    before = iteration(latest) if latest.is_file() else 0
    first.wait_until(lambda: latest.is_file() and iteration(latest) > before)
    first.process.send_signal(signal.SIGSTOP)  # holds it where it is, and with it the time that this test takes
    kept = {path.name: path.read_bytes() for path in latest.parent.iterdir()}
    capsys.readouterr()
    assert main([*words, *again]) == 2
    line = refusal(capsys.readouterr().err)
    assert str(latest.parent) in line and f"another process ({first.process.pid} on " in line
    assert "wait until it has ended, or choose another --checkname" in line
    assert kept == {path.name: path.read_bytes() for path in latest.parent.iterdir()}
    first.kill()  # what is left of it, its loader process, keeps nobody out
    assert main([*words, "--resume", "auto", "--early-stop", "1"]) == 0
    assert not experiment(tmp_path / "logs", 1).exists()


@pytest.mark.tried(DOOR, "a file system without locks", "a warning, and the run goes on")
def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    monkeypatch.setattr(lock.logger, "propagate", True)
    with caplog.at_level("WARNING", logger="gsvnet"):
        FolderLock(tmp_path).release()
    assert "cannot be locked (No locks available); only one process may train in it" in caplog.text


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


@pytest.mark.tried(DOOR, "files that a killed process had half-written", "cleared away by the next run of the folder")
def test_temporary_files_of_the_dead_are_cleared_away(words, tmp_path):
    assert main([*words, "--early-stop", "1"]) == 0
    folder = experiment(tmp_path / "logs")
    dead = [folder / f".{name}.99999.tmp" for name in (LATEST, PREVIOUS, "metrics.json", "log.csv")]
    for path in dead:
        shutil.copyfile(folder / LATEST, path)
    mine = folder / "notes.tmp"
    mine.write_text("a file of the user's")
    assert main([*words, "--early-stop", "1", "--resume", "auto"]) == 0
    assert not any(path.exists() for path in dead) and mine.exists()
