"""BatchNorm folded into the convolutions before it, for networks that are no longer trained."""
import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock

from models.resnet import ResNet18
from models.segmenters.bisenet import ConvBn

Network = TypeVar("Network", bound=nn.Module)


def folded(network: Network) -> Network:
    """Return a copy of `network` in evaluation mode with every BatchNorm that follows a convolution folded into it.

    Equal up to rounding. (In SwiftNet's decoder BatchNorm comes before ReLU and convolution; those stay.)
    """
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        for conv, norm in _pairs(module):
            if isinstance(getattr(module, norm, None), nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return network


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of each convolution and the BatchNorm after it inside `module`."""
    if isinstance(module, ResNet18):
        return [("conv1", "bn1")]
    if isinstance(module, BasicBlock):
        return [("conv1", "bn1"), ("conv2", "bn2")]
    if isinstance(module, ConvBn):
        return [("conv", "bn")]
    if isinstance(module, nn.Sequential):
        names = list(module._modules)
        return [(a, b) for a, b in pairwise(names) if isinstance(module._modules[a], nn.Conv2d)]
    return []
