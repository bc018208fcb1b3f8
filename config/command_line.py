"""The command line: words -> Options. Rejects unknown names (with the nearest one), invalid values, contradictions."""
import argparse
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from config.datasets import CUSTOM, UNLABELLED, dataset_config
from config.errors import UserError, did_you_mean
from config.options import FIELDS, LEARNED_FLOWS, Options, flag, groups, tasks
from config.recipes import OF_UNLABELLED, RECIPES, STAGE_DEFAULTS
from config.segmenters import NATIVE, OF_PAPER, TDNETS, VIDEO_NETWORKS, check_segmenter_name

REQUIRED = {  # an option -> the option without which it has no effect, and its value (None: any)
    "pictures": ("check", 1), "export_size": ("export", None), "frame_size": ("benchmark", ("video", "carry")),
    "results": ("benchmark", "table"), "save_predictions": ("evaluate", 1), "cut_threshold": ("schedule", "cut"),
    "residual_threshold": ("schedule", "residual"), "reference": ("evaluate", 1),
    "budget": ("schedule", "budget"),
}
_NETWORKS = ("training", "--evaluate", "--video", "--export", "--benchmark eval", "--benchmark video",
             "--benchmark schedule", "--benchmark carry")
_DATA = ("training", "--evaluate", "--check", "--benchmark train", "--benchmark loader", "--benchmark eval",
         "--benchmark schedule", "--benchmark carry")
PLACES = ("data_path", "weights_dir")  # where things are; commands may share them, whether they are needed or not
READ_BY = {  # an option that names a file or folder -> what reads or writes it; elsewhere it is refused, not ignored
    **dict.fromkeys(("resume", "segnet_weights", "flow_weights", "class_map"), _NETWORKS),
    "weights_dir": (*_NETWORKS, "--download"), "guide_weights": ("training",), "data_path": _DATA,
    "metrics_file": ("training", "--evaluate", "--benchmark"),
    "cache_dir": ("training", "--evaluate", "--benchmark train", "--benchmark loader"),
}


class Parser(argparse.ArgumentParser):
    """argparse's parser that raises UserError where argparse prints its usage and exits."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists all options")

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Words -> values by option name, lists as tuples. Raises UserError."""
        namespace, unknown = self.parse_known_args(list(words))
        for word in unknown:
            hint = did_you_mean(word.split("=")[0], self._option_string_actions)
            raise UserError(f"unknown option {word}{hint}; --help lists all")
        return {name: tuple(value) if isinstance(value, list) else value for name, value in vars(namespace).items()}


def parse(words: Sequence[str]) -> Options:
    """Command-line words -> Options, with the defaults of recipe, stage and data set filled in. Raises UserError."""
    given = _parser().read(words)
    if "LOCAL_RANK" in os.environ and "local_rank" not in given:
        try:
            given["local_rank"] = whole_number(os.environ["LOCAL_RANK"])
        except argparse.ArgumentTypeError as error:
            raise UserError(f"LOCAL_RANK in the environment {error}") from error
    for name, value in given.items():
        if value == "" and name != "checkname":
            raise UserError(f"{flag(name)} has an empty value; drop it, or set the variable that it comes from")
        limits = {key: FIELDS[name].metadata[key] for key in ("choices", "low", "above", "high")}
        check_value(flag(name), value, **limits)
    for name in {"segnet", "teacher"} & {*given}:
        check_segmenter_name(given[name], flag(name))
    return resolve(given)


def resolve(given: Mapping[str, Any], run: Mapping[str, Any] | None = None) -> Options:
    """Options from the `given` ones, then the named recipe, the `run` that is resumed, the data set, the stage and the
    options' own defaults. Raises UserError if they contradict each other."""
    named = _of_video_network({**(RECIPES[given["recipe"]].settings if given.get("recipe") else {}), **given})
    chosen = {**(run or {}), **named}
    plain = Options(**chosen)
    dataset = dataset_config(plain.dataset, plain.data_path)
    variant = {"segnet": plain.segnet, "flow": plain.optical_flow_network, "gsv": plain.optim}[plain.stage]
    defaults: dict[str, Any] = {"data_path": dataset.default_path, **STAGE_DEFAULTS.get((plain.stage, variant), {})}
    if plain.segnet not in OF_PAPER:
        defaults.setdefault("scale", 1.0)
    if dataset.crop is not None and plain.segnet != "td4-psp18":  # which takes images of one size
        defaults.update(crop_height=dataset.crop[0], crop_width=dataset.crop[1])
    if plain.stage == "segnet":
        defaults["method"] = VIDEO_NETWORKS.get(plain.segnet, "per-frame")
    if plain.stage == "gsv" and (plain.video or plain.benchmark == "carry"):
        defaults["method"] = "auto"
    if plain.dataset == UNLABELLED and plain.stage == "gsv":
        defaults["reference"] = "segmenter"
        # Other files have the flow that they were trained with.
        defaults.update(OF_UNLABELLED if plain.resume in ("0", "auto") else {})
    options = Options(**{**defaults, **chosen}, given=tuple(sorted(named)))
    if options.method == "auto" and (options.video or options.benchmark == "carry"):
        options = with_method(options)
    if options.optical_flow_network not in LEARNED_FLOWS:
        options = dataclasses.replace(options, load_flow=False, train_optical_flow=False)
    # A run that --resume names and that has not been read yet may have any flow.
    check_contradictions(options, given, flow_known=run is not None or options.resume in ("0", "1"))
    return options


def _of_video_network(values: dict[str, Any]) -> dict[str, Any]:
    """The values; --stage and --method tdnet or accel become stage segnet of that network. Raises UserError."""
    named = [name for name in ("stage", "method") if values.get(name) in VIDEO_NETWORKS.values()]
    if not named:
        return values
    what = f"{flag(named[0])} {values[named[0]]}"
    segnet = TDNETS[values.get("tdnet", "bise18")] if values[named[0]] == "tdnet" else "accel18"
    for name, own in (("segnet", segnet), ("stage", "segnet"), ("method", VIDEO_NETWORKS[segnet])):
        if values.get(name, own) not in (own, VIDEO_NETWORKS[segnet]):
            raise UserError(f"{flag(name)} {values[name]}: {what} has its own; drop one of the two")
    return {**values, "stage": "segnet", "segnet": segnet, "method": VIDEO_NETWORKS[segnet]}


def with_method(options: Options) -> Options:
    """The method that `auto` means: the propagation that is named, else moved labels, along DIS if no flow is named."""
    options = dataclasses.replace(options, given=tuple(name for name in options.given if name != "method"))
    if options.resume != "0":
        return dataclasses.replace(options, method="gsv")
    named = {"optical_flow_network", "flow_weights"} & {*options.given}
    flow = options.optical_flow_network if named else "dis"
    carry = options.carry if "carry" in options.given else "labels"
    return dataclasses.replace(options, method="warp", optical_flow_network=flow, carry=carry)


def _parser() -> Parser:
    recipes = "\n".join(f"  {name:24} {recipe.expected}" for name, recipe in RECIPES.items())
    parser = Parser(
        prog="main.py", argument_default=argparse.SUPPRESS, usage="main.py [options]",
        description="GSVNet: fast semantic segmentation of video. Trains unless an option asks for something else.",
        epilog=f"recipes (--recipe NAME) and what they reach; commands and times are in docs/options.md:\n{recipes}",
    )
    kinds: dict[type, Callable[[str], object]] = {bool: switch, int: whole_number, float: number, str: str}
    for title, names in groups().items():
        group = parser.add_argument_group(title)
        for name in names:
            details, default = FIELDS[name].metadata, default_of(name)
            group.add_argument(
                flag(name), *(["--local_rank"] if name == "local_rank" else []), dest=name, type=kinds[details["kind"]],
                nargs=details["count"], metavar=values_of(name),
                help=details["help"] + (f" (default: {default})" if default else ""),
            )
    return parser


def values_of(name: str) -> str | tuple[str, ...]:
    """What --help shows for an option's value: its choices, or a placeholder."""
    details = FIELDS[name].metadata
    choices = "|".join(map(str, details["choices"]))
    return details["shown"] or choices or {bool: "0|1", int: "N", float: "X"}[details["kind"]]


def default_of(name: str) -> str:
    """An option's default as it would be typed, "" for no value."""
    default = getattr(Options(), name)
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return str(int(default) if isinstance(default, bool) else default)


def switch(text: str) -> bool:
    """"0" or "1" -> bool. Raises ArgumentTypeError."""
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"must be 0 or 1, not {text!r}")
    return text == "1"


def whole_number(text: str) -> int:
    """Text -> int. Raises ArgumentTypeError."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def number(text: str) -> float:
    """Text -> finite float. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise argparse.ArgumentTypeError(f"must be a finite number, not {text!r}")
    return value


def check_value(
    name: str, value: Any, *, choices: Sequence[object] = (), low: float | None = None, above: float | None = None,
    high: float | None = None,
) -> None:
    """Raise UserError if a value of the flag `name`, or an item of it, is not among the choices or out of bounds."""
    for item in value if isinstance(value, tuple) else [value]:
        if choices and item not in choices:
            known = [*map(str, choices)]
            hint = did_you_mean(str(item), known)
            raise UserError(f"{name}: invalid value {item!r}{hint}; choose from {', '.join(known)}")
        if low is not None and item < low:
            raise UserError(f"{name} must be at least {low}, not {item}")
        if above is not None and item <= above:
            raise UserError(f"{name} must be greater than {above}, not {item}")
        if high is not None and item > high:
            raise UserError(f"{name} must be at most {high}, not {item}")


def check_contradictions(options: Options, given: Mapping[str, Any], *, flow_known: bool = True) -> None:
    """Raise UserError if options exclude each other; `given`: those of the command line itself. flow_known: whether the
    options have the flow that will be used."""
    todo = tasks(options)
    if len(todo) > 1:
        raise UserError(f"{todo[0]} and {todo[1]} exclude each other; choose one")
    for name, (other, value) in REQUIRED.items():
        actual = getattr(options, other)
        values = value if isinstance(value, tuple) else (value,)
        if given.get(name) and not (actual if value is None else actual in values):
            shown = values_of(other) if value is None else "|".join(map(str, values))
            raise UserError(f"{flag(name)} has an effect only with {flag(other)} {shown}; add that or drop it")
    _check_read(options, given)
    if given.get("guide_weights") and (options.stage != "gsv" or options.resume not in ("0", "auto")):
        raise UserError("--guide-weights starts a training of --stage gsv, without --resume; drop one of the options")
    if not re.fullmatch(r"[^/\\\s][^/\\]{0,150}", options.checkname) or set(options.checkname) == {"."}:
        raise UserError(f"--checkname {options.checkname!r}: must be a plain name, since it becomes a folder's name")
    if options.random_scale and options.random_scale[0] > options.random_scale[1]:
        raise UserError("--random-scale takes LOW HIGH, the lower bound first")
    if given.get("flip") and not options.use_crop:
        raise UserError("--flip: --use-crop 0 switches off all augmentation, the flip too; drop one of the two options")
    if options.split and not (options.check or options.evaluate):
        raise UserError("--split has an effect only with --evaluate 1 or --check 1; add one of them or drop it")
    if options.evaluate and len(options.split) > 1:
        raise UserError(f"--split takes one split with --evaluate 1, not {len(options.split)}")
    _check_segmenter(options, given)
    _check_video_network(options, given)
    _check_data(options, given)
    _check_method(options, given, flow_known)
    if not options.eval_single and not options.eval_multi_step:
        raise UserError("nothing to evaluate: --eval-single 0 with an empty --eval-multi-step")
    own = VIDEO_NETWORKS.get(options.segnet)
    if options.stage == "segnet" and options.evaluate and options.method not in ("per-frame", "copy", own):
        raise UserError(f"--stage segnet --evaluate 1: --method must be per-frame or copy, not {options.method}")
    if options.stage == "flow" and options.evaluate:
        raise UserError("--stage flow has no --evaluate 1; its end-point error is logged during training")
    _check_output(options)


def _check_data(options: Options, given: Mapping[str, Any]) -> None:
    """What has no labels, and what is evaluated as a stream."""
    for name in ("val_path", "frames", "label_path", "teacher_cache"):
        if name in given and options.dataset != UNLABELLED:
            raise UserError(f"{flag(name)} has an effect only with --dataset unlabelled; add that or drop it")
    for name in ("frames", "label_path", "teacher_cache"):
        if name in given and tasks(options):
            raise UserError(f"{flag(name)} is for training, and has no effect with {tasks(options)[0]}; drop it")
    works = not tasks(options) or options.evaluate or options.benchmark == "carry"
    works |= "dataset" not in given  # a run's, which tells nothing of a video
    if options.dataset == UNLABELLED and not (works and options.stage == "gsv"):
        raise UserError(
            "--dataset unlabelled works with training and --evaluate 1 of --stage gsv, and --benchmark carry; choose "
            "another data set"
        )
    if options.dataset == UNLABELLED and options.reference == "labels":
        raise UserError("--reference labels: --dataset unlabelled has none; drop it")
    if options.dataset == UNLABELLED and (odd := {*options.split} - {"train", "val", "all"}):
        raise UserError(f"--split {odd.pop()}: --dataset unlabelled has train, val and all; choose one")
    cached = options.dataset == UNLABELLED and options.teacher_cache and options.clip_source == "video"
    if cached and given.get("random_scale"):
        raise UserError("--random-scale: cached logits are not resized; drop it, or use --teacher-cache 0")
    if options.evaluate and options.schedule == "budget":
        raise UserError("--schedule budget depends on the machine's speed; with --evaluate 1, choose cut or residual")


def _check_method(options: Options, given: Mapping[str, Any], flow_known: bool) -> None:
    """The method, its flow, and what it carries."""
    flow, todo = options.optical_flow_network, tasks(options)
    if flow not in LEARNED_FLOWS:
        if options.stage == "flow":
            raise UserError(f"--stage flow trains a flow network; --optical-flow-network {flow} has nothing to train")
        if given.get("flow_weights"):
            raise UserError(f"--flow-weights: --optical-flow-network {flow} has no weights; drop one of the two")
    for name in ("dis_side", "dis_preset"):
        if name in given and flow != "dis" and flow_known:
            raise UserError(f"{flag(name)} has an effect only with --optical-flow-network dis; add that or drop it")
    if flow == "dis" and options.benchmark in ("eval", "classes"):
        raise UserError(f"--benchmark {options.benchmark} measures flow networks; drop --optical-flow-network dis")
    if not todo and options.method in ("copy", "warp"):
        raise UserError(f"--method {options.method} needs no training; use it with --evaluate 1 or --video")
    if options.benchmark == "carry" and "method" in given:
        raise UserError("--benchmark carry compares copying and warping by itself; drop --method")
    if options.method == "auto":
        raise UserError("--method auto is for --video; choose gsv, warp, copy or per-frame")
    if options.carry == "labels" and options.method not in ("copy", "warp"):
        raise UserError(f"--carry labels works with --method warp or copy, not {options.method}, which needs logits")
    gridless = options.carry == "labels" and (flow == "dis" or options.method == "copy") and options.schedule == "fixed"
    if "grid" in given and gridless and options.benchmark != "carry":
        raise UserError("--grid has no effect on --carry labels, which are carried at full size; drop one of the two")


def _check_segmenter(options: Options, given: Mapping[str, Any]) -> None:
    """What a stage can do with the segmenter of the options."""
    if options.stage == "segnet" and options.segnet not in NATIVE:
        raise UserError(
            f"--stage segnet trains networks of this program, not {options.segnet}; drop --stage, or choose from "
            f"{', '.join(NATIVE)}"
        )
    if options.class_map and options.stage != "gsv" and not options.evaluate:
        raise UserError("--class-map: a segmenter is trained on the data set's classes; drop it, or drop --stage")
    if given.get("pretrained_backbone") and options.segnet not in OF_PAPER:
        raise UserError(
            f"--pretrained-backbone 1 downloads weights for {' and '.join(OF_PAPER)} alone; start "
            f"{options.segnet} with --segnet-weights FILE"
        )


def _check_video_network(options: Options, given: Mapping[str, Any]) -> None:
    """TDNet and Accel: what they train with, and what they have no part for."""
    method, training = VIDEO_NETWORKS.get(options.segnet), not tasks(options)
    for name, of in (("tdnet", "tdnet"), ("teacher", "tdnet"), ("deeplab101", "accel"), ("deeplab18", "accel")):
        if given.get(name) and (method != of or not (training or name == "tdnet")):
            where = f"--stage {of}" + (f" or --method {of}" if name == "tdnet" else ", when it trains")
            raise UserError(f"{flag(name)} has an effect only with {where}; add that or drop it")
    if options.teacher in VIDEO_NETWORKS:
        raise UserError(f"--teacher {options.teacher} is a method for video; choose a segmenter of single frames")
    if given.get("teacher_weights") and not options.teacher:
        raise UserError("--teacher-weights has an effect only with --teacher NAME; add that or drop it")
    if method is None:
        return
    if options.stage != "segnet":
        raise UserError(f"--segnet {options.segnet} is a method itself; use --method {method} or --stage {method}")
    if options.reference == "segmenter" or options.export or options.benchmark:
        asked = "--reference segmenter" if options.reference == "segmenter" else tasks(options)[0]
        raise UserError(f"{asked} does not work with --method {method}; drop one of the two")
    if method == "tdnet" and "interval" in given:
        raise UserError("--interval has no effect with --method tdnet, which has no keyframes; drop it")
    if method == "tdnet" and options.schedule not in ("fixed", "cut"):
        raise UserError(f"--schedule {options.schedule}: --method tdnet has no keyframes; use cut, to restart at cuts")


def _check_read(options: Options, given: Mapping[str, Any]) -> None:
    """Files and folders that are named, and what is asked for would not read."""
    task = next(iter(tasks(options)), "training").split()[0]
    task += f" {options.benchmark}" if options.benchmark else ""
    for name, readers in READ_BY.items():
        used = any(task.startswith(reader) for reader in readers) or (name == "data_path" and options.dataset == CUSTOM)
        if given.get(name) in (None, "0", "1", "auto") or used:
            continue
        if name not in PLACES or not os.path.exists(given[name]):
            missing = "is not there, and it " if name in PLACES else ""
            raise UserError(f"{flag(name)} {given[name]} {missing}has no effect with {task}; drop it")


def _check_output(options: Options) -> None:
    """--output of --video and of --check; what --video and --export can do; the budget of --schedule budget."""
    if options.video and not options.output:
        raise UserError("--video requires --output: a video file (.mp4, .avi, .mkv), a folder for label maps, or both")
    if options.output and not (options.video or options.check):
        raise UserError("--output requires --video IN or --check 1; with --evaluate 1, use --save-predictions DIR")
    if len(options.output) > (1 if options.check else 2):
        takes = "one folder with --check 1" if options.check else "one video, one folder, or both"
        raise UserError(f"--output takes {takes}, not {len(options.output)} names")
    if options.video and options.stage != "gsv" and options.segnet not in VIDEO_NETWORKS:
        raise UserError("--video requires --stage gsv")
    if options.schedule == "budget" and not options.budget:
        raise UserError("--schedule budget requires --budget MILLISECONDS, the average time per frame")
    streams = options.video or options.evaluate or options.benchmark == "schedule"
    if options.schedule != "fixed" and not streams:
        raise UserError(f"--schedule {options.schedule} is for --video, --evaluate 1 and --benchmark schedule; drop it")
    exported = (("gsv", "gsv"), ("gsv", "warp"), ("segnet", "per-frame"))
    if options.export and ((options.stage, options.method) not in exported or options.carry == "labels"):
        raise UserError(
            "--export requires --stage gsv with --method gsv or warp and --carry logits, or --stage segnet for the "
            "segmenter alone"
        )
