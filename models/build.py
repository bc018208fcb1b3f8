"""Builds networks by the names of the command line."""
from typing import Any

from torch import nn

from models.flow_light import LightFlow
from models.flow_none import NoFlow
from models.flownet_s import FlowNetS
from models.gsvnet import GSVNet
from models.guided_conv import GuidedConv
from models.segmenters.base import Segmenter
from models.segmenters.bisenet import BiSeNet
from models.segmenters.bisenetv2 import BiSeNetV2
from models.segmenters.ddrnet import DDRNet
from models.segmenters.pidnet import PIDNet
from models.segmenters.swiftnet import SwiftNet
from models.segmenters.xception39 import Xception39

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
}
FLOW_NETWORKS: dict[str, type[nn.Module]] = {"light": LightFlow, "flownet": FlowNetS, "none": NoFlow}


def build_segmenter(*, name: str, classes: int, pretrained: bool = False) -> Segmenter:
    """Return the segmenter. pretrained: with torchvision's ImageNet weights in its ResNet-18, which it downloads; only
    swiftnet and bisenet have one."""
    kind, settings = SEGMENTERS[name]
    return kind(classes, **settings, **({"pretrained": True} if pretrained else {}))


def build_flow(*, name: str) -> nn.Module:
    """Return the flow network: (current, previous) views (N,3,h,w) -> flow (N,2,h',w'), see `warp.grid_flow`."""
    return FLOW_NETWORKS[name]()


def build_gsvnet(*, segmenter: str, flow: str, classes: int, intra: bool = True, edge: bool = True) -> GSVNet:
    """Return GSVNet; `intra`, `edge`: whether the guided block sees intra features and edge map."""
    guided = GuidedConv(classes, use_intra=intra, use_edge=edge)
    return GSVNet(build_segmenter(name=segmenter, classes=classes), build_flow(name=flow), guided)
