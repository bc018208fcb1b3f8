"""Networks in bf16 on CPUs: weights are converted once, where autocast converts them at every call."""
import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
LAYERS = nn.Conv2d, nn.ConvTranspose2d, nn.Linear


def in_bf16(network: Network) -> Network:
    """Return a copy of `network` whose convolutions and linear layers compute in bf16; all else follows their inputs.

    BatchNorm keeps float32 statistics, and whatever the network itself computes in float32 stays so.
    """
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, LAYERS):
            module.to(torch.bfloat16).register_forward_pre_hook(_converted)
    return network


def _converted(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.to(torch.bfloat16) for x in inputs)
