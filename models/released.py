"""Names and formats of the released files: reading them, and copying them into networks.

The released guided block names its tensors after its own module tree; `TENSOR_NAMES` is the whole difference
between those names and ours. Segmenters and flow networks have the released names themselves.
"""
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from config.errors import UserError
from models.accel import Accel
from models.segmenters.base import Segmenter
from utils.checkpoint import WeightsFile

SEGMENTER_FILES = {
    "swiftnet": "cityscapes-swnet-R18.pt", "bisenet": "cityscapes-bisenet-R18.pth",
    "pidnet-s": "PIDNet_S_Cityscapes_val.pt", "pidnet-m": "PIDNet_M_Cityscapes_val.pt",
    "pidnet-l": "PIDNet_L_Cityscapes_val.pt", "ddrnet23-slim": "best_val_smaller.pth", "ddrnet23": "best_val.pth",
    "bisenet-xception39": "cityscapes-bisenet-X39.pth", "bisenetv2": "model_final_v2_city.pth",
    "deeplab101": "deeplab-101-0000.params", "deeplab18": "deeplab-18-0000.params", "accel18": "accel-18-0000.params",
    "td4-psp18": "td4-psp18.pkl",
}
GSVNET_FILES = {"swiftnet": "gsvnet_swnet_r18.tar", "bisenet": "gsvnet_bisenet_r18.tar"}
FLOWNET_FILE = "flownet.pth.tar"
DRIVE_IDS = {  # the paper's release -> its ids on Google Drive
    SEGMENTER_FILES["swiftnet"]: "1_FxwIwK52OEMCx5gOz3LgFJTgX2J_rG7",
    SEGMENTER_FILES["bisenet"]: "11tr04lZCWtU1dQXLCteEOSYnUE2REt4V",
    FLOWNET_FILE: "1A8FKDbMKORz9U_swRxLaCUFcmY4eAZYj",
    GSVNET_FILES["swiftnet"]: "1VIfO-T0EWhdOiHrorAppLZQFuMUwcjC6",
    GSVNET_FILES["bisenet"]: "16adWqQRmzpQFGP8-EmGKn_ctXP8PPQPO",
}

CLASS_COUNT_TENSOR = "grm.intra_net.intra_net.6.bias"  # one value per class

TENSOR_NAMES = (  # released prefix, ours
    ("grm.ideal_dk.filter_copy_s", "filter_bank"),
    ("grm.intra_net.intra_net.", "intra."),
    ("grm.guide.guide_conv.", "guide.encoder."),
    ("grm.guide.guide_conv_feat.0.", "guide.down1.0."),
    ("grm.guide.guide_conv_feat.1.", "guide.down1.1."),
    ("grm.guide.guide_conv_feat.3.", "guide.down2.0."),
    ("grm.guide.guide_conv_feat.4.", "guide.down2.1."),
    ("grm.guide.guide_deconv.1.", "guide.up1.0."),
    ("grm.guide.guide_deconv.2.", "guide.up1.1."),
    ("grm.guide.guide_deconv.5.", "guide.up2.0."),
    ("grm.guide.guide_deconv.6.", "guide.up2.1."),
    ("grm.guide.guide_decoder.", "guide.decoder."),
)


def released_name(name: str) -> str:
    """Our name of a tensor of the guided block -> its released name, `grm.` prefix included."""
    return next(theirs + name[len(ours) :] for theirs, ours in TENSOR_NAMES if name.startswith(ours))


def released_state(guided: nn.Module) -> dict[str, Tensor]:
    """State dict of the guided block under the released names, as in a checkpoint's `state_dict`."""
    return {released_name(name): tensor for name, tensor in guided.state_dict().items()}


def read_segmenter(path: Path, name: str, *, log: bool = True) -> WeightsFile:
    """Read the file of the keyframe segmenter `name`. Raises UserError."""
    hint = "name another file with --segnet-weights, or train one with --stage segnet"
    if name in SEGMENTER_FILES:
        hint = f"put {SEGMENTER_FILES[name]} into --weights-dir, {hint}"
    return WeightsFile.read(path, f"weights of the keyframe segmenter {name}", hint, log=log)


def read_flow(path: Path, name: str) -> WeightsFile:
    """Read the file of the flow network `name`. Raises UserError."""
    hint = f"train one with --stage flow --optical-flow-network {name}"
    if name == "flownet":
        hint = f"put {FLOWNET_FILE} into --weights-dir, or {hint}"
    return WeightsFile.read(path, f"weights of the flow network {name}", hint)


def read_propagation(path: Path) -> WeightsFile:
    """Read a propagation checkpoint, released or ours: at least `state_dict` and `state_dict_of`. Raises UserError."""
    expected = "a GSVNet checkpoint (state_dict, state_dict_of)"
    hint = "put the released gsvnet_*_r18.tar into --weights-dir, or name a run's file with --resume PATH"
    file = WeightsFile.read(path, expected, hint)
    for key in ("state_dict", "state_dict_of"):
        if not isinstance(file.content.get(key), Mapping):
            raise UserError(f"{path}: has no {key}, expected {expected}; {hint}")
    return file


def load_segmenter(
    segmenter: Segmenter, file: WeightsFile, name: str, head: Sequence[str] = (), others: bool = False
) -> None:
    """Copy a segmenter's file, a plain state dict or one under `state_dict` or `model`, into the segmenter `name`.

    head: tensors that start fresh where they do not fit, or the file is for `others` than the segmenter's classes.
    """
    network = f"the keyframe segmenter {name} (--segnet) of {segmenter.classes} classes"
    if name == "td4-psp18":  # the classifiers of the released file, which lacks the auxiliary heads
        for path in range(1, 5):
            file = file.without(f"pretrained{path}.fc")
        head = [*head, *_names_of(segmenter, segmenter.training_only())]
    bare = segmenter.prefix and file.tensor((segmenter.class_tensor,)) is None
    names = {name.removeprefix(segmenter.prefix): name for name in segmenter.state_dict()} if bare else {}
    file.into(segmenter, network, keys=("state_dict", "model"), names=names, fresh=head, always_fresh=others)
    segmenter.weights_file = str(file.path.absolute())


def is_pretraining(file: WeightsFile) -> bool:
    """Whether a segmenter's file is of its authors' training on ImageNet: with a classifier, or in parts."""
    return file.tensor(("linear.weight",)) is not None or isinstance(file.content.get("detail"), Mapping)


def load_pretrained(segmenter: Segmenter, file: WeightsFile, name: str) -> None:
    """Copy the `pretrained_modules` of the segmenter `name` from a file for which `is_pretraining` holds; all other
    tensors stay as they are. Raises UserError."""
    if isinstance(file.content.get("detail"), Mapping):  # BiSeNetV2's: a state dict for each part
        parts = {key: part for key, part in file.content.items() if isinstance(part, Mapping)}
        flat = {f"{key}.{tensor}": x for key, part in parts.items() for tensor, x in part.items()}
        file = replace(file, content=flat)
    fresh = {*segmenter.state_dict()} - {*_names_of(segmenter, segmenter.pretrained_modules())}
    network = f"the part of the keyframe segmenter {name} (--segnet) that is trained on ImageNet"
    file.into(segmenter, network, keys=("state_dict",), fresh=fresh, always_fresh=True, strict=False)


def _names_of(segmenter: Segmenter, parts: Sequence[nn.Module]) -> list[str]:
    """Names of a segmenter's tensors that are in these parts of it."""
    covered = {id(x) for part in parts for x in part.state_dict(keep_vars=True).values()}
    return [name for name, x in segmenter.state_dict(keep_vars=True).items() if id(x) in covered]


def load_accel(accel: Accel, parts: Mapping[str, WeightsFile]) -> None:
    """Copy the files of Accel's parts into it; parts: by the option that names each. Raises UserError."""
    for option, file in parts.items():
        if option == "flow_weights":
            file.into(accel.flow, "Accel's flow network (--flow-weights)", keys=("state_dict",), strict=False)
        else:
            load_segmenter({"deeplab101": accel.deep, "deeplab18": accel.small}[option], file, option)


def load_flow(flow: nn.Module, file: WeightsFile, name: str) -> None:
    """Copy a flow network's file, a plain state dict or one under `state_dict_of`, into the flow network `name`.

    Names in the FlowNet2-S release that the network lacks are ignored, as the released loader does.
    """
    run, propagation = "state_dict_of" in file.content, "state_dict" in file.content
    network = f"the flow network {name} (--optical-flow-network{'; --load-flow 0 ignores it' if propagation else ''})"
    file.into(flow, network, keys=("state_dict_of",), strict=run or name != "flownet")


def load_guided(guided: nn.Module, file: WeightsFile, head: Sequence[str] = (), others: bool = False) -> None:
    """Copy the guided convolution of a propagation checkpoint into `guided`. head, others: as in `load_segmenter`."""
    names = {released_name(name): name for name in guided.state_dict()}
    network = "the guided convolution of this run (class count included)"
    file.into(guided, network, keys=("state_dict",), names=names, fresh=head, always_fresh=others)
