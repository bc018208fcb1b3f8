"""Names and formats of the released files, and the way in and out of them.

The released guided block names its tensors after its own module tree; `TENSOR_NAMES` is the whole difference
between those names and ours. The segmenters and flow networks carry the released names themselves.
"""
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from config.errors import UserError
from models.segmenters.base import Segmenter
from utils.checkpoint import load_state, read_checkpoint, tensors_of

SEGMENTER_FILES = {"swiftnet": "cityscapes-swnet-R18.pt", "bisenet": "cityscapes-bisenet-R18.pth"}
GSVNET_FILES = {"swiftnet": "gsvnet_swnet_r18.tar", "bisenet": "gsvnet_bisenet_r18.tar"}
FLOWNET_FILE = "flownet.pth.tar"

CLASS_COUNT_TENSOR = "grm.intra_net.intra_net.6.bias"  # one value a class

TENSOR_NAMES = (  # released prefix, ours
    ("grm.ideal_dk.filter_copy_s", "filter_bank"),
    ("grm.intra_net.intra_net.", "intra."),
    ("grm.guide.guide_conv.0.", "guide.encoder.0."),
    ("grm.guide.guide_conv.1.", "guide.encoder.1."),
    ("grm.guide.guide_conv_feat.0.", "guide.down1.0."),
    ("grm.guide.guide_conv_feat.1.", "guide.down1.1."),
    ("grm.guide.guide_conv_feat.3.", "guide.down2.0."),
    ("grm.guide.guide_conv_feat.4.", "guide.down2.1."),
    ("grm.guide.guide_deconv.1.", "guide.up1.0."),
    ("grm.guide.guide_deconv.2.", "guide.up1.1."),
    ("grm.guide.guide_deconv.5.", "guide.up2.0."),
    ("grm.guide.guide_deconv.6.", "guide.up2.1."),
    ("grm.guide.guide_decoder.0.", "guide.decoder.0."),
    ("grm.guide.guide_decoder.1.", "guide.decoder.1."),
)


def released_name(name: str) -> str:
    """Our name of a tensor of the guided block -> its released name, `grm.` prefix included."""
    for theirs, ours in TENSOR_NAMES:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    raise KeyError(name)


def released_state(guided: nn.Module) -> dict[str, Tensor]:
    """State dict of the guided block under the released names, as `state_dict` of a checkpoint holds it."""
    return {released_name(name): tensor for name, tensor in guided.state_dict().items()}


def load_guided(guided: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy `tensors` (released names) into the guided block, strictly."""
    known = {released_name(name): name for name in guided.state_dict()}
    own_names = {known.get(name, name): tensor for name, tensor in tensors.items()}
    load_state(guided, own_names, path, "the guided convolution of this run (its class count included)")


def read_segmenter(path: Path, name: str) -> Mapping:
    """Read a keyframe segmenter's file."""
    return read_checkpoint(
        path, f"weights of the keyframe segmenter {name}",
        f"put {SEGMENTER_FILES[name]} into --weights-dir, name another file with --segnet-weights, or train one with "
        "--stage segnet",
    )


def load_segmenter(segmenter: Segmenter, content: Mapping, path: Path, name: str) -> None:
    """Load what `read_segmenter` read of `path`: a plain state dict, or one under `state_dict` or `model`."""
    expected = f"the keyframe segmenter {name} (--segnet) of {segmenter.classes} classes"
    tensors = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content)
    load_state(segmenter, tensors_of(tensors, path, expected), path, expected)


def read_flow(path: Path, name: str) -> Mapping:
    """Read a flow network's file."""
    remedy = f"train one with --stage flow --optical-flow-network {name}"
    if name == "flownet":
        remedy = f"put {FLOWNET_FILE} into --weights-dir, or {remedy}"
    return read_checkpoint(path, f"weights of the flow network {name}", remedy)


def load_flow(flow: nn.Module, content: Mapping, path: Path, name: str) -> None:
    """Load what `read_flow` read: a plain state dict (the FlowNet2-S release), or one under `state_dict_of` (a run's).

    Names in a FlowNet2-S file that the network lacks are ignored, as the released loader does.
    """
    expected = f"the flow network {name} (--optical-flow-network)"
    tensors = content.get("state_dict_of")
    tensors = tensors_of(tensors if isinstance(tensors, Mapping) else content, path, expected)
    load_state(flow, tensors, path, expected, strict=name != "flownet")


def read_gsvnet(path: Path) -> Mapping:
    """Read a propagation checkpoint (released or ours): at least `state_dict` and `state_dict_of`."""
    expected = "a GSVNet checkpoint (state_dict, state_dict_of)"
    content = read_checkpoint(
        path, expected, "put the released gsvnet_*_r18.tar into --weights-dir, or give a run's file with --resume PATH"
    )
    for key in ("state_dict", "state_dict_of"):
        if not isinstance(content.get(key), Mapping):
            raise UserError(f"{path}: has no {key}, expected {expected}")
    return content


def load_gsvnet(guided: nn.Module, flow: nn.Module, content: Mapping, path: Path, *, flow_name: str, load_flow: bool) -> None:
    """Copy a checkpoint's guided block, and its flow network where `load_flow`, into the modules."""
    load_guided(guided, tensors_of(content["state_dict"], path, "the guided convolution"), path)
    if load_flow:
        expected = f"the flow network {flow_name} (--optical-flow-network; --load-flow 0 leaves it out)"
        load_state(flow, tensors_of(content["state_dict_of"], path, expected), path, expected)
