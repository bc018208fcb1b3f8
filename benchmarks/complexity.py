"""Cost of networks: parameters, and multiply-accumulates counted by torch itself."""
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(module: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(p.numel() for p in module.parameters())


def gmac(module: nn.Module, *inputs: Tensor) -> float:
    """Giga multiply-accumulates of one forward: convolutions and matrix products (half of torch's FLOP count).

    Inputs on the meta device, with `module` moved there too, cost no time.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs)
    return counter.get_total_flops() / 2 / 1e9


def published_fusion_gmac(classes: int, height: int, width: int) -> float:
    """What the published form of the guided block spends on top of ours, h x w grid, in GMAC.

    It runs the nine 3 x 3 filters over every class (81 a class and pixel) and the Laplacian as a convolution (9);
    ours combines the filters first (81 a pixel, counted) and needs ten multiply-adds a class, which no counter sees.
    """
    return (81 * classes + 9 - 81) * height * width / 1e9
