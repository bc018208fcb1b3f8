"""Impossible and contradictory options: one line, status 2, and nothing begun."""
import re

import pytest

from config.options import FIELDS
from main import main
from tests.main.program import refusal, training

DOOR = "Flags"
ONE_LINE = "one line, status 2, nothing begun"


def impossible(name: str) -> list[list[str]]:
    """Words after the flag that it cannot mean."""
    field = FIELDS[name]
    limits, kind = field.metadata, field.metadata["kind"]
    wrong: list[list[str]] = [[]] if limits["count"] != "*" else []
    if kind is bool:
        wrong += [["2"], ["yes"], ["-1"], [""]]
    if kind is int:
        wrong += [["x"], ["1.5"], [""], ["nan"]]
    if kind is float:
        wrong += [["x"], ["nan"], ["inf"], [""], ["1,5"]]
    if limits["choices"]:
        wrong += [["zzzz"], [str(limits["choices"][0]).upper() + "x"], [""]]
    for bound, step in (("low", -1), ("above", 0), ("high", 1)):
        if limits[bound] is not None:
            wrong.append([str(limits[bound] + step)])
    if isinstance(limits["count"], int):
        wrong = [words * limits["count"] for words in wrong] + [["64"], ["64"] * (limits["count"] + 1)]
    return wrong


@pytest.mark.tried(DOOR, "each option: no value, one of another kind, beyond its range, a name that it does not know",
                   ONE_LINE)
@pytest.mark.parametrize("name", FIELDS)
def test_value_that_an_option_cannot_have(name, tmp_path, monkeypatch, capsys, outcomes):
    monkeypatch.chdir(tmp_path)
    flag = "--" + name.replace("_", "-")
    for words in impossible(name):
        assert main([flag, *words]) == 2, words
        assert flag in refusal(capsys.readouterr().err) or words == ["64"] * 3, words
        outcomes[ONE_LINE] += 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.tried(DOOR, "each option, misspelt", "one line that names the nearest")
@pytest.mark.parametrize("name", [name for name in FIELDS if len(name) > 3])
def test_misspelt_option_is_answered_with_the_nearest(name, capsys):
    flag = "--" + name.replace("_", "-")
    assert main([flag[:-2] + flag[-1] + flag[-2] + "x", "1"]) == 2
    line = refusal(capsys.readouterr().err)
    nearest = re.search(r"unknown option \S+ \(did you mean (\S+)\?\); --help lists all", line)
    assert nearest and nearest[1][:6] == flag[:6], line


@pytest.mark.tried(DOOR, "options that contradict each other, or the data", ONE_LINE)
@pytest.mark.parametrize(
    "words, message",
    [
        (["--evaluate", "1"], "--evaluate 1 requires a trained propagation: --resume 1"),
        (["--evaluate", "1", "--resume", "auto", "--checkname", "none"], "--evaluate 1 requires a trained propagation"),
        (["--evaluate", "1", "--method", "warp"], "--method warp requires a flow network: --flow-weights PATH"),
        (["--evaluate", "1", "--resume", "1", "--demo", "1"],
         "--evaluate 1 and --demo 1 exclude each other; choose one"),
        (["--evaluate", "1", "--resume", "1", "--benchmark", "eval"],
         "--evaluate 1 and --benchmark exclude each other"),
        (["--video", "demo", "--output", "o.mp4", "--export", "e"], "--video and --export exclude each other"),
        (["--eval-single", "0", "--eval-multi-step"], "nothing to evaluate"),
        (["--evaluate", "1", "--resume", "1", "--eval-single", "0", "--eval-multi-step", "99"],
         "no labelled val frame has 99 frames before it"),
        (["--multi-step", "99"],
         "no labelled train frame has 99 frames before it, which --multi-step 99 requires; --clip-source stills"),
        (["--crop-height", "65"],
         "--crop-height 65 --crop-width 96: larger than the frames .* 64 high, 128 wide.; choose a smaller crop, or "
         "--use-crop 0"),
        (["--crop-width", "4096", "--stage", "segnet", "--pretrained-backbone", "0"],
         "--crop-width 4096: larger than the frames"),
        (["--batch-size", "1", "--crop-height", "32", "--crop-width", "32"],
         "--batch-size of at least 2 per process .now 1., or a larger crop"),
        (["--random-scale", "2", "1"], "--random-scale takes LOW HIGH"),
        (["--checkname", "../elsewhere"], "--checkname '../elsewhere': must be a plain name"),
        (["--checkname", ".."], "--checkname '..': must be a plain name"),
        (["--checkname", ""], "--checkname '': must be a plain name"),
        (["--checkname", "x" * 200], "--checkname 'x+': must be a plain name"),
        (["--save-predictions", "p"], "--save-predictions has an effect only with --evaluate 1"),
        (["--results", "a.json"], "--results has an effect only with --benchmark table"),
        (["--method", "copy"], "--method copy needs no training; use it with --evaluate 1 or --video"),
        (["--stage", "flow", "--evaluate", "1"], "--stage flow has no --evaluate 1"),
        (["--stage", "flow", "--optical-flow-network", "none"], "--optical-flow-network none has nothing to train"),
        (["--stage", "flow", "--resume", "1"], "--resume 1: the release has no file of the light flow network alone"),
        (["--stage", "segnet", "--evaluate", "1", "--method", "gsv"],
         "--stage segnet --evaluate 1: --method must be per-frame or copy, not gsv"),
        (["--export", "e"], "--export requires a trained propagation"),
        (["--export-size", "64", "64"], "--export-size has an effect only with --export DIR"),
        (["--schedule", "budget"], "--schedule budget requires --budget MILLISECONDS"),
        (["--apex", "1"], "--apex 1: NVIDIA apex is not installed"),
        (["--device", "cuda"], "--device cuda: no usable GPU here; use --device cpu or auto"),
        (["--benchmark", "table", "--results", "nowhere.json"], "nowhere.json: not a metrics.json"),
    ],
)
def test_contradiction(streets, weights, tmp_path, monkeypatch, capsys, words, message):
    if words[0] == "--device":
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main([*training(streets, weights, tmp_path / "logs"), *words]) == 2
    line = refusal(capsys.readouterr().err)
    assert re.search(message, line), line
    left = [path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("events.")]
    assert set(left) <= {".lock", "parameters.json", "log.csv"}


@pytest.mark.slow
def test_the_recipes_crop_enlarges_smaller_frames(streets, weights, tmp_path, capsys):
    words = training(streets, weights, tmp_path / "logs", "--early-stop", "1", "--multi-step", "1")
    at = words.index("--crop-height")
    assert main(words[:at] + words[at + 4 :]) == 0
    assert "the recipe's --crop-height 192 --crop-width 384 is larger than the frames" in capsys.readouterr().out


@pytest.mark.tried(DOOR, "batch that does not divide over the processes, or is smaller", ONE_LINE)
@pytest.mark.parametrize("batch, ranks", [("1", 2), ("3", 2), ("8", 3)])
def test_batch_that_the_processes_cannot_share(streets, weights, tmp_path, monkeypatch, capsys, batch, ranks):
    from utils.distributed import Ranks

    monkeypatch.setattr("utils.distributed.join", lambda *_: Ranks(0, ranks))
    assert main([*training(streets, weights, tmp_path / "logs"), "--batch-size", batch]) == 2
    line = refusal(capsys.readouterr().err)
    assert f"--batch-size {batch} cannot be split over {ranks} processes; choose a multiple of {ranks}" in line
    assert not (tmp_path / "logs").exists()


@pytest.mark.tried(DOOR, "environment that describes no group of processes", ONE_LINE)
@pytest.mark.parametrize("variables",
                         [{"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "0"},
                          {"LOCAL_RANK": "x"}])
def test_environment_without_a_launcher(streets, weights, tmp_path, monkeypatch, capsys, variables):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(training(streets, weights, tmp_path / "logs")) == 2
    line = refusal(capsys.readouterr().err)
    message = r"WORLD_SIZE=\w+ in the environment: .* start with torchrun, or unset|LOCAL_RANK in the environment must"
    assert re.search(message, line), line


@pytest.mark.tried(DOOR, "output that cannot be written, named by --metrics-file or --save-predictions",
                   "one line before any frame is evaluated")
@pytest.mark.parametrize("flag", ["--metrics-file", "--save-predictions"])
@pytest.mark.parametrize("place", ["/dev/null/x", "a folder or file"])
def test_unwritable_output_is_found_before_the_work(streets, weights, tmp_path, monkeypatch, capsys, flag, place):
    taken = tmp_path / "taken"
    taken.mkdir() if flag == "--metrics-file" else taken.touch()
    monkeypatch.setattr("evaluation.command.Evaluation.frames", lambda *_, **__: pytest.fail("it was evaluated"))
    words = ["--evaluate", "1", "--resume", "1", flag, place if place[0] == "/" else str(taken)]
    assert main([*training(streets, weights, tmp_path / "logs"), *words]) == 2
    assert re.search(rf"{flag} \S+: cannot be written \(.*\); choose another place", refusal(capsys.readouterr().err))
    assert not (tmp_path / "logs").exists()


@pytest.mark.tried(DOOR, "--debug 1 with a mistake", "the traceback, and the line")
@pytest.mark.parametrize("debug", [["--debug", "1"], ["--debug=1"]])
def test_debug_shows_the_traceback(capsys, debug):
    assert main(["--evaluate", "1", "--resume", "1", "--dataset", "camvid", "--data-path", "nowhere", *debug]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1].startswith("error: nowhere")


def test_stopped_demonstration_ends_with_the_signals_status(monkeypatch, capsys):
    from utils.interrupts import Stopped

    def stopped(*_):
        raise Stopped(143)

    monkeypatch.setattr("trainer.demo.run_demo", stopped)
    assert main(["--demo", "1", "--device", "cpu"]) == 143
    out, err = capsys.readouterr()
    assert "stopped by signal 15" in out and "--resume" not in out and err == ""


@pytest.mark.tried(DOOR, "fault of the program itself", "one line that says so, status 1")
def test_fault_of_the_program_is_one_line_too(monkeypatch, capsys):
    def fault(_):
        raise KeyError("a\nb")

    monkeypatch.setattr("main.run", fault)
    assert main([]) == 1
    assert refusal(capsys.readouterr().err) == "error: KeyError: 'a\\nb' (a bug of this program; --debug 1 shows where)"
