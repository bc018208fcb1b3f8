"""Cost of networks: parameters, and multiply-accumulates counted by torch itself."""
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(module: nn.Module) -> int:
    """Number of parameters, whether trained or not."""
    return sum(p.numel() for p in module.parameters())


def gmac(module: nn.Module, *inputs: Tensor) -> float:
    """Giga multiply-accumulates of one forward pass: convolutions and matrix products (half of torch's FLOP count).

    On the meta device, nothing is computed.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs)
    return counter.get_total_flops() / 2 / 1e9


def published_fusion_gmac(classes: int, height: int, width: int) -> float:
    """GMAC that the published form of the guided block needs in addition to ours, on the h x w grid.

    It applies the nine 3 x 3 filters to every class (81 per class and pixel) and the Laplacian as a convolution (9).
    Ours combines the filters first (81 per pixel, counted) and needs ten multiply-adds per class, which the counter
    omits.
    """
    return (81 * classes + 9 - 81) * height * width / 1e9
