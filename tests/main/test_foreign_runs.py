"""Runs on a foreign segmenter: what their checkpoints say of it, and that no other one is taken, run or downloaded."""
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from config.cityscapes import CITYSCAPES
from config.command_line import parse
from config.errors import UserError
from dataloaders.images import read_image
from inference.export import run_export
from inference.keyframe_schedule import FixedInterval
from inference.stream import VideoSegmenter
from main import main
from models.build import build_flow, build_foreign
from models.gsvnet import GSVNet, keyframe_logits
from models.guided_conv import GuidedConv
from models.identity import described, digest_of
from models.label_map import label_map
from models.released import read_propagation
from models.segmenters.base import MergedClasses
from tests.main.program import refusal, training
from tests.models.tiny_networks import CLASSES, extra, randomised, user_file
from tests.released import fill
from utils.checkpoint import WeightsFile
from utils.logging import start_console
from utils.run_folder import LATEST

CODE = f"""
from pathlib import Path

from torch import nn

(Path(__file__).parent / "ran").touch()
NAMES = {CITYSCAPES.classes[::-1]}


def build():
    parts = nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 19, 1)
    return nn.Sequential(*parts), dict(classes=NAMES)


def again():
    return build()


def scaled():
    return build()[0], dict(classes=NAMES, mean=[0, 0, 0], std=[1, 1, 1])
"""


@dataclass(frozen=True)
class Run:
    """A propagation that was trained on a foreign segmenter, and the words that evaluate it."""

    words: list[str]
    specification: str
    file: Path
    folder: Path

    @property
    def evaluation(self) -> list[str]:
        return [*self.words, "--evaluate", "1", "--resume", str(self.folder / LATEST)]

    def ran(self) -> bool:
        """Whether the user's code has run since the last time."""
        marker, there = self.file.with_name("ran"), self.file.with_name("ran").exists()
        marker.unlink(missing_ok=True)
        return there


def trained(folder: Path, streets: Path, weights: Path, specification: str, file: Path, name: str, *more: str) -> Run:
    words = [*training(streets, weights, folder / "logs", "--early-stop", "1"), "--multi-step", "1"]
    segmenter = ["--segnet", specification, "--segnet-weights", str(file)]
    assert main([*words, *segmenter, *more]) == 0
    return Run(words, specification, file, folder / "logs" / "run" / "synthetic" / f"{name}_test" / "experiment_0")


def states_of(specification: str, path: Path) -> None:
    torch.save(randomised(build_foreign(name=specification).network).state_dict(), path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, streets, weights):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("user")
    (folder / "net.py").write_text(CODE)
    states_of(f"{folder}/net.py:build", folder / "trained.pth")
    file = folder / "trained.pth"
    made = trained(folder, streets, weights, f"{folder}/net.py:build", file, "net_build", "--grid", "4")
    assert made.ran()
    return made


def test_checkpoint_names_its_segmenter(run):
    content = read_propagation(run.folder / LATEST).content
    segmenter = build_foreign(name=run.specification, file=WeightsFile.read(run.file, "weights"))
    segmenter.merged = MergedClasses([[18 - number] for number in range(19)])  # the file lists them in reverse order
    assert content["segmenter"] == {
        "specification": run.specification, "file": str(run.file), "digest": digest_of(segmenter),
        "classes": list(CITYSCAPES.classes), "description": described(segmenter),
    }
    assert content["args"]["grid"] == 4
    run.ran()


def test_evaluation_and_training_go_on_with_the_runs_segmenter_and_grid(run):
    assert main([*run.evaluation, "--segnet", run.specification]) == 0
    metrics = json.loads((run.folder.with_name("experiment_1") / "metrics.json").read_text())
    assert metrics["segnet"] == run.specification and metrics["classes"] == list(CITYSCAPES.classes)
    assert json.loads((run.folder.with_name("experiment_1") / "parameters.json").read_text())["grid"] == 4
    assert main([*run.words, "--segnet", run.specification, "--resume", "auto", "--epoch", "2"]) == 0
    content = read_propagation(run.folder / LATEST).content
    assert content["epoch"] == 2 and content["segmenter"]["file"] == str(run.file)
    assert run.ran()


REFUSED = {
    "not repeated": ([], "was trained on the segmenter {it}, which is code that would be run only if you ask for it; "
                         "add --segnet {it}"),
    "a native one": (["--segnet", "swiftnet"],
                     "was trained with --segnet {it}, but this run has swiftnet; use the same"),
    "another mapping": (["--segnet", "{folder}/net.py:scaled"], "net.py:scaled: mean is [0.0, 0.0, 0.0], but the "
                                                                "propagation was trained with [123.675, "),
    "another class map": (["--segnet", "{it}", "--class-map", "{folder}/map.yaml"],
                          "(--class-map) is [[0], "),
    "other weights": (["--segnet", "{it}", "--segnet-weights", "{folder}/other.pth"], "--segnet {it}: digest "),
    "another grid": (["--segnet", "{it}", "--grid", "8"],
                     "was trained with --grid 4, but this run has 8; use the same"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_segmenters_and_grids_are_refused(run, capsys, case):
    values = {"it": run.specification, "folder": run.file.parent}
    states_of(run.specification, run.file.with_name("other.pth"))
    swapped = zip(CITYSCAPES.classes[::-1], CITYSCAPES.classes)
    run.file.with_name("map.yaml").write_text("".join(f"{own}: {name}\n" for own, name in swapped))
    other = torch.load(run.file.with_name("other.pth"), weights_only=True)
    torch.save({name: x + 1 if name == "3.bias" else x for name, x in other.items()}, run.file.with_name("other.pth"))
    run.ran()
    capsys.readouterr()
    words, message = REFUSED[case]
    assert main([*run.evaluation, *(word.format(**values) for word in words)]) == 2
    line = refusal(capsys.readouterr().err)
    assert message.format(**values) in line, line
    assert case != "other weights" or f"was trained on {run.specification} {run.file} (digest " in line
    assert run.ran() == (case in ("other weights", "another mapping", "another class map"))


def test_another_function_is_taken_for_its_weights_alone(run):
    """What a segmenter is, is its tensors: the same network by another name is the same segmenter."""
    assert main([*run.evaluation, "--segnet", run.specification.replace("build", "again")]) == 0
    run.ran()


def test_file_of_the_segmenter_is_gone(run, capsys):
    moved = shutil.move(run.file, run.file.with_name("moved.pth"))
    try:
        assert main([*run.evaluation, "--segnet", run.specification]) == 2
        line = refusal(capsys.readouterr().err)
        assert f"{run.file}: not found" in line and line.endswith("name its file with --segnet-weights"), line
        assert main([*run.evaluation, "--segnet", run.specification, "--segnet-weights", str(moved)]) == 0
    finally:
        shutil.move(moved, run.file)
    run.ran()


def test_run_folder_becomes_a_video_segmenter(run):
    run.ran()
    with pytest.raises(UserError, match=f"run only if you ask for it; add --segnet {run.file.parent}"):
        VideoSegmenter.from_run(run.folder)
    assert not run.ran()
    segmenter = VideoSegmenter.from_run(run.folder, segnet=run.specification)
    labels = segmenter(np.zeros((64, 128, 3), np.uint8))
    assert segmenter.classes == CITYSCAPES.classes
    assert labels.shape == (64, 128) and segmenter.logits().shape == (CITYSCAPES.num_classes, 16, 32)
    assert run.ran()
    with pytest.raises(UserError, match="trained|neither"):
        VideoSegmenter.from_run(run.folder, segnet="swiftnet")


@torch.no_grad()
def test_video_without_a_data_set_has_the_segmenters_classes(streets, tmp_path):
    specification, pictures = f"{user_file(tmp_path)}:pair", streets / "leftImg8bit_sequence" / "val" / "streets"
    words = ["--segnet", specification, "--method", "per-frame", "--engine", "eager", "--device", "cpu"]
    assert main(["--video", str(pictures), "--output", str(tmp_path / "labels"), *words]) == 0
    segmenter, found = build_foreign(name=specification), set()
    frames, maps = sorted(pictures.iterdir()), sorted((tmp_path / "labels").iterdir())
    assert len(frames) == len(maps)
    for frame, labels in zip(frames, maps):
        image = torch.from_numpy(np.ascontiguousarray(read_image(frame))).movedim(-1, 0)[None]
        expected = label_map(keyframe_logits(segmenter, image), image.shape[-2:]).numpy()
        written = cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)
        assert (written != expected).mean() < 1e-3  # equal up to rounding
        found |= {*np.unique(written).tolist()}
    assert found <= {*range(len(CLASSES))} and len(found) > 1  # indices, not ids of a data set


def test_video_with_a_data_set_requires_its_classes(streets, tmp_path, capsys):
    specification = f"{user_file(tmp_path)}:pair"
    words = ["--video", "demo", "--output", str(tmp_path / "labels"), "--segnet", specification]
    assert main([*words, "--method", "per-frame", "--dataset", "camvid"]) == 2
    assert f"--segnet {specification}: its class 'traffic light' is none of the" in refusal(capsys.readouterr().err)


READS_VALUES = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 19, 3, 8, 1)

    def forward(self, image):
        for _ in range(int(image.abs().sum() * 0) + 1):  # no graph can hold a loop over a value
            if float(image.mean()) > 1e9:
                raise ValueError
        return self.conv(image)


def build():
    torch.manual_seed(0)
    return Net(), {"classes": [f"c{i}" for i in range(19)]}
"""


@pytest.mark.parametrize("engine", ["onnx", pytest.param("compile", marks=pytest.mark.slow)])
def test_segmenter_that_an_engine_cannot_run_stays_in_pytorch(tmp_path, capsys, engine):
    (tmp_path / "net.py").write_text(READS_VALUES)
    net = GSVNet(build_foreign(name=f"{tmp_path}/net.py:build"), build_flow(name="light"), GuidedConv(19))
    fill(net.guided), fill(net.flow)
    frames, maps = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), dtype=np.uint8), {}
    start_console(quiet=False)
    for name in ("eager", engine):
        stream = VideoSegmenter(net.eval(), engine=name, scale=1.0, schedule=FixedInterval(2))
        maps[name] = np.stack([*stream.stream(frames)])
        if name == engine == "onnx":
            assert stream.engine.plain == {"keyframe"}
            assert "--engine onnx: the keyframe segmenter stays in plain PyTorch: " in capsys.readouterr().out
    assert (maps["eager"] == maps[engine]).mean() > 0.999 and len(np.unique(maps["eager"])) > 2


@pytest.mark.slow
def test_export_leaves_out_a_segmenter_that_cannot_be_exported(tmp_path, capsys):
    (tmp_path / "loops.py").write_text(READS_VALUES)
    start_console(quiet=False)
    for name, specification in (("whole", f"{user_file(tmp_path)}:pair"), ("rest", f"{tmp_path}/loops.py:build")):
        segmenter = build_foreign(name=specification)
        net = GSVNet(segmenter, build_flow(name="light"), GuidedConv(segmenter.classes))
        words = ["--export", str(tmp_path / name), "--export-size", "64", "96", "--resume", "1"]
        content = run_export(net, parse([*words, "--segnet", specification]))
        graphs = {"view", "propagation"} | ({"keyframe"} if name == "whole" else set())
        assert {*content["graphs"]} == graphs == {x.stem for x in (tmp_path / name).glob("*.onnx")}
        assert ("your segmenter" in " ".join(content["loop"])) is (name == "rest")
        assert [x["name"] for x in content["classes"]] == list(segmenter.names)
    assert f"{tmp_path}/loops.py:build: cannot be exported and is left out: " in capsys.readouterr().out


@pytest.mark.slow
def test_segmenter_that_needs_no_code_is_found_and_never_downloaded(tmp_path, streets, weights, monkeypatch, capsys):
    name, file = "torchvision:lraspp_mobilenet_v3_large", tmp_path / "trained.pth"
    settings = dict(weights=None, weights_backbone=None, num_classes=CITYSCAPES.num_classes)
    torch.save(randomised(extra("torchvision").models.get_model(name[12:], **settings)).state_dict(), file)
    run = trained(tmp_path, streets, weights, name, file, "torchvision_lraspp_mobilenet_v3_large")
    assert main(run.evaluation) == 0
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("downloads"))
    file.unlink()
    for more in ([], ["--segnet", name]):
        capsys.readouterr()
        assert main([*run.evaluation, *more]) == 2
        assert f"{file}: not found" in refusal(capsys.readouterr().err)
