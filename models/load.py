"""Networks with the weights that the options name: fresh, for training, for inference."""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options, flag, tasks
from models import released
from models.build import build_flow, build_gsvnet, build_segmenter
from models.gsvnet import GSVNet
from utils.checkpoint import WeightsFile
from utils.logging import logger
from utils.run_folder import LATEST, PREVIOUS, latest_experiment


@dataclass(frozen=True)
class Weights:
    """The file that each network's weights come from; None: the network stays as it was built."""

    segmenter: WeightsFile | None = None
    guided: WeightsFile | None = None
    flow: WeightsFile | None = None


def fresh_networks(options: Options) -> GSVNet:
    """Networks as they are built, without any file."""
    return build_gsvnet(
        segmenter=options.segnet, flow=options.optical_flow_network, classes=_classes(options), intra=options.intra,
        edge=options.edge,
    )


def networks_for_training(options: Options, resumed: WeightsFile | None) -> GSVNet:
    """Networks as training of the stage starts; stages segnet and flow get theirs alone, nn.Identity for the others.

    resumed: the file of `read_resumed`. Raises UserError.
    """
    weights = weights_for(options, training=True, resumed=resumed)
    nothing: Any = nn.Identity()
    if options.stage == "segnet":
        pretrained = options.pretrained_backbone and resumed is None
        try:
            segmenter = build_segmenter(name=options.segnet, classes=_classes(options), pretrained=pretrained)
        except OSError as error:  # urllib's errors are OSErrors
            found = f"cannot download the backbone's ImageNet weights ({error})"
            raise UserError(f"{found}; --pretrained-backbone 0 starts without them") from error
        return _load(GSVNet(segmenter, nothing, nothing), weights, options)
    if options.stage == "flow":
        return _load(GSVNet(nothing, build_flow(name=options.optical_flow_network), nothing), weights, options)
    net = fresh_networks(options)
    if resumed is None or not options.load_flow:
        net.flow = build_flow(name=options.optical_flow_network)  # drawn last, as a seed has always meant
    return _load(net, weights, options)


def networks_for_inference(options: Options) -> GSVNet:
    """Networks with all weights that `--method` needs. Raises UserError where the options do not name them."""
    return _load(fresh_networks(options), weights_for(options, training=False), options)


def weights_for(options: Options, *, training: bool, resumed: WeightsFile | None = None) -> Weights:
    """Decide which file each network's weights come from, and read them; the one place that decides it.

    resumed: in training, the file of `read_resumed`; inference reads it here, if its method uses it. A checkpoint that
    names its segmenter would be asked here. Raises UserError where a network that is needed has no file.
    """
    if options.stage == "gsv" and not training and options.method in ("per-frame", "copy"):
        return Weights(segmenter=_segmenter_file(options))
    if not training:
        resumed = read_resumed(options)
    if options.stage == "segnet":
        return Weights(segmenter=resumed if resumed is not None or training else _segmenter_file(options))
    if options.stage == "flow":
        return Weights(flow=resumed or _flow_file(options))
    if options.method == "gsv" and resumed is None and not training:
        task = next(iter(tasks(options)), "--method gsv")
        raise UserError(
            f"{task} requires a trained propagation: --resume 1 (released file), --resume PATH or auto (a run's); or "
            "choose --method per-frame, copy, or warp with --flow-weights"
        )
    flow = resumed if resumed is not None and options.load_flow else _flow_file(options)
    if flow is None and options.optical_flow_network == "light" and not training:
        raise UserError(
            f"--method {options.method} requires a flow network: --flow-weights PATH, or --resume with --load-flow 1"
        )
    return Weights(segmenter=_segmenter_file(options), guided=resumed, flow=flow)


def resume_path(options: Options) -> Path | None:
    """The file that `--resume` means; None for no resuming, and for `auto` without an earlier run. Raises UserError."""
    if options.resume == "0":
        return None
    if options.resume == "1":
        flow = released.FLOWNET_FILE if options.optical_flow_network == "flownet" else ""
        gsvnet, segmenter = released.GSVNET_FILES[options.segnet], released.SEGMENTER_FILES[options.segnet]
        name = {"gsv": gsvnet, "segnet": segmenter, "flow": flow}[options.stage]
        if not name:
            raise UserError("--resume 1: the release has no file of the light flow network alone; use --resume PATH")
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
        return _read_checkpoint(options, path)
    except UserError as error:
        previous = path.with_name(PREVIOUS)
        if options.resume != "auto" or not previous.is_file():
            raise
        logger.info("%s; using %s instead", error, previous.name)
        return _read_checkpoint(options, previous)


def _read_checkpoint(options: Options, path: Path) -> WeightsFile:
    """Read a checkpoint of the options' stage, and compare its networks with this run's."""
    if options.stage == "segnet":
        file, names = released.read_segmenter(path, options.segnet), ["segnet"]
    elif options.stage == "flow":
        file, names = released.read_flow(path, options.optical_flow_network), ["optical_flow_network"]
    else:
        file, names = released.read_propagation(path), ["segnet"]
        names += ["optical_flow_network"] if options.load_flow else []
        # A part that was not trained cannot be added; to take one away is an ablation.
        names += [name for name in ("intra", "edge") if getattr(options, name)]
        classes, bias = _classes(options), file.content["state_dict"].get(released.CLASS_COUNT_TENSOR)
        if isinstance(bias, Tensor) and bias.shape not in ((), (classes,)):
            trained_for = f"{path}: was trained for {len(bias)} classes, but --dataset {options.dataset} has {classes}"
            raise UserError(f"{trained_for}; use a checkpoint that was trained on this data set")
    trained = args if isinstance(args := file.content.get("args"), Mapping) else {}
    for name in [name for name in names if name in trained]:
        theirs, ours = (int(x) if isinstance(x, bool) else x for x in (trained[name], getattr(options, name)))
        if theirs != ours:
            raise UserError(f"{path}: was trained with {flag(name)} {theirs}, but this run has {ours}; use the same")
    return file


def _segmenter_file(options: Options) -> WeightsFile:
    path = options.segnet_weights or Path(options.weights_dir) / released.SEGMENTER_FILES[options.segnet]
    return released.read_segmenter(Path(path), options.segnet)


def _flow_file(options: Options) -> WeightsFile | None:
    """`--flow-weights`, else for propagation the FlowNet2-S file; None for a network that starts at random."""
    path, name = options.flow_weights, options.optical_flow_network
    if not path and name == "flownet" and options.stage == "gsv":
        path = f"{options.weights_dir}/{released.FLOWNET_FILE}"
    return released.read_flow(Path(path), name) if path else None


def _load(net: GSVNet, weights: Weights, options: Options) -> GSVNet:
    if weights.segmenter is not None:
        released.load_segmenter(net.segmenter, weights.segmenter, options.segnet)
    if weights.guided is not None:
        released.load_guided(net.guided, weights.guided)
    if weights.flow is not None:
        released.load_flow(net.flow, weights.flow, options.optical_flow_network)
    return net


def _classes(options: Options) -> int:
    return dataset_config(options.dataset, options.data_path).num_classes
