"""Weight files that are missing, damaged, hostile or of other networks, through every flag that takes one."""
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from main import main
from models.build import build_flow
from models.released import FLOWNET_FILE, GSVNET_FILES, SEGMENTER_FILES
from tests.main.program import refusal, training
from tests.released import write_released_files

DOOR = "Weights and checkpoints"

# flag -> words before the file's name, and a good file for them
DOORS = {
    "--resume": (["--evaluate", "1", "--resume"], GSVNET_FILES["swiftnet"]),
    "--resume, in training": (["--resume"], GSVNET_FILES["swiftnet"]),
    "--resume --stage segnet": (["--stage", "segnet", "--resume"], SEGMENTER_FILES["swiftnet"]),
    "--segnet-weights": (["--evaluate", "1", "--method", "copy", "--segnet-weights"], SEGMENTER_FILES["swiftnet"]),
    "--segnet-weights bisenet": (["--segnet", "bisenet", "--segnet-weights"], SEGMENTER_FILES["bisenet"]),
    "--flow-weights": (["--evaluate", "1", "--method", "warp", "--flow-weights"], "light.tar"),
    "--flow-weights flownet": (["--optical-flow-network", "flownet", "--flow-weights"], FLOWNET_FILE),
    "--video": (["--video", "demo", "--output", "labels", "--resume"], GSVNET_FILES["swiftnet"]),
    "--export": (["--export", "exported", "--export-size", "64", "64", "--resume"], GSVNET_FILES["swiftnet"]),
}


class Attack:
    def __reduce__(self):
        return os.system, ("touch ran",)


def spoil(good: Path, path: Path, change) -> None:
    """Write a file like `good`, every tensor in it changed by `change(name, tensor)`."""
    content = torch.load(good, weights_only=False)

    def walk(x, name=""):
        if isinstance(x, dict):
            return {key: walk(value, str(key)) for key, value in x.items()}
        return change(name, x) if isinstance(x, torch.Tensor) else x

    torch.save(walk(content), path)


def nan_somewhere(name: str, x: torch.Tensor) -> torch.Tensor:
    return x * float("nan") if name.endswith("weight") and x.ndim == 4 else x


FAULTS = {
    "missing": (lambda good, path: None, "not found"),
    "folder": (lambda good, path: path.mkdir(), "is a folder"),
    "empty": (lambda good, path: path.touch(), "cannot be read as .* .0 bytes"),
    "text": (lambda good, path: path.write_text("404: Not Found"), "cannot be read as"),
    "web page": (lambda good, path: path.write_text("<!DOCTYPE html><title>Sign in</title>" * 99), "cannot be read as"),
    "cut in half": (
        lambda good, path: path.write_bytes(good.read_bytes()[: good.stat().st_size // 2]), "cannot be read as"
    ),
    "last byte missing": (lambda good, path: path.write_bytes(good.read_bytes()[:-1]), "cannot be read as"),
    "hostile": (lambda good, path: torch.save({"state_dict": Attack(), "state_dict_of": {}}, path),
                r"it asks for (os|posix)\.system, which .* is not run"),
    "NaN": (
        lambda good, path: spoil(good, path, nan_somewhere), "contains NaN or infinite values; .* use an earlier one"
    ),
    "other shapes": (lambda good, path: spoil(good, path, lambda _, x: x[:1] if x.ndim == 4 else x), "does not fit"),
    "no tensors": (lambda good, path: torch.save({"state_dict": {"a": 1}, "state_dict_of": {"a": 1}}, path),
                   "contains no plain state dict"),
    "list": (lambda good, path: torch.save([1, 2], path), "contains a list"),
}


@pytest.fixture(scope="module")
def good_files(weights):
    torch.save({"state_dict_of": build_flow(name="light").state_dict()}, weights / "light.tar")
    return weights


@pytest.mark.tried(
    DOOR,
    "missing, folder, empty, text, web page, cut, hostile, NaN, other shapes, no tensors: by every flag for a file",
    "one line, status 2, no files, no code run",
)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("door", DOORS)
def test_bad_file(streets, good_files, tmp_path, monkeypatch, capsys, door, fault):
    monkeypatch.chdir(tmp_path)
    (make, message), (words, name), path = FAULTS[fault], DOORS[door], tmp_path / "the_file.tar"
    make(good_files / name, path)
    before = sorted(tmp_path.rglob("*"))
    assert main([*training(streets, good_files, tmp_path / "logs"), *words, str(path)]) == 2
    line = refusal(capsys.readouterr().err)
    assert re.search(rf"the_file\.tar: .*({message})", line), line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.tried(
    DOOR, "file of another network: segmenter for flow, flow for propagation, and so on", "one line, status 2"
)
@pytest.mark.parametrize("door", DOORS)
def test_file_of_another_network(streets, good_files, tmp_path, monkeypatch, capsys, door):
    monkeypatch.chdir(tmp_path)
    words, right = DOORS[door]
    for name in {*(SEGMENTER_FILES[x] for x in GSVNET_FILES), FLOWNET_FILE, "light.tar"} - {right}:
        assert main([*training(streets, good_files, tmp_path / "logs"), *words, str(good_files / name)]) == 2
        line = refusal(capsys.readouterr().err)
        assert name in line and re.search("does not fit|has no state_dict|contains no plain state dict", line), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.tried(DOOR, "weights of another number of classes", "one line that names both, or the tensor; status 2")
@pytest.mark.parametrize(
    "door", ["--resume", "--resume, in training", "--segnet-weights", "--segnet-weights bisenet", "--video"]
)
def test_weights_of_eleven_classes(streets, good_files, tmp_path, monkeypatch, capsys, door):
    monkeypatch.chdir(tmp_path)
    other = write_released_files(tmp_path / "other", classes=11)
    words, name = DOORS[door]
    assert main([*training(streets, good_files, tmp_path / "logs"), *words, str(other / name)]) == 2
    line = refusal(capsys.readouterr().err)
    told = "was trained for 11 classes, but --dataset synthetic has 19|does not fit .* of 19 classes"
    assert re.search(told, line), line
    assert not (tmp_path / "logs").exists()


@pytest.mark.tried(DOOR, "released files missing, or with swapped names", "one line, status 2")
@pytest.mark.parametrize(
    "words", [["--resume", "1"], ["--evaluate", "1", "--resume", "1"], ["--optical-flow-network", "flownet"]]
)
def test_missing_and_swapped_released_files(streets, good_files, tmp_path, capsys, words):
    (tmp_path / "empty").mkdir()
    assert main([*training(streets, tmp_path / "empty", tmp_path / "logs"), *words]) == 2
    assert re.search(r"empty/\S+: not found .*put .* into --weights-dir", refusal(capsys.readouterr().err))
    swapped = shutil.copytree(good_files, tmp_path / "swapped")
    (swapped / SEGMENTER_FILES["swiftnet"]).replace(swapped / "aside")
    shutil.copy(swapped / SEGMENTER_FILES["bisenet"], swapped / SEGMENTER_FILES["swiftnet"])
    assert main([*training(streets, swapped, tmp_path / "logs"), *words]) == 2
    assert "does not fit the keyframe segmenter swiftnet" in refusal(capsys.readouterr().err)
    assert not (tmp_path / "logs").exists()


@pytest.mark.tried(
    DOOR, "checkpoint whose optimizer, schedule, place in training or score are nonsense", "one line, status 2"
)
@pytest.mark.parametrize(
    "key, value",
    [
        ("optimizer", "text"), ("optimizer", {"state": {}, "param_groups": []}), ("optimizer", None), ("scheduler", 3),
        ("progress", {"epoch": "x", "pass_index": 0, "step": 0, "iteration": 0, "best": 0.0}),
        ("progress", {"colour": 1}),
        ("best_pred", [1, 2]), ("random_state", [{"cpu": torch.zeros(3)}]), ("bad_samples", {"a": "b"}),
    ],
)
def test_nonsense_in_the_training_state(streets, weights, tmp_path, capsys, key, value):
    words = training(
        streets, weights, tmp_path / "logs", "--early-stop", "1", "--multi-step", "1", "--eval-multi-step", "1"
    )
    assert main(words) == 0
    path = next((tmp_path / "logs").rglob("checkpoint.pth.tar"))
    content = torch.load(path, weights_only=True)
    torch.save({**content, key: value}, path)
    capsys.readouterr()
    for how in (["--resume", str(path), "--reset-optimizer", "0", "--reset-best-pred", "0"], ["--resume", "auto"]):
        assert main([*words, "--epoch", "2", *how]) == 2, how
        assert str(path) in refusal(capsys.readouterr().err)


@pytest.mark.tried(DOOR, "NaN or another shape in the optimizer's momenta", "one line, status 2")
@pytest.mark.parametrize("change", [lambda x: x * float("nan"), lambda x: x[:1]])
def test_impossible_momenta(streets, weights, tmp_path, capsys, change):
    words = training(
        streets, weights, tmp_path / "logs", "--early-stop", "1", "--multi-step", "1", "--eval-multi-step", "1"
    )
    assert main(words) == 0
    path = next((tmp_path / "logs").rglob("checkpoint.pth.tar"))
    content = torch.load(path, weights_only=True)
    state = next(state for state in content["optimizer"]["state"].values() if state["momentum_buffer"].ndim == 4)
    state["momentum_buffer"] = change(state["momentum_buffer"])
    torch.save(content, path)
    capsys.readouterr()
    assert main([*words, "--epoch", "2", "--resume", "auto"]) == 2
    line = refusal(capsys.readouterr().err)
    assert re.search(
        "its optimizer state does not fit .momentum_buffer .*--reset-optimizer 1 to load its weights alone", line
    )
