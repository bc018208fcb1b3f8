"""Runs on videos without labels: what they leave, that they go on after a kill, and which method their val chooses."""
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation.metrics_json import read_metrics
from inference.stream import VideoSegmenter
from main import main
from models.released import read_propagation
from tests.films import panning, write_frames
from tests.main.program import ENVIRONMENT, ROOT, Program, trained
from tests.main.test_launchers import free_port
from tests.taught import SIZE, contents, tiny_segmenter, words_of
from utils.run_folder import BEST, LATEST

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A segmenter, 15 frames, and the word that names the segmenter."""
    folder = tmp_path_factory.mktemp("place")
    film = write_frames(folder / "film", panning([2] * 14, size=SIZE))
    return SimpleNamespace(folder=folder, film=film, segnet=tiny_segmenter(folder))


@pytest.fixture(scope="module")
def trains(place):
    """Words of a training with logs in a folder."""
    return lambda folder, *more: words_of(place.film, place.folder, folder, "--segnet", place.segnet, *more)


def runs_of(folder):
    return sorted((folder / "logs").glob("run/unlabelled/*/experiment_*"))


@pytest.fixture(scope="module")
def run(trains, tmp_path_factory):
    """The folder of a run of two epochs."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    assert main(trains(folder, "--epoch", "2", "--eval-interval", "1")) == 0
    (found,) = runs_of(folder)
    return found


def test_run_folder_has_weights_scores_and_a_report(run, place):
    assert {LATEST, BEST, "metrics.json", "metrics.csv", "report.html"} <= {path.name for path in run.iterdir()}
    for name in (LATEST, BEST):
        content = read_propagation(run / name).content
        val = content["val"]
        assert {*val} == {"frames", "positions", "ways", "warping", "gain"}
        assert val["frames"] == 3 and val["positions"] == [0, 1] and val["warping"] in ("warp", "warp labels")
        assert val["gain"] == pytest.approx(val["ways"]["gsv"][1] - val["ways"][val["warping"]][1])
        assert content["flow"]["name"] == "dis" and content["segmenter"]["specification"] == place.segnet
        assert all(by[0] > 60 for by in val["ways"].values())
    metrics = read_metrics(run / "metrics.json")
    assert metrics.split == "val" and metrics.method == "gsv" and metrics.reference == "segmenter"
    assert {row.position: row.frames for row in metrics.positions} == {0: 3, 1: 2}
    accuracy = [100 * row.pixel_accuracy for row in metrics.positions]
    assert accuracy == pytest.approx(read_propagation(run / BEST).content["val"]["ways"]["gsv"])
    losses = [line.split(",") for line in (run / "log.csv").read_text().splitlines() if "train/distillation" in line]
    assert len(losses) == 16 and all(float(value) > 0 for *_, value in losses)


WAYS = "--teacher-cache 0", "--clip-source stills", "--frames 6", "--num-worker 2", "--val-path film"


@pytest.mark.parametrize("more", WAYS)
def test_other_ways_to_train(trains, place, tmp_path, monkeypatch, more):
    monkeypatch.chdir(place.folder)
    assert main(trains(tmp_path, *more.split())) == 0
    (found,) = runs_of(tmp_path)
    assert (found / BEST).is_file() and read_metrics(found / "metrics.json").positions[0].frames in (3, 15)
    monkeypatch.chdir(tmp_path)  # a run can be evaluated from anywhere
    assert main(["--evaluate", "1", "--resume", str(found / BEST), "--segnet", place.segnet, "--device", "cpu",
                 "--log-folder", str(tmp_path / "again"), "--eval-multi-step", "1"]) == 0
    (again,) = (tmp_path / "again").glob("run/unlabelled/*/experiment_*")
    first, second = (read_metrics(folder / "metrics.json") for folder in (found, again))
    assert first.positions == second.positions


def test_all_frames_are_evaluated_without_a_run(trains, place, tmp_path):
    words = ["--evaluate", "1", "--reference", "segmenter", "--method", "copy"]
    assert main(trains(tmp_path, *words)) == 0
    (found,) = runs_of(tmp_path)
    metrics = read_metrics(found / "metrics.json")
    assert metrics.split == "all" and metrics.positions[0].frames == 15


def test_same_training_again_segments_nothing(trains, run, tmp_path, monkeypatch):
    logs = run.parents[3]
    monkeypatch.setattr("trainer.teacher.keep_arrays", lambda *_: pytest.fail("segmented again"))
    assert main(trains(tmp_path, "--cache-dir", logs / "teacher", "--early-stop", "1")) == 0
    with pytest.raises(pytest.fail.Exception):
        main(trains(tmp_path, "--cache-dir", tmp_path / "other", "--early-stop", "1"))


def teacher_rows(folder):
    states = [*(folder / "logs" / "teacher").glob("*/state.npy")]
    return int((np.load(states[0]) > 0).sum()) if states and states[0].stat().st_size > 100 else 0


def steps_done(folder):
    log = list(folder.rglob("log.csv"))
    return len({line.split(",")[0] for line in log[0].read_text().splitlines()[1:]}) if log else 0


MOMENTS = {"in the teacher's pass": (teacher_rows, 16), "in training": (steps_done, 5), "late": (steps_done, 11)}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_goes_on_and_ends_with_the_same_weights(place, tmp_path, moment):
    film = write_frames(tmp_path / "film", panning([2] * 79, size=SIZE))
    words = {
        name: words_of(film, place.folder, tmp_path / name, "--segnet", place.segnet, "--multi-step", 1, "--batch-size",
                       4, "--save-every", "1", "--resume", "auto", "--eval-interval", 9)
        for name in ("whole", "killed")
    }
    measure, least = MOMENTS[moment]
    program = Program(words["killed"], tmp_path / "life")
    program.wait_until(lambda: measure(tmp_path / "killed") >= least)
    program.kill()
    assert program.process.returncode == -signal.SIGKILL
    assert main(words["whole"]) == main(words["killed"]) == 0
    (whole,), (killed,) = runs_of(tmp_path / "whole"), runs_of(tmp_path / "killed")
    ours, theirs = trained(whole / LATEST), trained(killed / LATEST)
    assert all(torch.equal(theirs[name], x) for name, x in ours.items())
    assert read_propagation(whole / LATEST).content["val"] == read_propagation(killed / LATEST).content["val"]
    caches = [contents(tmp_path / name / "logs" / "teacher") for name in words]
    assert caches[0] == caches[1]


@pytest.mark.parametrize("more", [(), ("--teacher-cache", "0")], ids=["cache", "live"])
def test_two_processes(trains, run, tmp_path, more):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port",
               str(free_port()), str(ROOT / "main.py"), *trains(tmp_path, *more)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = runs_of(tmp_path)
    assert (found / "report.html").is_file() and read_propagation(found / LATEST).content["val"]["frames"] == 3
    if not more:
        alone, both = (contents(logs / "teacher") for logs in (run.parents[3], tmp_path / "logs"))
        assert alone == both


def with_val(run: Path, folder: Path, gain: float | None) -> Path:
    """A copy of the run whose val found this gain, or that has no val."""
    copy = shutil.copytree(run, folder / "edited")
    for name in (LATEST, BEST):
        content = torch.load(copy / name, weights_only=False)
        content.pop("val")
        torch.save(content | ({} if gain is None else {"val": {"gain": gain, "frames": 3}}), copy / name)
    return copy


@pytest.mark.parametrize("gain, given, method", [
    (0.29, (), "warp"), (0.3, (), "gsv"), (5.0, (), "gsv"), (None, (), "warp"), (-4.0, ("--method", "gsv"), "gsv"),
    (-4.0, (), "warp"),
])
def test_val_chooses_the_method_of_a_video(run, place, tmp_path, capsys, gain, given, method):
    copy = with_val(run, tmp_path, gain)
    words = ["--video", str(place.film), "--resume", str(copy / BEST), "--segnet", place.segnet, "--device", "cpu",
             "--engine", "eager", "--ids", "train"]
    capsys.readouterr()
    assert main([*words, "--output", str(tmp_path / "out"), *given]) == 0
    told = capsys.readouterr().out
    if not given:
        carried = ", carrying labels" if method == "warp" else ""
        assert f"--method auto: {method}, dis flow{carried}\n" in told
    assert ("warping is used instead" in told) == (method == "warp")
    assert ("% of the pixels better than warping" in told) == (gain is not None and not given)
    assert ("not evaluated" in told) == (gain is None)
    words[2:4] = ["--method", "warp", "--carry", "labels", "--optical-flow-network", "dis"]
    if method == "gsv":
        words[2:8] = ["--method", "gsv", "--resume", str(copy / BEST)]
    assert main([*words, "--output", str(tmp_path / "expected")]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


@pytest.mark.parametrize("gain, settings, name", [
    (0.0, {}, "CarryLabels"), (0.4, {}, "CarryLogits"), (None, {}, "CarryLabels"),
    (0.0, {"method": "gsv"}, "CarryLogits"),
])
def test_val_chooses_the_method_of_a_video_segmenter(run, place, tmp_path, gain, settings, name):
    segmenter = VideoSegmenter.from_run(with_val(run, tmp_path, gain), segnet=place.segnet, **settings)
    assert type(segmenter.engine.method).__name__ == name
    frames = panning([2] * 3, size=SIZE)
    assert all(labels.shape == SIZE for labels in segmenter.stream(frames))


def test_paths_of_a_run_are_absolute(trains, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place.folder)
    assert main(trains(tmp_path, "--val-path", "film", "--data-path", "film", "--early-stop", "1")) == 0
    (found,) = runs_of(tmp_path)
    values = json.loads((found / "parameters.json").read_text())
    assert values["data_path"] == values["val_path"] == str(place.film)
