"""The command line: words -> Options. Unknown names are answered with the nearest, contradictions refused."""
import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from config.datasets import dataset_config
from config.errors import UserError
from config.options import FIELDS, Options, flag
from config.recipes import RECIPES

THINGS_TO_DO = ("video", "export", "evaluate", "demo", "benchmark")  # beside training


def parse(arguments: Sequence[str]) -> Options:
    """Command-line words -> Options, defaults of the chosen stage and data set filled in. Raises UserError."""
    namespace, unknown = _parser().parse_known_args(list(arguments))
    for word in unknown:
        known = [flag(name) for name in FIELDS]
        raise UserError(f"unknown option {word}{_nearest(word.split('=')[0], known)}; --help lists all")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(namespace).items()}
    if "LOCAL_RANK" in os.environ and "local_rank" not in given:
        try:
            given["local_rank"] = int(os.environ["LOCAL_RANK"])
        except ValueError as error:
            raise UserError(f"LOCAL_RANK in the environment wants a whole number, not {os.environ['LOCAL_RANK']!r}") from error
    for name, value in given.items():
        _check(name, value)
    return resolve(given)


def resolve(given: dict[str, Any]) -> Options:
    """Fill what was not given from the data set, then the stage's recipe, then the flags' defaults."""
    plain = Options(**given)
    dataset = dataset_config(plain.dataset, plain.data_path)
    defaults: dict[str, Any] = {"data_path": dataset.default_path}
    network = plain.optical_flow_network if plain.stage == "flow" else plain.segnet
    defaults.update(RECIPES.get((plain.stage, network), {}))
    if dataset.crop is not None:
        defaults.update(crop_height=dataset.crop[0], crop_width=dataset.crop[1])
    options = Options(**{**defaults, **given})
    if options.stage == "segnet" and "method" not in given:
        options = dataclasses.replace(options, method="per-frame")
    if options.optical_flow_network == "none":
        options = dataclasses.replace(options, load_flow=False)
    refuse_contradictions(options, given)
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists all options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="main.py",
        description="GSVNet: fast semantic segmentation of video. Trains, evaluates and runs.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    kinds: dict[type, Callable[[str], object]] = {bool: _boolean, int: _integer, float: _number, str: str}
    for name, field in FIELDS.items():
        names = [flag(name)] + (["--local_rank"] if name == "local_rank" else [])
        default = field.default if field.default_factory is dataclasses.MISSING else list(field.default_factory())
        shown = int(default) if isinstance(default, bool) else default
        text = field.metadata["help"] + (f" (default: {shown})" if default not in ("", []) else "")
        kind = kinds[field.metadata["kind"]]
        parser.add_argument(*names, dest=name, type=kind, nargs=field.metadata["count"], help=text, metavar=_metavar(field))
    return parser


def _metavar(field: dataclasses.Field) -> Any:
    if field.metadata["choices"]:
        return "|".join(field.metadata["choices"])
    if field.metadata["count"] == 2:
        return ("H", "W") if field.name == "export_size" else ("LOW", "HIGH")
    return {bool: "0|1", int: "N", float: "X", str: "WORD"}[field.metadata["kind"]]


def _boolean(text: str) -> bool:
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"wants 0 or 1, not {text!r}")
    return text == "1"


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wants a whole number, not {text!r}") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wants a number, not {text!r}") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise argparse.ArgumentTypeError(f"wants a finite number, not {text!r}")
    return value


def _check(name: str, value: Any) -> None:
    limits = FIELDS[name].metadata
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if limits["choices"] and item not in limits["choices"]:
            names = ", ".join(limits["choices"])
            raise UserError(f"{flag(name)} knows no {item!r}{_nearest(item, limits['choices'])}; it takes one of: {names}")
        if limits["low"] is not None and item < limits["low"]:
            raise UserError(f"{flag(name)} wants at least {limits['low']}, not {item}")
        if limits["above"] is not None and item <= limits["above"]:
            raise UserError(f"{flag(name)} wants more than {limits['above']}, not {item}")
        if limits["high"] is not None and item > limits["high"]:
            raise UserError(f"{flag(name)} wants at most {limits['high']}, not {item}")


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def refuse_contradictions(options: Options, given: Mapping[str, Any]) -> None:
    """Raise UserError where options exclude each other; `given`: those of the command line."""
    todo = [flag(name) for name in THINGS_TO_DO if getattr(options, name)]
    if len(todo) > 1:
        raise UserError(f"{todo[0]} and {todo[1]} are different things to do; choose one")
    if not re.fullmatch(r"[^/\\\s][^/\\]{0,150}", options.checkname) or set(options.checkname) == {"."}:
        raise UserError(f"--checkname {options.checkname!r}: wants a plain name, from which the run folder's is made")
    if options.random_scale and options.random_scale[0] > options.random_scale[1]:
        raise UserError("--random-scale wants LOW HIGH, the lower bound first")
    if options.stage == "flow" and options.optical_flow_network == "none":
        raise UserError("--stage flow trains a flow network; --optical-flow-network none is none")
    _check_evaluation(options, training=not todo)
    _check_video(options, given)
    _check_export(options, given)


def _check_evaluation(options: Options, *, training: bool) -> None:
    if not options.eval_single and not options.eval_multi_step:
        raise UserError("nothing to evaluate: --eval-single 0 with an empty --eval-multi-step")
    if options.stage == "segnet" and options.evaluate and options.method not in ("per-frame", "copy"):
        raise UserError(f"--stage segnet --evaluate 1 knows --method per-frame or copy; {options.method} belongs to --stage gsv")
    if options.stage == "flow" and options.evaluate:
        raise UserError("--stage flow has no --evaluate; its end-point error is printed while it trains")
    if training and options.method in ("copy", "warp"):
        raise UserError(f"--method {options.method} is a baseline, which has no training; it belongs to --evaluate 1")
    if options.save_predictions and not options.evaluate:
        raise UserError("--save-predictions belongs to --evaluate 1 (--output DIR is for --video)")
    if options.results and options.benchmark != "table":
        raise UserError("--results belongs to --benchmark table")


def _check_video(options: Options, given: Mapping[str, Any]) -> None:
    if options.video and not options.output:
        raise UserError("--video wants --output: a video's file (.mp4, .avi, .mkv), a folder for label maps, or both")
    if options.output and not options.video:
        raise UserError("--output belongs to --video IN; --save-predictions is for --evaluate 1")
    if len(options.output) > 2:
        raise UserError(f"--output takes one video, one folder, or both, not {len(options.output)} names")
    if options.video and (options.stage != "gsv" or options.method in ("copy", "warp")):
        raise UserError("--video goes with --stage gsv, and --method gsv or per-frame")
    for name, schedule in (("cut_threshold", "cut"), ("budget", "budget")):
        if name in given and options.schedule != schedule:
            raise UserError(f"{flag(name)} belongs to --schedule {schedule}, this is --schedule {options.schedule}")
    if options.schedule == "budget" and not options.budget:
        raise UserError("--schedule budget wants --budget MILLISECONDS, what a frame may take on average")


def _check_export(options: Options, given: Mapping[str, Any]) -> None:
    if "export_size" in given and not options.export:
        raise UserError("--export-size belongs to --export DIR")
    if options.export and (options.stage != "gsv" or options.method != "gsv"):
        raise UserError("--export writes keyframe and propagation: it goes with --stage gsv and --method gsv")
    if options.export and options.resume == "0":
        raise UserError("--export wants a trained propagation: --resume 1 (released file), --resume PATH or auto (a run's)")
