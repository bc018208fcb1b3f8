"""Runs of TDNet and Accel: what they leave, that they go on, and what takes their weights."""
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch

from config.command_line import parse
from config.errors import UserError
from config.options import flag, recorded
from evaluation.metrics_json import read_metrics
from inference.stream import VideoSegmenter
from main import main
from models.released import read_segmenter
from streets import StreetSettings, ensure_streets
from tests.main.program import ENVIRONMENT, Program, refusal
from tests.main.test_launchers import free_port
from tests.models.tiny_video_networks import small  # noqa: F401 - a fixture
from tests.taught import tiny_segmenter
from utils.run_folder import BEST, LATEST, with_run, write_parameters

SCRIPT = """
import sys

if __name__ == "__main__":
    from main import main
    from tests.models.tiny_video_networks import shrink

    shrink()
    sys.exit(main(sys.argv[1:]))
"""
TDNET, ACCEL = ("--stage", "tdnet", "--multi-step", "1"), ("--stage", "accel", "--multi-step", "1", "2")


@pytest.fixture(scope="module")
def place(small, tmp_path_factory):  # noqa: F811
    """A folder with streets, files of Accel's parts, and `main.py` with small networks."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("place")
    settings = StreetSettings(height=64, width=128, train=2, val=1, length=9, seed=11)
    streets = ensure_streets(folder / "streets", settings, workers=1)
    (folder / "small.py").write_text(SCRIPT)
    return SimpleNamespace(folder=folder, streets=streets, script=folder / "small.py")


@pytest.fixture(scope="module")
def words_for(place):
    def words(logs, *more):
        return ["--dataset", "synthetic", "--data-path", str(place.streets), "--log-folder", str(logs), "--device",
                "cpu", "--num-worker", "0", *map(str, more)]
    return words


def trains(words_for, logs, *more):
    sizes = ("--crop-height", 64, "--crop-width", 96, "--batch-size", 2, "--epoch", 1)
    return words_for(logs, *sizes, *more)


def run_in(logs) -> Path:
    (found,) = logs.glob("run/synthetic/*/experiment_*")
    return found


@pytest.fixture(scope="module")
def runs(place, words_for):
    """Folders of trained networks, by their names."""
    found = {}
    for name, more in (
        ("deeplab101", ("--stage", "segnet", "--segnet", "deeplab101")), ("tdnet", (*TDNET, "--epoch", 2)),
        ("deeplab18", ("--stage", "segnet", "--segnet", "deeplab18")),
        ("flow_weights", (*ACCEL, "--finetune-all", 1)), ("accel", ACCEL),
    ):
        if name == "accel":  # its flow from a whole Accel
            parts = ("deeplab101", "deeplab18", "flow_weights")
            more = (*more, *(word for part in parts for word in (flag(part), found[part] / BEST)))
        assert main(trains(words_for, place.folder / name, *more)) == 0
        found[name] = run_in(place.folder / name)
    return found


@pytest.mark.slow
def test_runs_have_weights_and_scores(runs):
    assert [runs[name].parent.name for name in ("deeplab18", "tdnet", "accel")] == [
        "segnet_deeplab18_test", "segnet_td4-bise18_test", "segnet_accel18_test"]
    metrics = {name: read_metrics(path / "metrics.json") for name, path in runs.items()}
    assert {name: len(x.positions) for name, x in metrics.items()} == {
        "deeplab101": 1, "deeplab18": 1, "flow_weights": 5, "tdnet": 7, "accel": 5}
    assert [metrics[name].method for name in ("deeplab101", "tdnet", "accel")] == ["per-frame", "tdnet", "accel"]
    assert metrics["tdnet"].steady == 3 and metrics["accel"].steady is None
    for path in runs.values():
        assert (path / LATEST).is_file() and read_segmenter(path / BEST, "accel18").content["segmenter"]["classes"]
    log = (runs["tdnet"] / "log.csv").read_text()
    assert log.count("train/distillation") == 12 and log.count("train/sub") == 12


def evaluated(words_for, logs, *more):
    assert main(words_for(logs, "--evaluate", 1, *more)) == 0
    return read_metrics(run_in(logs) / "metrics.json")


@pytest.mark.slow
def test_evaluation_of_tdnet(runs, words_for, tmp_path, capsys):
    words = ("--method", "tdnet", "--resume", runs["tdnet"] / LATEST)
    found = evaluated(words_for, tmp_path / "a", *words, "--save-predictions", tmp_path / "maps")
    assert [(row.position, row.frames) for row in found.positions] == [(k, 9 - k) for k in range(7)]
    miou = [row.miou for row in found.positions]
    assert found.avg_miou == pytest.approx(sum(miou[3:]) / 4) and found.min_miou == min(miou[3:])
    (row,) = found.intervals
    assert (row.interval, row.mean_miou, row.min_miou) == (0, found.avg_miou, found.min_miou)
    assert found.steady == 3 and row.temporal is not None
    before = [row.pixel_accuracy for row in read_metrics(runs["tdnet"] / "metrics.json").positions]
    assert [row.pixel_accuracy for row in found.positions] == pytest.approx(before, abs=1e-3)
    folder = run_in(tmp_path / "a")
    content = json.loads((folder / "metrics.json").read_text())
    assert content["steady"] == 3 and content["method"] == "tdnet"
    assert json.loads(json.dumps(found.to_json())) == content
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {f"position_{k}" for k in range(7)}
    for text in ((folder / "report.html").read_text(), capsys.readouterr().out):
        assert "This method has no keyframes" in text
    assert (folder / "metrics.csv").read_text()
    few = evaluated(words_for, tmp_path / "b", *words, "--eval-multi-step", 1)
    assert few.avg_miou is None and len(few.positions) == 2
    assert "from 3 on, of which none was evaluated: choose a larger --eval-multi-step." in capsys.readouterr().out
    cut = evaluated(words_for, tmp_path / "c", *words, "--schedule", "cut")
    assert cut.steady is None and cut.schedule is not None


@pytest.mark.slow
def test_evaluation_of_accel(runs, words_for, tmp_path):
    found = evaluated(words_for, tmp_path / "a", "--method", "accel", "--resume", runs["accel"] / BEST)
    assert found.positions == read_metrics(runs["accel"] / "metrics.json").positions
    assert [row.interval for row in found.intervals] == [1, 2, 3, 4, 5] and found.steady is None
    assert found.avg_miou == pytest.approx(sum(row.miou for row in found.positions) / 5)
    assert found.intervals[4].temporal is not None


def film_of(place, folder) -> Path:
    """A folder of seven frames."""
    (film := folder / "film").mkdir()
    for number, path in enumerate(sorted(place.streets.glob("leftImg8bit_sequence/val/*/*.*"))[:7]):
        shutil.copy(path, film / f"{number}{path.suffix}")
    assert len([*film.iterdir()]) == 7
    return film


@pytest.mark.slow
def test_stream_of_a_checkpoint(runs, place, words_for, tmp_path):
    """--video and VideoSegmenter have the same label maps."""
    film = film_of(place, tmp_path)
    for method in ("tdnet", "accel"):
        words = ["--method", method, "--resume", str(runs[method] / BEST), "--device", "cpu", "--video", str(film),
                 "--output", str(tmp_path / method), "--engine", "eager", "--ids", "train"]
        assert main(words) == 0
        segmenter = VideoSegmenter.from_options(parse(words))
        assert segmenter.engine.method.keyframes == (method == "accel") and segmenter.engine.networks
        for path in sorted(film.iterdir()):
            labels = segmenter(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
            (written,) = (tmp_path / method).glob(f"{path.stem}*.png")
            assert (cv2.imread(str(written), cv2.IMREAD_UNCHANGED) == labels).all()
            assert segmenter.was_keyframe == (path.stem == "0" or (method == "accel" and path.stem == "5"))
        with pytest.raises(UserError, match="contains no trained propagation .* name the folder of a --stage gsv run"):
            VideoSegmenter.from_run(runs[method])


def steps_logged(logs) -> int:
    rows = [row.split(",")[0] for log in logs.rglob("log.csv") for row in log.read_text().splitlines()[1:-1]]
    return len({*rows})


def state_of(run) -> dict:
    """Tensors of the network, and those of the optimizer."""
    content = torch.load(run / LATEST, weights_only=False)
    momenta = {f"{key}/{name}": x for key, state in content["optimizer"]["state"].items() for name, x in state.items()}
    return {**content["state_dict"], **momenta}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(x, other[name]) if isinstance(x, torch.Tensor) else x == other[name] for name, x in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tdnet", "accel"])
def test_killed_run_goes_on_and_ends_with_the_same_weights(runs, place, words_for, tmp_path, method):
    more = [*(TDNET[:2] if method == "tdnet" else ACCEL), "--multi-step", 1, 2, "--save-every", 1, "--epoch", 6]
    for part in ("deeplab101", "deeplab18", "flow_weights") if method == "accel" else ():
        more += [flag(part), runs[part] / BEST]
    words = {name: trains(words_for, tmp_path / name, *more, "--eval-interval", 9, "--resume", "auto")
             for name in ("whole", "killed")}
    life = Program(words["killed"], tmp_path / "life", place.script)
    life.wait_until(lambda: steps_logged(tmp_path / "killed") >= 5)
    life.kill()
    assert life.process.returncode == -signal.SIGKILL
    assert main(words["whole"]) == main(words["killed"]) == 0
    whole, killed = (state_of(run_in(tmp_path / name)) for name in words)
    assert same(whole, killed)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tdnet", "accel"])
def test_two_processes(runs, place, words_for, tmp_path, method):
    """The fusion's gradients are those of one process; TDNet's hard pixels are chosen in each process by itself."""
    more = [*(TDNET if method == "tdnet" else ACCEL), "--eval-interval", 9, "--freeze-bn", 1]
    for part in ("deeplab101", "deeplab18", "flow_weights") if method == "accel" else ():
        more += [flag(part), runs[part] / BEST]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port",
               str(free_port()), str(place.script), *trains(words_for, tmp_path / "two", *more)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert main(trains(words_for, tmp_path / "one", *more)) == 0
    one, two = (state_of(run_in(tmp_path / name)) for name in ("one", "two"))
    assert one.keys() == two.keys()
    if method == "accel":
        assert all(torch.allclose(*(torch.as_tensor(side[name]).float() for side in (one, two)), 1e-4, 1e-6)
                   for name in one)
    assert all(torch.as_tensor(x).isfinite().all() for x in two.values())


def test_teacher_of_a_users_code_is_not_run_again_unless_it_is_named(place, words_for, tmp_path, capsys):
    teacher = tiny_segmenter(tmp_path)
    words = trains(words_for, tmp_path / "logs", *TDNET, "--early-stop", 1, "--eval-interval", 9)
    assert main([*words, "--teacher", teacher]) == 0
    capsys.readouterr()
    assert main([*words, "--resume", "auto", "--epoch", "2"]) == 2
    assert f"add --teacher {teacher}" in refusal(capsys.readouterr().err)
    assert main([*words, "--resume", "auto", "--epoch", "2", "--teacher", teacher]) == 0
    assert json.loads((run_in(tmp_path / "logs") / "parameters.json").read_text())["teacher"] == teacher


def test_segnet_stage_ignores_the_method_of_propagations(place, words_for, tmp_path):
    words = trains(words_for, tmp_path, "--stage", "segnet", "--segnet", "deeplab18", "--early-stop", 1)
    assert main([*words, "--method", "gsv"]) == 0
    assert read_metrics(run_in(tmp_path) / "metrics.json").method == "per-frame"


@pytest.mark.slow
def test_checkpoint_of_the_other_network_is_refused(runs, words_for, tmp_path, capsys):
    for method, other, found in (("tdnet", "accel", "accel18"), ("accel", "tdnet", "td4-bise18")):
        words = words_for(tmp_path, "--evaluate", 1, "--method", method, "--resume", runs[other] / BEST)
        capsys.readouterr()
        assert main(words) == 2
        assert f"was trained with --segnet {found}" in refusal(capsys.readouterr().err)


@pytest.mark.parametrize("words, message", [
    ("--tdnet psp18", "--tdnet has an effect only with --stage tdnet or --method tdnet; add that or drop it"),
    ("--method accel --tdnet psp18", "--tdnet has an effect only with --stage tdnet or --method tdnet"),
    ("--teacher pidnet-s", "--teacher has an effect only with --stage tdnet, when it trains; add that or drop it"),
    ("--method tdnet --evaluate 1 --teacher pidnet-s", "--teacher has an effect only with --stage tdnet, when it trai"),
    ("--stage tdnet --deeplab101 f", "--deeplab101 has an effect only with --stage accel, when it trains; add that or"),
    ("--method accel --evaluate 1 --deeplab18 f", "--deeplab18 has an effect only with --stage accel, when it trains"),
    ("--stage tdnet --teacher-weights f", "--teacher-weights has an effect only with --teacher NAME; add that or drop"),
    ("--stage tdnet --teacher td4-psp18", "--teacher td4-psp18 is a method for video; choose a segmenter of single f"),
    ("--stage tdnet --teacher pidnet", "--teacher: invalid value 'pidnet' (did you mean pidnet-s?)"),
    ("--segnet accel18", "--segnet accel18 is a method itself; use --method accel or --stage accel"),
    ("--segnet td4-psp18 --evaluate 1", "--segnet td4-psp18 is a method itself; use --method tdnet or --stage tdnet"),
    ("--method tdnet --evaluate 1 --reference segmenter", "--reference segmenter does not work with --method tdnet"),
    ("--method accel --export d", "--export does not work with --method accel; drop one of the two"),
    ("--method tdnet --benchmark eval", "--benchmark does not work with --method tdnet; drop one of the two"),
    ("--method tdnet --evaluate 1 --interval 4", "--interval has no effect with --method tdnet, which has"),
    ("--method tdnet --evaluate 1 --schedule residual", "--schedule residual: --method tdnet has no keyframes; use c"),
    ("--stage segnet --segnet td4-bise18 --tdnet psp18", "--tdnet psp18: --segnet td4-bise18 is another one; drop"),
    ("--method accel --evaluate 1 --optical-flow-network dis", "--optical-flow-network has no effect on the netwo"),
    ("--method tdnet --evaluate 1 --grid 4", "--grid has no effect on the networks of --method tdnet; drop it"),
    ("--method tdnet --segnet swiftnet", "--segnet swiftnet: --method tdnet has its own; drop one of the two"),
    ("--stage tdnet --method accel", "--method accel: --stage tdnet has its own; drop one of the two"),
    ("--stage accel --method per-frame", "--method per-frame: --stage accel has its own; drop one of the two"),
    ("--stage gsv --method accel", "--stage gsv: --method accel has its own; drop one of the two"),
    ("--method tdnet --carry labels", "--carry labels works with --method warp or copy, not tdnet"),
    ("--stage tdnet --flow-weights f", "--flow-weights f: these weights would be ignored"),
])
def test_contradictions_are_refused_in_one_line(words, message, capsys, place, words_for, tmp_path):
    assert main([*words_for(tmp_path)[:6], "--device", "cpu", *words.split()]) == 2
    assert message in refusal(capsys.readouterr().err)


def test_network_of_a_run_is_used_unless_another_is_named(tmp_path):
    for run, words, expected in (
        ("--stage tdnet --tdnet psp18", "--method tdnet", "td4-psp18"), ("--stage tdnet", "--method tdnet", None),
        ("--stage segnet --segnet td4-psp18", "--stage tdnet", "td4-psp18"), ("--stage accel", "--method tdnet", None),
        ("--stage tdnet --tdnet psp18", "--method accel", "accel18"),
        ("--stage tdnet --tdnet psp18", "--method tdnet --tdnet bise18", "td4-bise18"),
    ):
        write_parameters(tmp_path, parse(run.split()))
        found = with_run(parse([*words.split(), "--evaluate", "1", "--resume", str(tmp_path / BEST)]))
        assert (found.segnet, found.stage) == (expected or "td4-bise18", "segnet")
        assert found.method == ("accel" if expected == "accel18" else "tdnet")


def test_stage_and_method_are_other_names_of_the_segmenter_stage():
    for words, longer in (
        ("--stage tdnet", "--stage segnet --segnet td4-bise18"), ("--stage accel", "--stage segnet --segnet accel18"),
        ("--stage tdnet --tdnet psp18", "--stage segnet --segnet td4-psp18 --tdnet psp18"),
        ("--method accel --evaluate 1", "--stage segnet --segnet accel18 --evaluate 1"),
    ):
        one, other = (recorded(parse(text.split())) for text in (words, longer))
        assert one == other and one["method"] in ("tdnet", "accel")
    assert parse(["--stage", "accel"]).interval == 5
    assert parse(["--stage", "tdnet"]).eval_multi_step == (1, 2, 3, 4, 5, 6)
    psp = parse(["--stage", "tdnet", "--tdnet", "psp18", "--dataset", "synthetic"])
    assert (psp.crop_height, psp.crop_width) == (769, 1537)
