"""BatchNorm folded into the convolutions before it, for networks that are no longer trained."""
import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def folded(network: Network) -> Network:
    """Return a copy of `network` in evaluation mode with every BatchNorm that follows a convolution folded into it,
    unless it is `foldable = False`.

    Equal up to rounding. (In SwiftNet's decoder BatchNorm comes before ReLU and convolution; those stay.)
    """
    network = copy.deepcopy(network).eval()
    if not getattr(network, "foldable", True):
        return network
    for module in network.modules():
        # All our modules, and torchvision's, name their parts in the order in which they run.
        for (conv, first), (norm, second) in pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(first, second))
                setattr(module, norm, nn.Identity())
    return network
