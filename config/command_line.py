"""The command line: words -> Options. Rejects unknown names (with the nearest one), invalid values, contradictions."""
import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from config.contradictions import check_contradictions
from config.datasets import UNLABELLED, dataset_config
from config.errors import UserError, did_you_mean
from config.options import FIELDS, LEARNED_FLOWS, OF_AMP, Options, flag, groups, values_of
from config.recipes import OF_UNLABELLED, RECIPES, STAGE_DEFAULTS
from config.segmenters import OF_PAPER, TDNETS, VIDEO_NETWORKS, check_segmenter_name


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
    asked = {**(RECIPES[given["recipe"]].settings if given.get("recipe") else {}), **given}
    named = _of_video_network(asked, run or {})
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
    if "amp" in named and (plain.video or plain.benchmark in ("video", "cameras", "table")):
        defaults["precision"] = OF_AMP[plain.amp]
    options = Options(**{**defaults, **chosen}, given=tuple(sorted({*named} - ({"segnet"} - {*asked}))))
    if options.method == "auto" and (options.video or options.benchmark == "carry"):
        options = with_method(options)
    if options.optical_flow_network not in LEARNED_FLOWS:
        options = dataclasses.replace(options, load_flow=False, train_optical_flow=False)
    # A run that --resume names and that has not been read yet may have any flow.
    check_contradictions(options, given, flow_known=run is not None or options.resume in ("0", "1"))
    return options


def _of_video_network(values: dict[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The values; --stage and --method tdnet or accel become stage segnet of that network: of several, the one that
    --tdnet names, else the `run`'s. Raises UserError."""
    named = next((name for name in ("stage", "method") if values.get(name) in VIDEO_NETWORKS.values()), None)
    if named is None:
        return values
    method = values[named]
    known = [network for network, own in VIDEO_NETWORKS.items() if own == method]
    network = run["segnet"] if run.get("segnet") in known else known[0]
    if method == "tdnet" and "tdnet" in values:
        network = TDNETS[values["tdnet"]]
    settings = {"stage": "segnet", "segnet": network, "method": method}
    for name, own in settings.items():
        if values.get(name, own) not in (own, method):
            raise UserError(f"{flag(name)} {values[name]}: {flag(named)} {method} has its own; drop one of the two")
    return values | settings


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
