"""Networks with their weights, as the options ask for them."""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options, flag, tasks
from models.build import build_flow, build_gsvnet, build_segmenter
from models.gsvnet import GSVNet
from models.released import (
    CLASS_COUNT_TENSOR,
    FLOWNET_FILE,
    GSVNET_FILES,
    SEGMENTER_FILES,
    load_flow,
    load_gsvnet,
    load_segmenter,
    read_flow,
    read_gsvnet,
    read_segmenter,
)
from models.segmenters.base import Segmenter
from utils.logging import logger
from utils.run_folder import LATEST, PREVIOUS, latest_experiment


@dataclass(frozen=True)
class Resumed:
    """A checkpoint read for `--resume`, and where it came from."""

    path: Path
    content: Mapping


def resume_path(options: Options) -> Path | None:
    """The file that `--resume` means; None for no resuming, and for `auto` without an earlier run."""
    if options.resume == "0":
        return None
    if options.resume == "1":
        released = {
            "gsv": GSVNET_FILES[options.segnet],
            "segnet": SEGMENTER_FILES[options.segnet],
            "flow": FLOWNET_FILE if options.optical_flow_network == "flownet" else None,
        }[options.stage]
        if released is None:
            raise UserError("--resume 1: there is no released file of the light flow network alone; give --resume PATH")
        return Path(options.weights_dir) / released
    if options.resume == "auto":
        folder = latest_experiment(options)
        if folder is None:
            logger.info("--resume auto: no earlier run of this name")
            return None
        return folder / LATEST
    return Path(options.resume)


def read_resumed(options: Options) -> Resumed | None:
    """Read the file that `--resume` means, if any. With auto, a damaged latest file gives way to the one before it."""
    path = resume_path(options)
    if path is None:
        return None
    try:
        return _read(options, path)
    except UserError as error:
        before = path.with_name(PREVIOUS)
        if options.resume != "auto" or not before.is_file():
            raise
        logger.info("%s; taking %s instead", error, before.name)
        return _read(options, before)


def _read(options: Options, path: Path) -> Resumed:
    if options.stage == "gsv":
        content = read_gsvnet(path)
    elif options.stage == "segnet":
        content = read_segmenter(path, options.segnet)
    else:
        content = read_flow(path, options.optical_flow_network)
    _refuse_other_networks(options, path, content)
    return Resumed(path, content)


def _refuse_other_networks(options: Options, path: Path, content: Mapping) -> None:
    """Compare what the checkpoint says of its networks, or shows by its shapes, with this run's."""
    trained = content.get("args")
    trained = trained if isinstance(trained, Mapping) else {}
    wanted = {"gsv": ["segnet"], "segnet": ["segnet"], "flow": ["optical_flow_network"]}[options.stage]
    if options.stage == "gsv" and options.load_flow:
        wanted.append("optical_flow_network")
    if options.stage == "gsv":  # what a network was trained without, it cannot be given; to take a part away is an ablation
        wanted += [name for name in ("intra", "edge") if getattr(options, name)]
    for name in wanted:
        if trained.get(name, getattr(options, name)) != getattr(options, name):
            theirs, ours = (int(x) if isinstance(x, bool) else x for x in (trained[name], getattr(options, name)))
            raise UserError(f"{path}: was trained with {flag(name)} {theirs}, this run has {ours}")
    bias = content["state_dict"].get(CLASS_COUNT_TENSOR) if options.stage == "gsv" else None
    classes = dataset_config(options.dataset, options.data_path).num_classes
    if bias is not None and bias.ndim == 1 and len(bias) != classes:
        raise UserError(f"{path}: was trained for {len(bias)} classes, --dataset {options.dataset} has {classes}")


def segmenter_path(options: Options) -> Path:
    if options.segnet_weights:
        return Path(options.segnet_weights)
    return Path(options.weights_dir) / SEGMENTER_FILES[options.segnet]


def starting_segmenter(options: Options, resumed: Resumed | None) -> Segmenter:
    """The keyframe segmenter as its training starts: resumed, or fresh (with ImageNet weights if asked for)."""
    pretrained = options.pretrained_backbone and resumed is None
    classes = dataset_config(options.dataset, options.data_path).num_classes
    try:
        segmenter = build_segmenter(name=options.segnet, classes=classes, pretrained=pretrained)
    except OSError as error:  # urllib's errors are OSErrors
        raise UserError(
            f"the ImageNet weights of the trunk could not be downloaded ({error}); --pretrained-backbone 0 starts without "
            "them, --resume PATH from a file"
        ) from error
    if resumed is not None:
        load_segmenter(segmenter, resumed.content, resumed.path, options.segnet)
    return segmenter


def starting_flow(options: Options, resumed: Resumed | None = None) -> nn.Module:
    """The flow network as training starts: resumed, `--flow-weights`, the FlowNet2-S file if there, or random."""
    name = options.optical_flow_network
    flow = build_flow(name=name)
    if resumed is not None:
        load_flow(flow, resumed.content, resumed.path, name)
        return flow
    path = Path(options.flow_weights) if options.flow_weights else None
    if path is None and name == "flownet" and options.stage == "gsv":
        path = Path(options.weights_dir) / FLOWNET_FILE
    if path is not None:
        load_flow(flow, read_flow(path, name), path, name)
    return flow


def build_networks(options: Options, resumed: Resumed | None) -> GSVNet:
    """GSVNet with the segmenter's weights, and the resumed checkpoint's where there is one."""
    net = untrained_networks(options)
    path = segmenter_path(options)
    load_segmenter(net.segmenter, read_segmenter(path, options.segnet), path, options.segnet)
    if resumed is not None:
        load_gsvnet(
            net.guided, net.flow, resumed.content, resumed.path, flow_name=options.optical_flow_network,
            load_flow=options.load_flow,
        )
    return net


def untrained_networks(options: Options) -> GSVNet:
    """Networks as they are built, without any file: what a benchmark needs."""
    classes = dataset_config(options.dataset, options.data_path).num_classes
    return build_gsvnet(
        segmenter=options.segnet, flow=options.optical_flow_network, classes=classes, intra=options.intra,
        edge=options.edge,
    )


def networks_for_benchmark(options: Options) -> tuple[GSVNet, str]:
    """Networks to measure, and a word on their weights: those that the options name, else untrained ones."""
    if options.resume == "0":
        return untrained_networks(options), "untrained"
    return networks_for_evaluation(options), f"weights of {resume_path(options)}"


def networks_for_training(options: Options, resumed: Resumed | None) -> GSVNet:
    """Networks as the propagation's training starts."""
    net = build_networks(options, resumed)
    if resumed is None or not options.load_flow:
        net.flow = starting_flow(options)
    return net


def networks_for_evaluation(options: Options) -> GSVNet:
    """Networks with all the weights that `--method` needs. Raises UserError where they are not named."""
    if options.stage == "segnet":
        net = untrained_networks(options)
        resumed = read_resumed(options)
        if resumed is None:
            return build_networks(options, None)
        load_segmenter(net.segmenter, resumed.content, resumed.path, options.segnet)
        return net
    if options.method in ("per-frame", "copy"):
        return build_networks(options, None)
    resumed = read_resumed(options)
    if options.method == "gsv" and resumed is None:
        raise UserError(
            f"{[*tasks(options), '--method gsv'][0]} requires a trained propagation: --resume 1 (released file), --resume PATH or "
            "auto (a run's); or choose --method per-frame, copy, or warp with --flow-weights"
        )
    net = build_networks(options, resumed)
    if resumed is None or not options.load_flow:
        if options.optical_flow_network == "light" and not options.flow_weights:
            raise UserError(f"--method {options.method} wants a flow network: --flow-weights PATH, or --resume with --load-flow 1")
        net.flow = starting_flow(options)
    return net
