"""The entry points of torch.hub, as another program in another folder uses them."""
import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hubconf
from config.command_line import parse
from config.errors import UserError
from inference.stream import VideoSegmenter
from models.released import GSVNET_FILES, SEGMENTER_FILES
from tests.models.tiny_networks import user_file
from utils.files import write_json
from utils.run_folder import BEST

ROOT = Path(__file__).resolve().parents[1]
LOAD = f"""
import numpy as np, torch
def load(name, **settings):
    return torch.hub.load({str(ROOT)!r}, name, source="local", **settings)
frames = np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), dtype=np.uint8)
"""


@pytest.fixture
def trained(weights, tmp_path):
    """A run folder with the released propagation."""
    folder = tmp_path / "experiment_0"
    options = parse(["--weights-dir", str(weights), "--interval", "4"])
    write_json(folder / "parameters.json", dataclasses.asdict(options))
    shutil.copyfile(weights / GSVNET_FILES["swiftnet"], folder / BEST)
    return folder


def run_elsewhere(code: str, folder: Path) -> None:
    """Run code after LOAD in another folder, without this one on Python's path. The code prints `done` at its end."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LOAD + code], cwd=folder, env=environment, capture_output=True,
                          text=True)
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr


@pytest.mark.slow
def test_released_files_load_as_segmenters_and_networks(weights, tmp_path):
    run_elsewhere(
        f"""
for name, file in { {name: SEGMENTER_FILES[name] for name in GSVNET_FILES}!r}.items():
    segmenter = load("gsvnet_" + name, weights_dir={str(weights)!r}, interval=2)
    keyframes = []
    for labels in segmenter.stream(frames):
        assert labels.shape == (48, 64) and labels.dtype == np.uint8
        keyframes.append(segmenter.state.is_keyframe)
    assert keyframes == [True, False, True, False, True], keyframes
    network = load(name, weights={str(weights)!r} + "/" + file)
    assert isinstance(network, torch.nn.Module) and not network.training
    with torch.no_grad():
        logits = network(torch.zeros(1, 3, 64, 96))
    assert logits.shape == (1, 19, 64 // network.stride, 96 // network.stride)
    assert load(name, classes=5).classes == 5
print("done")
""",
        tmp_path,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_run_folder_loads_the_segmenter_of_the_run(weights, trained, tmp_path):
    run_elsewhere(
        f"""
run = load("gsvnet_swiftnet", run={str(trained)!r})
released = load("gsvnet_swiftnet", weights_dir={str(weights)!r}, interval=4)
for frame in frames:
    assert (run(frame) == released(frame)).all()
print("done")
""",
        tmp_path,
    )


def test_messages_name_the_mistake(weights, trained):
    for settings in ({}, {"run": "a", "weights_dir": "b"}):
        with pytest.raises(UserError, match="weights_dir=FOLDER, of the released files, or run=FOLDER"):
            hubconf.gsvnet_swiftnet(**settings)
    with pytest.raises(UserError, match="was trained with the segmenter swiftnet; load gsvnet_swiftnet"):
        hubconf.gsvnet_bisenet(run=str(trained))
    with pytest.raises(UserError, match="nowhere.pt: not found"):
        hubconf.swiftnet(weights="nowhere.pt")
    with pytest.raises(UserError, match="does not fit the keyframe segmenter swiftnet"):
        hubconf.swiftnet(weights=str(weights / SEGMENTER_FILES["bisenet"]))


def test_entry_points_and_their_dependencies():
    names = [name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")]
    assert sorted(names) == ["bisenet", "gsvnet", "gsvnet_bisenet", "gsvnet_swiftnet", "segmenter", "swiftnet"]
    assert all(importlib.util.find_spec(name) for name in hubconf.dependencies)


def test_any_segmenter(weights, tmp_path, trained):
    file = tmp_path / "mine.py"
    file.write_text("import torch\ndef build():\n    return torch.nn.Conv2d(3, 5, 1), {'classes': list('abcde')}\n")
    network = hubconf.segmenter(name=f"{file}:build")
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 5, 32, 32) and network.names == tuple("abcde")
    native = hubconf.segmenter(name="swiftnet", weights=str(weights / SEGMENTER_FILES["swiftnet"]))
    assert native.weights_file and not native.training
    with pytest.raises(UserError, match="did you mean swiftnet"):
        hubconf.segmenter(name="swiftnot")
    assert hubconf.gsvnet(run=str(trained), interval=2).schedule.interval == 2


def test_any_segmenter_without_training(tmp_path):
    """As documented: its labels are moved along DIS, and its classes are its own."""
    name = f"{user_file(tmp_path)}:pair"
    for segmenter in (hubconf.gsvnet(segnet=name, interval=2), VideoSegmenter.from_segmenter(name)):
        frames = np.random.default_rng(0).integers(0, 255, (3, 64, 96, 3), dtype=np.uint8)
        labels = list(segmenter.stream(frames))
        assert labels[0].shape == (64, 96) and len(segmenter.classes) == 4
        assert segmenter.engine.method.flow is not None and segmenter.state.last.labels is not None
    with pytest.raises(UserError, match="give run=FOLDER, .* or segnet=NAME"):
        hubconf.gsvnet()
