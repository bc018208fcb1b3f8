"""What contradicts itself on a command line whose single values are in order."""
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from config.errors import UserError

if TYPE_CHECKING:
    from config.options import Options

THINGS_TO_DO = ("video", "export", "evaluate", "demo", "benchmark")  # beside training


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def refuse_contradictions(options: "Options", given: Mapping[str, Any]) -> None:
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


def _check_evaluation(options: "Options", *, training: bool) -> None:
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


def _check_video(options: "Options", given: Mapping[str, Any]) -> None:
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


def _check_export(options: "Options", given: Mapping[str, Any]) -> None:
    if "export_size" in given and not options.export:
        raise UserError("--export-size belongs to --export DIR")
    if options.export and (options.stage != "gsv" or options.method != "gsv"):
        raise UserError("--export writes keyframe and propagation: it goes with --stage gsv and --method gsv")
    if options.export and options.resume == "0":
        raise UserError("--export wants a trained propagation: --resume 1 (released file), --resume PATH or auto (a run's)")
