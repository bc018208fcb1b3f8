"""Networks in half precision: weights are converted once, where autocast converts them at every call."""
import copy
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
LAYERS = nn.Conv2d, nn.ConvTranspose2d, nn.Linear


def in_half(network: Network, dtype: torch.dtype) -> Network:
    """Return a copy of `network` whose convolutions and linear layers compute in `dtype`; all else follows their
    inputs.

    BatchNorm keeps float32 statistics, and whatever the network itself computes in float32 stays so.
    """
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, LAYERS):
            module.to(dtype).register_forward_pre_hook(partial(_converted, dtype=dtype))
    return network


def _converted(module: nn.Module, inputs: tuple[Tensor, ...], *, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(x.to(dtype) for x in inputs)
