"""Networks with the weights that the options name: fresh, for training, for inference."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config.class_map import same_names
from config.datasets import UNLABELLED, dataset_config
from config.errors import UserError
from config.options import FILES, FIXED_IN_RUN, NOT_OF_RUN, Options, flag, recorded, tasks
from config.segmenters import NATIVE
from models import released
from models.accel import Accel
from models.build import build_flow, build_segmenter
from models.flow_dis import DISFlow
from models.gsvnet import GSVNet
from models.guided_conv import GuidedConv
from models.identity import SegmenterIdentity
from models.load_segmenter import data_set_counts, fresh_segmenter, loaded_segmenter, segmenter_file
from models.segmenters.base import Segmenter
from utils.checkpoint import WeightsFile
from utils.logging import logger
from utils.run_folder import LATEST, PREVIOUS, latest_experiment

# Spelt in several ways.
PLACES = ("data_path", "val_path", "label_path", "cache_dir", "weights_dir", *FILES)
ACCEL_PARTS = ("deeplab101", "deeplab18", "flow_weights")
LEAST_GAIN = 0.3  # per cent of the pixels, by which a propagation has to be better than warping to be chosen


@dataclass(frozen=True)
class Weights:
    """The file that each network's weights come from; None: the network stays as it was built."""

    segmenter: WeightsFile | None = None
    guided: WeightsFile | None = None
    flow: WeightsFile | None = None
    parts: Mapping[str, WeightsFile] = field(default_factory=dict)  # of Accel, by the options that name them
    trained: SegmenterIdentity | None = None  # the segmenter that the propagation was trained on
    for_other_classes: bool = False  # what depends on the classes may start fresh, in the network that is trained


def fresh_networks(options: Options) -> GSVNet:
    """Networks as they are built, without any file."""
    return _around(fresh_segmenter(options), options)


def _around(segmenter: Segmenter, options: Options) -> GSVNet:
    """The whole network with this segmenter, and a propagation of its classes."""
    guided = _guided(len(segmenter.names), options)
    return GSVNet(segmenter, flow_of(options), guided, options.grid)


def flow_of(options: Options) -> nn.Module:
    """The flow that the options name, as it is built."""
    settings = {"side": options.dis_side, "preset": options.dis_preset} if options.optical_flow_network == "dis" else {}
    return build_flow(name=options.optical_flow_network, **settings)


def _guided(classes: int, options: Options) -> GuidedConv:
    return GuidedConv(classes, use_intra=options.intra, use_edge=options.edge)


def networks_for_training(options: Options, resumed: WeightsFile | None) -> GSVNet:
    """Networks as training of the stage starts; stages segnet and flow get theirs alone, nn.Identity for the others.

    resumed: the file of `read_resumed`. Raises UserError.
    """
    weights = weights_for(options, training=True, resumed=resumed)
    nothing: Any = nn.Identity()
    if options.stage == "segnet":
        pretrained = options.pretrained_backbone and not weights.segmenter
        try:
            segmenter = build_segmenter(name=options.segnet, classes=_classes(options), pretrained=pretrained)
        except OSError as error:  # urllib's errors are OSErrors
            found = f"cannot download the backbone's ImageNet weights ({error})"
            raise UserError(f"{found}; --pretrained-backbone 0 starts without them") from error
        segmenter.names = dataset_config(options.dataset, options.data_path).classes
        if weights.segmenter is not None and released.is_pretraining(weights.segmenter):
            released.load_pretrained(segmenter, weights.segmenter, options.segnet)
        elif weights.segmenter is not None:
            head = _head(partial(build_segmenter, name=options.segnet), options) if weights.for_other_classes else ()
            others = _others(weights.segmenter, options)
            released.load_segmenter(segmenter, weights.segmenter, options.segnet, head, others)
        if isinstance(segmenter, Accel):
            released.load_accel(segmenter, weights.parts)
        return GSVNet(segmenter, nothing, nothing, options.grid)
    if options.stage == "flow":
        return _load(GSVNet(Segmenter(), flow_of(options), nothing), weights, options)
    # In this order, the flow network twice: a seed always gave these weights.
    guided = _guided(_classes(options), options) if options.dataset != UNLABELLED else None
    segmenter = loaded_segmenter(options, weights.segmenter, weights.trained)
    guided = guided or _guided(len(segmenter.names), options)
    for _ in range(2 if resumed is None or not options.load_flow else 1):
        flow = flow_of(options)
    return _load(GSVNet(segmenter, flow, guided, options.grid), weights, options)


def networks_for_inference(options: Options) -> GSVNet:
    """Networks with all weights that `--method` needs. Raises UserError where the options do not name them."""
    weights = weights_for(options, training=False)
    return _load(_around(loaded_segmenter(options, weights.segmenter, weights.trained), options), weights, options)


def weights_for(options: Options, *, training: bool, resumed: WeightsFile | None = None) -> Weights:
    """Decide which file each network's weights come from, and read them; the one place that decides it.

    resumed: in training, the file of `read_resumed`; inference reads it here. Raises UserError where a network that is
    needed has no file, and where a file that the command line names would not be used.
    """
    if "weights_dir" in options.given and not Path(options.weights_dir).is_dir():
        raise UserError(f"--weights-dir {options.weights_dir}: no such folder; name that of the released files")
    if not training:
        resumed = read_resumed(options)
    weights = _chosen(options, training, resumed)
    files = (weights.segmenter, weights.guided, weights.flow, *weights.parts.values())
    used = {file.path for file in files if file is not None}
    # A run that is continued by its own command has read such a file when it began.
    before = _args(resumed) if resumed is not None and options.resume == "auto" else {}
    for name in ("segnet_weights", "guide_weights", "flow_weights"):
        path = getattr(options, name) if name in options.given else ""
        began = Path(str(before.get(name))).absolute() == Path(path).absolute() and Path(path).is_file()
        if path and Path(path) not in used and not began:
            has = resumed is not None and resumed.path in used
            reason = f"--resume {options.resume} has them" if has else f"--method {options.method} does not use them"
            raise UserError(f"{flag(name)} {path}: these weights would be ignored, since {reason}; drop one of the two")
    return weights


def _chosen(options: Options, training: bool, resumed: WeightsFile | None) -> Weights:
    """`weights_for`, but for the files that are named and not used."""
    if options.stage == "segnet":
        if resumed is not None:
            return Weights(segmenter=resumed)
        parts = {
            name: WeightsFile.read(Path(path), "weights of a part of Accel", f"name another with {flag(name)}")
            for name in ACCEL_PARTS if options.segnet == "accel18" and (path := getattr(options, name))
        }
        if options.segnet_weights or not training:
            file, below = segmenter_file(options, None, ""), parts.get("flow_weights")
            if file is not None and below is not None:  # as published: what the one lacks, the other has
                file = replace(file, content={**below.content, **file.content})
            return Weights(segmenter=file, for_other_classes=training, parts=parts)
        missing = [flag(name) for name in ACCEL_PARTS if name not in parts]
        if options.segnet == "accel18" and missing and not options.finetune_all:
            raise UserError(
                f"--stage accel trains the fusion of networks that are trained already: add {', '.join(missing)}, or "
                "train everything with --finetune-all 1"
            )
        return Weights(parts=parts)
    if options.stage == "flow":
        return Weights(flow=resumed or _flow_file(options))
    trained = SegmenterIdentity.recorded(resumed.content) if resumed is not None else None
    before = str(_args(resumed).get("segnet_weights") or "") if resumed is not None else ""
    segmenter = segmenter_file(options, resumed, before)
    if not training and options.method in ("per-frame", "copy"):
        return Weights(segmenter=segmenter, trained=trained)
    if resumed is None and options.guide_weights:
        started = released.read_propagation(Path(options.guide_weights))
        flow = _flow_file(options) if options.flow_weights or not options.load_flow else started
        return Weights(segmenter=segmenter, guided=started, flow=flow, for_other_classes=True)
    if options.method == "gsv" and resumed is None and not training:
        task = next(iter(tasks(options)), "--method gsv")
        raise UserError(
            f"{task} requires a trained propagation: --resume 1 (released file), --resume PATH or auto (a run's); or "
            "choose --method per-frame, copy, or warp with --flow-weights or --optical-flow-network dis"
        )
    flow = resumed if resumed is not None and options.load_flow else _flow_file(options)
    if flow is None and options.optical_flow_network == "light" and not training:
        raise UserError(
            f"--method {options.method} requires a flow network: --flow-weights PATH, --resume with --load-flow 1, or "
            "--optical-flow-network dis, which needs no weights"
        )
    return Weights(segmenter=segmenter, guided=resumed if options.method == "gsv" else None, flow=flow, trained=trained)


def chosen_by_val(options: Options) -> Options:
    """The options, with warping in place of a propagation that was trained without labels and that its val, as the
    checkpoint tells, found to gain less than LEAST_GAIN over warping; logs which and why. Raises UserError."""
    file = read_resumed(options) if options.method == "gsv" and options.resume not in ("0", "1") else None
    if file is None or _args(file).get("dataset") != UNLABELLED:
        return options
    val = file.content.get("val")
    gain = val.get("gain") if isinstance(val, Mapping) else None
    if isinstance(gain, float) and gain >= LEAST_GAIN:
        logger.info("%s: on val %.2f %% of the pixels better than warping: used", file.path, gain)
        return options
    found = f"on val {gain:.2f} % of the pixels better than warping" if isinstance(gain, float) else "not evaluated"
    logger.info("%s: %s, not %.1f: warping is used instead (--method gsv uses it)", file.path, found, LEAST_GAIN)
    carry = options.carry if "carry" in options.given else "labels"
    return replace(options, method="warp", optical_flow_network="dis", carry=carry, load_flow=False)


def resume_path(options: Options) -> Path | None:
    """The file that `--resume` means; None for no resuming, and for `auto` without an earlier run. Raises UserError."""
    if options.resume == "0":
        return None
    if options.resume == "1":
        flow = released.FLOWNET_FILE if options.optical_flow_network == "flownet" else ""
        gsvnet, segmenter = (x.get(options.segnet, "") for x in (released.GSVNET_FILES, released.SEGMENTER_FILES))
        name = {"gsv": gsvnet, "segnet": segmenter, "flow": flow}[options.stage]
        if not name:
            of_stage = {"gsv": f"GSVNet on {options.segnet}", "flow": "the light flow network alone"}
            what = of_stage.get(options.stage, options.segnet)
            raise UserError(f"--resume 1: the release has no file of {what}; use --resume PATH")
        return Path(options.weights_dir) / name
    if options.resume == "auto":
        folder = latest_experiment(options)
        if folder is None:
            logger.info("--resume auto: no earlier run of this name")
        return folder and folder / LATEST
    return Path(options.resume)


def read_resumed(options: Options) -> WeightsFile | None:
    """Read the file that `--resume` means, if any; with auto, the previous file where the latest is damaged."""
    path = resume_path(options)
    if path is None:
        return None
    try:
        file = _read_checkpoint(options, path)
    except UserError as error:
        previous = path.with_name(PREVIOUS)
        if options.resume != "auto" or not previous.is_file():
            raise
        logger.info("%s; using %s instead", error, previous.name)
        file = _read_checkpoint(options, previous)
    _compare(options, file)
    return file


def _read_checkpoint(options: Options, path: Path) -> WeightsFile:
    """Read a checkpoint of the options' stage."""
    if options.stage == "segnet":
        return released.read_segmenter(path, options.segnet)
    if options.stage == "flow":
        return released.read_flow(path, options.optical_flow_network)
    return released.read_propagation(path)


def _compare(options: Options, file: WeightsFile) -> None:
    """Compare a checkpoint's networks, and if it is continued its training, with this run's. Raises UserError."""
    # Of foreign segmenters, which are spelt in several ways, the digest is compared.
    foreign = options.segnet not in NATIVE and _args(file).get("segnet") not in NATIVE
    names = ["optical_flow_network"] if options.stage == "flow" else [] if foreign else ["segnet"]
    if options.stage != "flow" and data_set_counts(options):
        _check_classes(file, options)
    if options.stage == "gsv":
        names += ["optical_flow_network"] if options.load_flow else []
        # A part that was not trained cannot be added; to take one away is an ablation.
        names += ["grid", *(name for name in ("intra", "edge") if getattr(options, name))]
        trained = SegmenterIdentity.recorded(file.content)
        bias = file.content["state_dict"].get(released.CLASS_COUNT_TENSOR)
        classes = len(trained.classes) if trained else _classes(options)
        if classes and isinstance(bias, Tensor) and bias.shape not in ((), (classes,)):
            has = f"{len(bias)} classes, but --dataset {options.dataset} has {classes}"
            raise UserError(f"{file.path}: was trained for {has}; use a checkpoint that was trained on this data set")
    continued = (options.resume == "auto" or not options.reset_optimizer) and not tasks(options)
    changes = [*FIXED_IN_RUN, *({*recorded(options)} - NOT_OF_RUN - {*FIXED_IN_RUN, *PLACES})] if continued else []
    for name in dict.fromkeys([*names, *changes]):
        theirs, ours = (_typed(x) for x in (_args(file).get(name, getattr(options, name)), getattr(options, name)))
        if theirs != ours and name in (*names, *FIXED_IN_RUN):
            found = f"was trained with {flag(name)} {theirs}, but this run has {ours}"
            raise UserError(f"{file.path}: {found}; use the same")
        if theirs != ours:
            logger.info("%s: %s until here, %s from here on", flag(name), theirs, ours)


def _typed(value: object) -> object:
    """An option's value as it would be typed."""
    return int(value) if isinstance(value, bool) else " ".join(map(str, value)) if isinstance(value, tuple) else value


def _args(file: WeightsFile) -> Mapping:
    return args if isinstance(args := file.content.get("args"), Mapping) else {}


def _check_classes(file: WeightsFile, options: Options) -> None:
    """Raise UserError where a checkpoint names other classes than the data set's, or names them in another order."""
    if _others(file, options):
        theirs, ours = file.content["segmenter"]["classes"], dataset_config(options.dataset, options.data_path).classes
        raise UserError(
            f"{file.path}: was trained for the classes {', '.join(theirs)}, but --dataset {options.dataset} has "
            f"{', '.join(ours)}; use a checkpoint that was trained on this data set"
        )


def _flow_file(options: Options) -> WeightsFile | None:
    """`--flow-weights`, else for propagation the FlowNet2-S file; None for a network that starts at random."""
    path, name = options.flow_weights, options.optical_flow_network
    if not path and name == "flownet" and options.stage == "gsv":
        path = f"{options.weights_dir}/{released.FLOWNET_FILE}"
    return released.read_flow(Path(path), name) if path else None


def _load(net: GSVNet, weights: Weights, options: Options) -> GSVNet:
    """The network with the weights of its propagation."""
    if weights.guided is not None:
        start, build = weights.for_other_classes, partial(GuidedConv, use_intra=options.intra, use_edge=options.edge)
        head = _head(build, options) if start else ()
        released.load_guided(net.guided, weights.guided, head, _others(weights.guided, options))
        recorded = weights.guided.content.get("flow")
        if isinstance(net.flow, DISFlow) and isinstance(recorded, Mapping) and recorded.get("name") == "dis":
            net.flow.side = options.dis_side if "dis_side" in options.given else int(recorded["side"])
            net.flow.preset = options.dis_preset if "dis_preset" in options.given else str(recorded["preset"])
    if weights.flow is not None:
        released.load_flow(net.flow, weights.flow, options.optical_flow_network)
    return net


def _head(build: Callable[..., nn.Module], options: Options) -> list[str]:
    """Names of a network's tensors whose shape depends on the number of classes."""
    with torch.random.fork_rng(devices=[]):  # initialising them draws no random numbers of the run
        one, other = (build(classes=_classes(options) + more).state_dict() for more in (0, 1))
    return [name for name, x in one.items() if x.shape != other[name].shape]


def _others(file: WeightsFile, options: Options) -> bool:
    """Whether a file is known to be for other classes than the data set's."""
    trained = SegmenterIdentity.recorded(file.content)
    ours = dataset_config(options.dataset, options.data_path).classes
    return trained is not None and not same_names(trained.classes, ours)


def _classes(options: Options) -> int:
    return dataset_config(options.dataset, options.data_path).num_classes
