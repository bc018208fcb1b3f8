"""What users reported of programs like this one, made anew: each is either right here or refused in one line."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from config.command_line import parse
from config.contradictions import READ_BY
from config.errors import UserError
from config.options import NOT_OF_RUN, flag
from main import main
from models.build import build_segmenter
from models.gsvnet import GSVNet
from tests.main.program import ENVIRONMENT, ROOT, experiment, refusal, training
from trainer.stages.keyframe_segmenter import SegmenterStage
from trainer.trainer import Trainer
from utils.distributed import Ranks
from utils.run_folder import BEST, LATEST

DOOR = "Reports of users"
TINY = ["--crop-height", "64", "--crop-width", "96", "--batch-size", "2", "--early-stop", "1", "--epoch", "1"]


@pytest.fixture(scope="module")
def common(streets):
    return ["--dataset", "synthetic", "--data-path", str(streets), "--num-worker", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(common, weights, tmp_path_factory):
    """Folder of the logs of a segmenter and of a propagation that was trained on it, next to released files."""
    logs = tmp_path_factory.mktemp("runs")
    words = [*common, *TINY, "--log-folder", str(logs), "--weights-dir", str(weights)]
    assert main([*words, "--stage", "segnet", "--pretrained-backbone", "0"]) == 0
    segnet = experiment(logs, name="segnet_swiftnet_test") / BEST
    assert main([*words, "--multi-step", "1", "--eval-multi-step", "1", "--segnet-weights", str(segnet)]) == 0
    return logs


@pytest.fixture
def copied(runs, tmp_path):
    """The logs of `runs`, to be changed; the recorded paths still name the originals."""
    shutil.copytree(runs, tmp_path / "logs")
    return tmp_path / "logs"


def change(path: Path, **entries) -> None:
    """Replace entries of a checkpoint."""
    torch.save(torch.load(path, weights_only=True) | entries, path)


def average(words: list[str], tmp_path: Path) -> float:
    found = tmp_path / "found.json"
    assert main([*words, "--evaluate", "1", "--temporal", "0", "--log-folder", str(tmp_path / "evaluated"),
                 "--eval-multi-step", "1", "--metrics-file", str(found)]) == 0
    return json.loads(found.read_text())["avg_miou"]


@pytest.mark.tried(DOOR, "evaluating a propagation without naming its segmenter, next to a released one",
                   "takes the one that it was trained on")
def test_run_finds_its_own_segmenter(runs, common, weights, tmp_path):
    segnet, gsv = (experiment(runs, name=name) / BEST for name in ("segnet_swiftnet_test", "swiftnet_test"))
    words = [*common, "--weights-dir", str(weights)]
    expected = average([*words, "--resume", str(gsv), "--segnet-weights", str(segnet)], tmp_path)
    assert average([*words, "--resume", str(gsv)], tmp_path) == expected
    # --method per-frame reads the propagation for the name of its segmenter.
    alone = average([*words, "--method", "per-frame", "--segnet-weights", str(segnet)], tmp_path)
    assert average([*words, "--method", "per-frame", "--resume", str(gsv)], tmp_path) == alone


@pytest.mark.tried(DOOR, "a propagation whose segmenter was moved, replaced, or is lost",
                   "found by its digest next to the run or in --weights-dir, or status 2")
def test_segmenter_is_known_by_its_digest(copied, common, weights, tmp_path, capsys):
    segnet, gsv = (experiment(copied, name=name) / BEST for name in ("segnet_swiftnet_test", "swiftnet_test"))
    recorded = torch.load(gsv, weights_only=True)["segmenter"]
    words, elsewhere = [*common, "--resume", str(gsv)], tmp_path / "elsewhere"
    change(gsv, segmenter=recorded | {"file": str(tmp_path / "gone.pt")})
    found = average([*words, "--weights-dir", str(weights)], tmp_path)  # in the neighbouring run
    shutil.copytree(weights, elsewhere)
    shutil.move(segnet, elsewhere / "mine.pth")
    assert average([*words, "--weights-dir", str(elsewhere)], tmp_path) == found
    capsys.readouterr()
    lost = [*words, "--weights-dir", str(weights), "--evaluate", "1", "--log-folder", str(tmp_path / "lost")]
    assert main(lost) == 2
    line = refusal(capsys.readouterr().err)
    assert str(gsv) in line and recorded["digest"] in line and "--segnet-weights" in line
    released = weights / "cityscapes-swnet-R18.pt"
    assert main([*lost, "--segnet-weights", str(released)]) == 2
    line = refusal(capsys.readouterr().err)
    assert str(released) in line and str(tmp_path / "gone.pt") in line and str(gsv) in line
    assert not (tmp_path / "lost").exists()


@pytest.mark.tried(DOOR, "a checkpoint of the same number of classes in another order", "status 2, naming both orders")
@pytest.mark.parametrize("name", ["segnet_swiftnet_test", "swiftnet_test"])
def test_classes_in_another_order(copied, common, capsys, name):
    path = experiment(copied, name=name) / BEST
    recorded = torch.load(path, weights_only=True)["segmenter"]
    change(path, segmenter=recorded | {"classes": recorded["classes"][::-1]})
    segnet = ["--stage", "segnet"] if name.startswith("segnet") else []
    assert main([*common, *segnet, "--evaluate", "1", "--resume", str(path)]) == 2
    assert "was trained for the classes bicycle, motorcycle, " in refusal(capsys.readouterr().err)


@pytest.mark.tried(DOOR, "--resume auto with an option that belongs to the run", "status 2, naming the option")
@pytest.mark.parametrize("words, named", [
    (["--batch-size", "4"], "--batch-size 2, but this run has 4"), (["--seed", "3"], "--seed 1, but this run has 3"),
    (["--optim", "adam"], "--optim sgd, but this run has adam"),
    (["--multi-step", "1", "2"], "--multi-step 1, but this run has 1 2"),
    (["--clip-source", "stills"], "--clip-source video, but this run has stills"),
    (["--intra", "0"], "--intra 1, but this run has 0"),
])
def test_options_of_a_run_stay(copied, common, capsys, words, named):
    assert main([*common, "--log-folder", str(copied), "--resume", "auto", "--epoch", "2", *words]) == 2
    told = capsys.readouterr()
    assert f"was trained with {named}" in refusal(told.err) and "instead" not in told.out


@pytest.mark.parametrize("stage, group", [("segnet", 1), ("gsv", 1)])
def test_learning_rates_change_where_they_are_given(copied, common, capsys, stage, group):
    """--resume auto takes what is not given from the run; a given rate takes effect and scales the schedule."""
    name = "segnet_swiftnet_test" if stage == "segnet" else "swiftnet_test"
    folder, rate = experiment(copied, name=name), "lr" if stage == "segnet" else "guide_lr"
    before = torch.load(folder / LATEST, weights_only=True)
    told, schedule = before["args"], before["optimizer"]["param_groups"][group]
    new = told[rate] / 8
    words = [*common, "--log-folder", str(copied), "--stage", stage, "--resume", "auto", "--epoch", "2"]
    assert main([*words, flag(rate), str(new)]) == 0
    after = torch.load(folder / LATEST, weights_only=True)
    changed = {x for x in told if after["args"][x] != told[x]}
    assert changed <= {rate, "epoch", *NOT_OF_RUN}
    assert json.loads((folder / "parameters.json").read_text())[rate] == new
    assert after["optimizer"]["param_groups"][group]["initial_lr"] == pytest.approx(schedule["initial_lr"] / 8)
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()[1:]]
    used = [float(value) for step, tag, value in rows if tag == f"learning_rate/{group}" and int(step) > 5]
    assert used and max(used) <= schedule["initial_lr"] / 8 * 1.001
    assert f"{flag(rate)}: {told[rate]} until here, {new} from here on" in capsys.readouterr().out


@pytest.mark.slow
def test_decay_of_the_learning_rates_changes_where_it_is_given(copied, common, capsys):
    folder = experiment(copied, name="swiftnet_test")
    words = [*common, "--log-folder", str(copied), "--resume", "auto"]
    assert main([*words, "--epoch", "2", "--lr-gamma", "0.5", "--lr", "0.001"]) == 0
    assert main([*words, "--epoch", "3"]) == 0  # which takes them from the run
    content = torch.load(folder / LATEST, weights_only=True)
    assert content["scheduler"]["gamma"] == 0.5 and content["optimizer"]["param_groups"][0]["initial_lr"] == 0.001
    assert content["args"]["lr_gamma"] == 0.5


@pytest.mark.tried(DOOR, "a file continued with --reset-optimizer 0 and another batch size", "status 2, naming it")
def test_continued_file_keeps_its_options(copied, common, capsys):
    path = experiment(copied, name="swiftnet_test") / LATEST
    words = [*common, "--log-folder", str(copied), "--resume", str(path), "--reset-optimizer", "0", "--epoch", "2"]
    assert main([*words, "--batch-size", "4"]) == 2
    assert "--batch-size 2, but this run has 4" in refusal(capsys.readouterr().err)


@pytest.mark.tried(DOOR, "an option whose value is empty, as of a variable that is not set", "status 2, naming it")
@pytest.mark.parametrize("option", ["--resume", "--segnet-weights", "--data-path", "--video", "--weights-dir"])
def test_empty_value(option, capsys):
    assert main([option, ""]) == 2
    assert f"{option} has an empty value" in refusal(capsys.readouterr().err)


def test_finished_run_is_told_so(copied, common, capsys):
    assert main([*common, "--log-folder", str(copied), "--resume", "auto"]) == 0
    assert "all 1 epochs are done already; --epoch N continues to N" in capsys.readouterr().out


@pytest.mark.parametrize("best", [None, pytest.param(float("-inf"), marks=pytest.mark.slow)])
def test_best_score_may_be_none_yet(copied, common, best):
    """Where nothing has been scored, the newest weights are the best, after a resume too."""
    folder = experiment(copied, name="segnet_swiftnet_test")
    progress = torch.load(folder / LATEST, weights_only=True)["progress"]
    change(folder / LATEST, progress=progress | {"best": best}, best_pred=0.0)
    words = [*common, "--log-folder", str(copied), "--stage", "segnet", "--resume", "auto", "--epoch", "3"]
    assert main([*words, "--eval-interval", "9"]) == 0
    newest = torch.load(folder / BEST, weights_only=True)
    assert newest["epoch"] == 3 and newest["progress"]["best"] is not None  # the last epoch is always scored


@pytest.mark.tried(DOOR, "fewer training samples than processes", "status 2, with both numbers")
def test_too_few_samples_for_the_processes(common, weights, tmp_path, monkeypatch):
    words = [*common, *TINY, "--weights-dir", str(weights), "--log-folder", str(tmp_path), "--batch-size", "40"]
    monkeypatch.setattr("trainer.stages.training_stage.data_parallel", lambda module, *_, **__: module)
    trainer = Trainer(parse([*words, "--multi-step", "5"]), torch.device("cpu"), Ranks(0, 40))
    with pytest.raises(UserError, match="3 clips of interval 5 to train on, fewer than 40 processes"):
        trainer.train()
    assert not list(tmp_path.iterdir())


TASKS = {
    "training": [], "stage segnet": ["--stage", "segnet", "--pretrained-backbone", "0"],
    "stage flow": ["--stage", "flow"], "evaluate": ["--evaluate", "1"],
    "evaluate per-frame": ["--evaluate", "1", "--method", "per-frame"],
    "evaluate copy": ["--evaluate", "1", "--method", "copy"], "evaluate warp": ["--evaluate", "1", "--method", "warp"],
    "evaluate segnet": ["--evaluate", "1", "--stage", "segnet"], "check": ["--check", "1"],
    "video": ["--video", "demo", "--output", "labels"], "export": ["--export", "exported"],
    "export segnet": ["--export", "exported", "--stage", "segnet"], "demo": ["--demo", "1"],
    **{f"benchmark {name}": ["--benchmark", name, "--early-stop", "1"]
       for name in ("train", "loader", "eval", "table", "video", "schedule")},
}
ALONE = ("training", "stage segnet", "stage flow", "evaluate segnet", "export segnet")
FILES = ("segnet_weights", "guide_weights", "flow_weights", "resume", "weights_dir", "data_path", "results")


@pytest.mark.tried(DOOR, "a file or folder that is not there, by every option and task", "status 2")
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("option", FILES)
def test_named_file_that_is_not_there(streets, weights, tmp_path, monkeypatch, capsys, option, task):
    monkeypatch.chdir(tmp_path)
    dataset = "cityscapes_2k" if option == "data_path" else "synthetic"  # streets would be rendered there
    given = {"data_path": str(streets), "weights_dir": str(weights), "resume": "1"} | {option: "missing"}
    if option != "resume" and (option in ("guide_weights", "results") or task in ALONE):
        del given["resume"]
    # What does not belong to the task would be refused first.
    given = {name: x for name, x in given.items() if name == option or _reads(name, TASKS[task])}
    words = [word for name, x in given.items() for word in (flag(name), x)]
    assert main(["--dataset", dataset, *TINY, "--num-worker", "0", *TASKS[task], *words]) == 2
    line = refusal(capsys.readouterr().err)
    assert "missing" in line or flag(option) in line
    assert not list(tmp_path.rglob("*.tar"))


def _reads(option: str, words: list[str]) -> bool:
    task = " ".join(words[:2]) if words[:1] == ["--benchmark"] else next(iter(words), "training")
    return any((task if task != "--stage" else "training").startswith(reader) for reader in READ_BY[option])


@pytest.mark.tried(DOOR, "weights that would be ignored, since a resumed file has them", "status 2")
@pytest.mark.parametrize("words, unused", [
    ([], "flow_weights"), (["--evaluate", "1"], "flow_weights"),
    (["--stage", "segnet", "--evaluate", "1"], "segnet_weights"), (["--stage", "segnet"], "segnet_weights"),
])
def test_weights_that_would_be_ignored(runs, common, tmp_path, capsys, words, unused):
    resumed = experiment(runs, name="segnet_swiftnet_test" if words[:1] == ["--stage"] else "swiftnet_test") / BEST
    ignored = shutil.copy(resumed, tmp_path / "other.tar")
    assert main([*common, *TINY, *words, "--resume", str(resumed), flag(unused), str(ignored)]) == 2
    line = refusal(capsys.readouterr().err)
    assert f"{flag(unused)} {ignored}: these weights would be ignored" in line and str(resumed) in line


@pytest.mark.slow
def test_command_of_a_run_continues_it(runs, common, weights, tmp_path, capsys):
    """The command that began a run names files that its checkpoint now has; with --resume auto it stays right."""
    segnet = experiment(runs, name="segnet_swiftnet_test") / BEST
    flow = tmp_path / "flow.pt"
    content = torch.load(experiment(runs, name="swiftnet_test") / BEST, weights_only=True)
    torch.save({"state_dict_of": content["state_dict_of"]}, flow)
    words = [*common, *TINY, "--weights-dir", str(weights), "--log-folder", str(tmp_path / "logs"), "--multi-step", "1",
             "--eval-multi-step", "1", "--segnet-weights", str(segnet), "--resume", "auto"]
    assert main([*words, "--flow-weights", str(flow)]) == 0
    assert main([*words, "--flow-weights", str(flow), "--epoch", "2"]) == 0
    capsys.readouterr()
    other = shutil.copy(flow, tmp_path / "other.pt")
    assert main([*words, "--flow-weights", str(other), "--epoch", "3"]) == 2
    assert f"--flow-weights {other}: these weights would be ignored" in refusal(capsys.readouterr().err)
    flow.unlink()
    assert main([*words, "--flow-weights", str(flow), "--epoch", "3"]) == 2


@pytest.mark.parametrize("prefix", [
    "module._orig_mod.", *(pytest.param(x, marks=pytest.mark.slow) for x in ("module.", "_orig_mod.", "model.")),
    pytest.param("_orig_mod.module.", marks=pytest.mark.slow),
])
def test_wrappers_prefixes_are_dropped(runs, common, tmp_path, capsys, prefix):
    segnet = experiment(runs, name="segnet_swiftnet_test") / BEST
    tensors = torch.load(segnet, weights_only=True)["state_dict"]
    torch.save({prefix + name: x for name, x in tensors.items()}, tmp_path / "wrapped.pt")
    words = [*common, "--method", "per-frame", "--early-stop", "1", "--segnet-weights"]
    assert average([*words, str(tmp_path / "wrapped.pt")], tmp_path) == average([*words, str(segnet)], tmp_path)
    assert f"names without {prefix.split('.')[0]}." in capsys.readouterr().out


@pytest.mark.parametrize("place", ["model_state_dict", "model_state", "ema", "ema/module"])
def test_state_dicts_are_found_wherever_they_are(runs, tmp_path, place):
    from models.released import load_segmenter, read_segmenter

    tensors = torch.load(experiment(runs, name="segnet_swiftnet_test") / BEST, weights_only=True)["state_dict"]
    content = {"n_averaged": torch.tensor(3), **{f"module.{k}": x for k, x in tensors.items()}}
    for key in reversed(place.split("/")):
        content = {key: content}
    torch.save({**content, "epoch": 3, "optimizer": {"state": {}, "lr": torch.ones(2)}}, tmp_path / "file.pt")
    network = build_segmenter(name="swiftnet", classes=19)
    load_segmenter(network, read_segmenter(tmp_path / "file.pt", "swiftnet"), "swiftnet")
    assert all(torch.equal(x, tensors[name]) for name, x in network.state_dict().items())


def test_choice_between_state_dicts_that_fit_is_told(tmp_path, caplog, monkeypatch):
    from models.released import load_segmenter, read_segmenter
    from utils.logging import logger

    network = build_segmenter(name="swiftnet", classes=3)
    content = {"model": network.state_dict(), "model_ema": {f"net.{k}": x for k, x in network.state_dict().items()}}
    torch.save(content, tmp_path / "file.pt")
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level("INFO", logger="gsvnet"):
        load_segmenter(network, read_segmenter(tmp_path / "file.pt", "swiftnet"), "swiftnet")
    assert "state_dict or model taken for" in caplog.text
    assert "its model_ema, names without net. would fit too" in caplog.text


def custom(folder: Path, sizes=((64, 96),) * 4, **keys: str) -> Path:
    """A data set of three classes and noise frames of `sizes` in each split; returns its description."""
    import cv2

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i, size in enumerate(sizes):
            for kind in ("frames", "labels"):
                (folder / kind / split / str(size[0])).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"frames/{split}/{size[0]}/{i}.png"), rng.integers(0, 256, (*size, 3), np.uint8))
            cv2.imwrite(str(folder / f"labels/{split}/{size[0]}/{i}.png"), rng.integers(0, 3, size, np.uint8))
    (folder / "dataset.yaml").write_text("classes: {a: {id: 0}, b: {id: 1}, c: {id: 2}}\ncrop: [64, 96]\n" + "".join(
        f'{s}: {{frames: "frames/{s}/*/*.png", labels: "labels/{s}/*/*.png"}}\n' for s in ("train", "val")
    ))
    return folder / "dataset.yaml"


MIXED = ((64, 96), (70, 100), (64, 96), (70, 100), (70, 100), (64, 96))


@pytest.mark.parametrize("words", [["--stage", "segnet", "--pretrained-backbone", "0"],
                                   ["--multi-step", "1"], ["--multi-step", "2", "--clip-source", "stills"]])
def test_frames_of_several_sizes_train(weights, tmp_path, words):
    data = custom(tmp_path / "data", MIXED)
    net = [] if "segnet" in words else ["--segnet-weights", str(tmp_path / "s.pt")]
    if net:
        torch.save({"state_dict": build_segmenter(name="swiftnet", classes=3).state_dict()}, tmp_path / "s.pt")
    common = ["--dataset", "custom", "--data-path", str(data), "--num-worker", "0", "--device", "cpu", *TINY]
    logs = ["--log-folder", str(tmp_path / "logs"), "--batch-size", "3", "--eval-multi-step", "1"]
    assert main([*common, *words, *net, *logs]) == 0
    (saved,) = tmp_path.glob("logs/run/custom/*/experiment_0/checkpoint.pth.tar")
    assert torch.load(saved, weights_only=True)["progress"]["iteration"] >= 1


def test_batch_of_several_sizes_is_what_its_samples_are_alone(tmp_path):
    """Every picture of a mixed batch is augmented as it would be in a batch of one size."""
    from dataloaders.loaders import _collate

    data = custom(tmp_path / "data", MIXED[:2])
    options = parse(["--dataset", "custom", "--data-path", str(data), "--stage", "segnet", "--pretrained-backbone", "0",
                     "--crop-height", "64", "--crop-width", "96", "--batch-size", "2"])
    stage = SegmenterStage(options, torch.device("cpu"), Ranks(), None)
    samples = [stage.passes[0][i] for i in range(2)]
    images, labels = stage._inputs(_collate(samples, mixed=True), (1, 2))
    assert images.shape == (2, 1, 3, 64, 96) and labels.shape == (2, 64, 96)
    first, _ = stage._inputs(_collate([samples[0]] * 2, mixed=False), (1, 2))
    _, second = stage._inputs(_collate([samples[1]] * 2, mixed=False), (1, 2))
    assert torch.equal(images[0], first[0]) and torch.equal(labels[1], second[1])


@pytest.mark.tried(DOOR, "frames of several sizes in one batch, without crops", "status 2, naming both sizes")
def test_several_sizes_without_crops(tmp_path, capsys):
    data = custom(tmp_path / "data", MIXED)
    words = ["--dataset", "custom", "--data-path", str(data), "--num-worker", "0", *TINY, "--use-crop", "0"]
    logs = ["--log-folder", str(tmp_path / "logs"), "--batch-size", "6"]
    assert main([*words, *logs, "--stage", "segnet", "--pretrained-backbone", "0"]) == 2
    assert "use --batch-size 1, pictures of one size, or --use-crop 1" in refusal(capsys.readouterr().err)


def test_split_list_of_pairs_and_of_stems(tmp_path):
    from dataloaders.find_custom import find_custom

    description = custom(tmp_path / "data", MIXED)
    root, classes = description.parent, "classes: {a: {id: 0}, b: {id: 1}, c: {id: 2}}\n"
    (root / "pairs.txt").write_text("# two\nframes/train/64/2.png labels/train/64/2.png\n\n"
                                    "frames/train/70/3.png\tlabels/train/70/3.png\n")
    (root / "stems.txt").write_text("70/4\n2\n")
    globs = 'frames: "frames/train/*/*.png"'
    description.write_text(f"{classes}train: {{list: pairs.txt}}\nval: {{{globs}, list: pairs.txt}}\n"
                           f'test: {{{globs}, labels: "labels/train/*/*.png", list: stems.txt}}\n')
    names = {split: [(frame.label.name, len(frame.frames)) for frame in find_custom(description, split, 2)]
             for split in ("train", "val", "test")}
    # Listed pairs alone are the frames; with a glob, its other frames are their past.
    assert names == {"train": [("2.png", 1), ("3.png", 1)], "val": [("2.png", 2), ("3.png", 2)],
                     "test": [("2.png", 2), ("4.png", 3)]}


def test_split_lists_as_others_write_them(tmp_path):
    """With a byte-order mark, file names for stems, absolute paths, commas, VOC's marks of one class."""
    from dataloaders.find_custom import find_custom

    description = custom(tmp_path / "data")
    root, classes = description.parent, "classes: {a: {id: 0}, b: {id: 1}, c: {id: 2}}\n"
    globs = 'frames: "frames/train/*/*.png", labels: "labels/train/*/*.png"'
    absolute = f"{root.absolute()}/frames/train/64/1.png,{root.absolute()}/labels/train/64/1.png\n"
    for content, keys, expected in (
        ("\ufeff0\n2\n", globs, ["0", "2"]), ("1.png\n", globs, ["1"]), ("0 -1\n1  1\n2 0\n", globs, ["1", "2"]),
        (absolute, "", ["1"]), ("/frames/train/64/3.png /labels/train/64/3.png\n", "", ["3"]),
    ):
        (root / "list.txt").write_text(content)
        description.write_text(f"{classes}train: {{list: list.txt, {keys}}}\n")
        read_again(description)
        assert [frame.name for frame in find_custom(description, "train", 0)] == expected


def read_again(path: Path) -> None:
    """Make a file as new as no other, since descriptions are read once while they are the same."""
    os.utime(path, ns=(0, read_again.__dict__.setdefault("count", 0)))
    read_again.__dict__["count"] += 1


@pytest.mark.tried(DOOR, "a split list that is missing, empty, or names what is not there", "status 2, with its line")
@pytest.mark.parametrize("content, keys, message", [
    (None, "", "list.txt: cannot be read"), ("", "", "list.txt: empty"), ("a b c\n", "", "line 1: 3 words"),
    ("a\n", "", "a list of stems requires frames: GLOB and labels: GLOB too"),
    ("frames/train/64/0.png labels/none.png\n", "", "none.png: no such file, but .*list.txt names it in line 1"),
    ("frames/train/64/0.png labels/train/64/0.png\na\n", "", "line 2: a stem among pairs"),
    ("0\n9\n", ', frames: "frames/train/*/*.png", labels: "labels/train/*/*.png"', "line 2: no label has '9'"),
])
def test_split_list_that_does_not_fit(tmp_path, content, keys, message):
    from dataloaders.find_custom import find_custom

    description = custom(tmp_path / "data")
    if content is not None:
        (tmp_path / "data/list.txt").write_text(content)
    description.write_text("classes: {a: {id: 0}, b: {id: 1}}\ntrain: {list: list.txt" + keys + "}\n")
    with pytest.raises(UserError, match=message):
        find_custom(description, "train", 0)


def test_description_of_thousands_of_videos(tmp_path):
    from config.custom import read_custom

    description = custom(tmp_path / "data")
    part = '  - {frames: "a_rather_long_folder_name/%d/origin/*.jpg", labels: "a_rather_long_name/%d/mask/*.png"}\n'
    text = "classes: {a: {id: 0}, b: {id: 1}}\ntrain:\n" + "".join(part % (i, i) for i in range(2806))
    description.write_text(text)
    assert len(text) > 2**18 and len(read_custom(str(description)).splits["train"]) == 2806


@pytest.mark.parametrize("frames, labels, ending", [
    ("{split}", "{split}annot", ""), ("{split}", "{split}_labels", "_L"),
    ("701_StillsRaw_full", "LabeledApproved_full", "_L"), ("frames/{seq}", "label_id", "_L"),
])
def test_downloads_of_camvid_are_read_with_their_colours(tmp_path, frames, labels, ending):
    import cv2

    from config.camvid import CAMVID
    from dataloaders.clips import ClipDataset
    from dataloaders.find_camvid import find_camvid

    names = {"train": ["0001TP_006690", "0001TP_006720"], "val": ["0016E5_07959", "0016E5_07961"],
             "test": ["Seq05VD_f00000"]}
    colour = np.tile(np.array([[128, 64, 128], [64, 128, 192]], np.uint8), (4, 3, 1))  # road, SUV
    for split, name in ((one, name) for one in names for name in names[one]):
        for folder, file, picture in ((frames, name, colour), (labels, name + ending, colour)):
            path = tmp_path / folder.format(split=split, seq=name.split("_")[0]) / f"{file}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture[..., ::-1])
    for split, expected in names.items():
        found = find_camvid(tmp_path, split, 0)
        assert [frame.name for frame in found] == expected
        assert set(ClipDataset(found, 0, CAMVID)[0]["label"].unique().tolist()) == {3, 8}


@pytest.mark.slow
def test_chosen_split_is_evaluated(runs, common, streets, tmp_path):
    segnet, found = experiment(runs, name="segnet_swiftnet_test") / BEST, {}
    words = [*common, "--method", "per-frame", "--segnet-weights", str(segnet), "--evaluate", "1", "--temporal", "0",
             "--eval-multi-step", "--log-folder", str(tmp_path / "logs")]
    for split in ("val", "train"):
        assert main([*words, "--split", split, "--metrics-file", str(tmp_path / "m.json")]) == 0
        found[split] = json.loads((tmp_path / "m.json").read_text())
    assert [found[split].get("split", "val") for split in found] == ["val", "train"]
    assert [found[split]["positions"][0]["frames"] for split in found] == [12, 18]


@pytest.mark.slow
def test_segmenter_alone_exports(runs, common, tmp_path):
    import onnxruntime

    from models.released import load_segmenter, read_segmenter
    from models.steps import SegmenterStep

    segnet, net = experiment(runs, name="segnet_swiftnet_test") / BEST, build_segmenter(name="swiftnet", classes=19)
    assert main(["--dataset", "synthetic", "--stage", "segnet", "--segnet-weights", str(segnet), "--export",
                 str(tmp_path / "out"), "--export-size", "64", "96"]) == 0
    content = json.loads((tmp_path / "out/model.json").read_text())
    assert list(content["graphs"]) == ["segmenter"] and "flow" not in content
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    load_segmenter(net, read_segmenter(segnet, "swiftnet"), "swiftnet")
    expected = SegmenterStep(GSVNet(net, torch.nn.Identity(), torch.nn.Identity()), 1.0).eval()(image).detach()
    session = onnxruntime.InferenceSession(str(tmp_path / "out/segmenter.onnx"))
    (logits,) = session.run(None, {"image": image.numpy()})
    assert logits.shape == (1, 19, 16, 24) and np.abs(logits - expected.numpy()).max() <= 1e-3 * expected.abs().max()


@pytest.mark.slow
def test_segmenter_is_fine_tuned_to_other_classes(runs, tmp_path, capsys):
    """Everything but the head starts from the file; so does the propagation's training from --guide-weights."""
    segnet, gsv = (experiment(runs, name=name) / BEST for name in ("segnet_swiftnet_test", "swiftnet_test"))
    words = ["--dataset", "custom", "--data-path", str(custom(tmp_path / "data")), "--num-worker", "0", *TINY,
             "--log-folder", str(tmp_path / "logs"), "--device", "cpu", "--freeze-bn", "1"]
    assert main([*words, "--stage", "segnet", "--segnet-weights", str(segnet), "--lr", "1e-12",
                 "--weight-decay", "0"]) == 0
    tuned = tmp_path / "logs/run/custom/segnet_swiftnet_test/experiment_0" / BEST
    before, after = (torch.load(path, weights_only=True)["state_dict"] for path in (segnet, tuned))
    other = {name for name in before if before[name].shape != after[name].shape}
    assert other == {"logits.conv.weight", "logits.conv.bias"} or all(name.startswith("logits.") for name in other)
    assert all(torch.allclose(before[x], after[x], atol=1e-6) for x in before if x not in other and "num_b" not in x)
    shown = capsys.readouterr().out
    assert "start fresh" in shown and all(name in shown for name in other)
    rates = [word for name in ("lr", "guide_lr", "optical_flow_lr") for word in (flag(name), "1e-12")]
    assert main([*words, "--segnet-weights", str(tuned), "--guide-weights", str(gsv), "--multi-step", "1",
                 "--eval-multi-step", "1", "--weight-decay", "0", *rates]) == 0
    made = torch.load(tmp_path / "logs/run/custom/swiftnet_test/experiment_0" / BEST, weights_only=True)
    start = torch.load(gsv, weights_only=True)
    for part, kept in (("state_dict", "grm.guide.guide_deconv.1.weight"), ("state_dict_of", "conv1.0.weight")):
        assert torch.allclose(start[part][kept], made[part][kept], atol=1e-6)
    assert made["state_dict"]["grm.intra_net.intra_net.6.bias"].shape == (3,)


@pytest.mark.slow
def test_folder_shows_the_style_that_is_given(runs, common, weights, tmp_path):
    import cv2

    frames, gsv = tmp_path / "frames", experiment(runs, name="swiftnet_test") / BEST
    frames.mkdir()
    cv2.imwrite(str(frames / "a.png"), np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    words = ["--dataset", "synthetic", "--engine", "eager", "--video", str(frames), "--resume", str(gsv)]
    assert main([*words, "--output", str(tmp_path / "both"), "--style", "colour", "--ids", "train"]) == 2
    for style, shape in (("colour", (64, 96, 3)), ("side-by-side", (64, 192, 3)), ("", (64, 96))):
        folder = tmp_path / f"out{style}"
        assert main([*words, "--output", str(folder), *(["--style", style] if style else [])]) == 0
        assert cv2.imread(str(folder / "a.png"), cv2.IMREAD_UNCHANGED).shape == shape


def test_video_of_turned_pictures_stands_upright(runs, tmp_path):
    import cv2
    from PIL import Image, ImageOps

    from inference.video_input import open_frames

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    for orientation in range(1, 9):
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(tmp_path / f"{orientation}.png", exif=exif)
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.png"
        (shown,), frames = list(open_frames(str(path))), open_frames(str(path))
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
        assert np.array_equal(shown, expected) and frames.size == expected.shape[:2]
    assert cv2.imread(str(tmp_path / "1.png")).shape == (40, 60, 3)


@pytest.mark.tried(DOOR, "--video with pictures of 12 bits in 16-bit files", "status 2, or scaled by bits: 12")
def test_video_of_twelve_bits(tmp_path):
    import cv2

    from inference.video_input import open_frames

    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8), 4000, np.uint16))
    with pytest.raises(UserError, match="a.png: pictures of 16 bits, whose values have 12 bits"):
        open_frames(str(tmp_path))
    (frame,) = open_frames(str(tmp_path), bits=12)
    assert frame.min() == 250


@pytest.mark.slow
def test_two_processes_of_srun_train_one_run(streets, weights, tmp_path):
    words = training(streets, weights, tmp_path / "logs", "--early-stop", "1")
    told = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "localhost"}
    started = [
        subprocess.Popen([sys.executable, str(ROOT / "main.py"), *words], text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=ENVIRONMENT | told | {"SLURM_PROCID": n, "SLURM_LOCALID": n})
        for n in ("0", "1")
    ]
    ended = [process.communicate(timeout=180) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    assert "SLURM: process 0 of 2" in ended[0][0]
    assert [path.parent.name for path in (tmp_path / "logs").rglob(LATEST)] == ["experiment_0"]


@pytest.mark.parametrize("nodes, host", [
    ("gpu[003-005,7],cpu1", "gpu003"), ("a1,b2", "a1"), ("node7", "node7"), ("n[1,3]-i,m2", "n1-i"), ("", "localhost"),
])
def test_srun_is_one_run(nodes, host):
    from utils.slurm import adopt_slurm

    told = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": nodes}
    environ = dict(told)
    assert adopt_slurm(environ)
    assert {key: environ[key] for key in environ if key not in told} == {
        "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": host, "MASTER_PORT": "24711",
    }
    for alone in (told | {"SLURM_NTASKS": "1"}, told | {"RANK": "0"}, {}):
        environ = dict(alone)
        assert not adopt_slurm(environ) and environ == alone
    environ = told | {"CUDA_VISIBLE_DEVICES": "2"}  # one GPU bound to each task
    adopt_slurm(environ)
    assert environ["LOCAL_RANK"] == "0" and os.environ.get("SLURM_PROCID") is None


def test_every_row_of_the_table_is_a_test():
    root = Path(__file__).resolve().parents[2]
    rows = (root / "docs/reliability.md").read_text().split("## Reports of users")[1].split("## Requirements")[0]
    named = re.findall(r"`(test_\w+)` \|\n", rows)
    files = ("tests/main/test_user_reports.py", "tests/dataloaders/test_label_check.py")
    defined = re.findall(r"^def (test_\w+)\(", "".join((root / file).read_text() for file in files), re.MULTILINE)
    assert len(named) >= 26 and set(named) <= set(defined)
