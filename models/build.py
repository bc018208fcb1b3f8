"""Builds networks by the names of the command line."""
from pathlib import Path
from typing import Any

from torch import nn

from config.errors import UserError
from config.segmenters import HUGGING_FACE, SMP, TORCHVISION
from models.accel import Accel
from models.flow_dis import DISFlow
from models.flow_light import LightFlow
from models.flow_none import NoFlow
from models.flownet_s import FlowNetS
from models.gsvnet import GSVNet
from models.guided_conv import GuidedConv
from models.methods.accel import AccelMethod
from models.methods.base import Method
from models.methods.keyframes import CarryLabels, CarryLogits, Copy, PerFrame, Unguided
from models.methods.tdnet import TDNetMethod
from models.segmenters.base import Segmenter
from models.segmenters.bisenet import BiSeNet
from models.segmenters.bisenetv2 import BiSeNetV2
from models.segmenters.ddrnet import DDRNet
from models.segmenters.deeplab import DeepLab18, DeepLab101
from models.segmenters.foreign import ForeignSegmenter
from models.segmenters.from_file import from_file
from models.segmenters.from_smp import from_smp
from models.segmenters.from_torchvision import from_torchvision
from models.segmenters.from_transformers import from_transformers
from models.segmenters.pidnet import PIDNet
from models.segmenters.swiftnet import SwiftNet
from models.segmenters.tdnet import TD4Bise18, TDNet
from models.segmenters.tdnet_psp import TD4PSP18
from models.segmenters.xception39 import Xception39
from models.steps import KeyframeStep, SegmenterStep
from utils.checkpoint import WeightsFile

SEGMENTERS: dict[str, tuple[type[Any], dict[str, Any]]] = {  # the class, and what distinguishes this size of it
    "swiftnet": (SwiftNet, {}),
    "bisenet": (BiSeNet, {}),
    "pidnet-s": (PIDNet, dict(width=32, blocks=(2, 3), pyramid=96, head=128)),
    "pidnet-m": (PIDNet, dict(width=64, blocks=(2, 3), pyramid=96, head=128)),
    "pidnet-l": (PIDNet, dict(width=64, blocks=(3, 4), pyramid=112, head=256)),
    "ddrnet23-slim": (DDRNet, dict(width=32, head=64)),
    "ddrnet23": (DDRNet, dict(width=64, head=128)),
    "bisenet-xception39": (BiSeNet, dict(trunk=Xception39, auxiliary=128, label_stride=8)),
    "bisenetv2": (BiSeNetV2, {}),
    "deeplab101": (DeepLab101, {}),
    "deeplab18": (DeepLab18, {}),
    "td4-bise18": (TD4Bise18, {}),
    "td4-psp18": (TD4PSP18, {}),
    "accel18": (Accel, {}),
}
METHODS, CARRIED = ("gsv", "per-frame", "copy", "warp", "tdnet", "accel"), ("logits", "labels")
FLOW_NETWORKS: dict[str, type[nn.Module]] = {
    "light": LightFlow, "flownet": FlowNetS, "none": NoFlow, "dis": DISFlow,
}


def segmenter_class(name: str) -> type[Segmenter]:
    """The class of the segmenter; of a foreign one, the base of all."""
    return SEGMENTERS[name][0] if name in SEGMENTERS else Segmenter


def build_segmenter(*, name: str, classes: int, pretrained: bool = False) -> Segmenter:
    """Return the segmenter. pretrained: with torchvision's ImageNet weights in its ResNet-18, which it downloads; only
    swiftnet and bisenet have one."""
    kind, settings = SEGMENTERS[name]
    return kind(classes, **settings, **({"pretrained": True} if pretrained else {}))


def build_foreign(
    *, name: str, file: WeightsFile | None = None, names: tuple[str, ...] = (), published: bool = True
) -> ForeignSegmenter:
    """Return a foreign segmenter with its weights: those of `file`, a state dict, else its own. It may download them or
    run the user's code. names: of the data set's classes, for networks that do not tell theirs. published: False builds
    without weights what has none of its own here. Raises UserError."""
    place = Path(name.partition(":")[2])
    if name.startswith((SMP, HUGGING_FACE)) and place.is_absolute() and not place.is_dir():
        raise UserError(f"--segnet {name}: no folder {place}")
    if name.startswith(TORCHVISION):
        return from_torchvision(name, file=file, names=names, published=published)
    if name.startswith(SMP):
        return from_smp(name, file=file, names=names, published=published)
    if name.startswith(HUGGING_FACE):
        return from_transformers(name, file=file, published=published)
    return from_file(name, file=file)


def build_flow(*, name: str, **settings: Any) -> nn.Module:
    """Return the flow network: (current, previous) views (N,3,h,w) -> flow (N,2,h',w'), see `warp.grid_flow`; or "dis",
    with its `settings`, which is none and compares frames."""
    return FLOW_NETWORKS[name](**settings)


def build_method(*, name: str, net: GSVNet, scale: float, carry: str = "logits", keyframe: KeyframeStep | None = None
                 ) -> Method:
    """Return the way to carry a segmentation through video. scale: of keyframes. carry: "logits" or "labels". keyframe:
    the step of another method with the same segmenter and scale, to share it. Raises UserError."""
    if name not in METHODS:
        raise UserError(f"no method {name!r}; choose one of: {', '.join(METHODS)}")
    if carry not in CARRIED or (carry == "labels" and name not in ("copy", "warp")):
        raise UserError(f"method {name} cannot carry {carry!r}: warp and copy carry logits or labels, gsv logits")
    own: dict[str, tuple[type, type]] = {"tdnet": (TDNet, TDNetMethod), "accel": (Accel, AccelMethod)}
    if name in own:
        network, method = own[name]
        if not isinstance(net.segmenter, network):
            raise UserError(f"method {name} has its own network, which a segmenter cannot replace")
        return method(net, scale)
    if carry == "labels":
        return CarryLabels(net, SegmenterStep(net, scale).eval(), moves=name == "warp")
    keyframe = keyframe or KeyframeStep(net, scale).eval()
    if name == "per-frame":
        return PerFrame(net, keyframe)
    if name == "copy":
        return Copy(net, keyframe)
    return CarryLogits(net, keyframe, {"warp": Unguided(), "gsv": net.guided}[name])


def build_gsvnet(*, segmenter: str, flow: str, classes: int) -> GSVNet:
    """Return GSVNet as the paper has it, around a native segmenter."""
    guided = GuidedConv(classes)
    return GSVNet(build_segmenter(name=segmenter, classes=classes), build_flow(name=flow), guided)
