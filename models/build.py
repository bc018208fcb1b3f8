"""Builds networks by the names of the command line."""
from torch import nn

from models.flow_light import LightFlow
from models.flow_none import NoFlow
from models.flownet_s import FlowNetS
from models.gsvnet import GSVNet
from models.guided_conv import GuidedConv
from models.segmenters.base import Segmenter
from models.segmenters.bisenet import BiSeNet
from models.segmenters.swiftnet import SwiftNet

SEGMENTERS: dict[str, type[SwiftNet] | type[BiSeNet]] = {"swiftnet": SwiftNet, "bisenet": BiSeNet}
FLOW_NETWORKS: dict[str, type[nn.Module]] = {"light": LightFlow, "flownet": FlowNetS, "none": NoFlow}


def build_segmenter(*, name: str, classes: int, pretrained: bool = False) -> Segmenter:
    """Return the segmenter; `pretrained` starts its trunk from torchvision's ImageNet weights, which it downloads."""
    return SEGMENTERS[name](classes, pretrained=pretrained)


def build_flow(*, name: str) -> nn.Module:
    """Return the flow network: (current, previous) views (N,3,h,w) -> flow (N,2,h',w'), see `warp.grid_flow`."""
    return FLOW_NETWORKS[name]()


def build_gsvnet(*, segmenter: str, flow: str, classes: int, intra: bool = True, edge: bool = True) -> GSVNet:
    """Return GSVNet; `intra`, `edge`: whether the guided block sees intra features and edge map."""
    guided = GuidedConv(classes, use_intra=intra, use_edge=edge)
    return GSVNet(build_segmenter(name=segmenter, classes=classes), build_flow(name=flow), guided)
