"""Cost of networks: parameters, and multiply-accumulates counted by torch itself."""
import copy

import torch
import torchvision  # noqa: F401 - it registers its operators
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from models.build import build_method
from models.gsvnet import GSVNet
from models.methods.base import SeenFrame
from models.resize import grid_size


def parameters(module: nn.Module) -> int:
    """Number of parameters, whether trained or not."""
    return sum(p.numel() for p in module.parameters())


def gmac(module: nn.Module, *inputs: Tensor) -> float:
    """Giga multiply-accumulates of one forward pass: convolutions, deformable ones as if they were not, and matrix
    products (half of torch's FLOP count).

    On the meta device, nothing is computed.
    """
    with torch.no_grad(), (counter := _counter()):
        module(*inputs)
    return counter.get_total_flops() / 2 / 1e9


def _counter() -> FlopCounterMode:
    def deformable(x: list[int], weight: list[int], *_: object, out_shape: list[int], **__: object) -> int:
        return conv_flop_count(x, weight, out_shape)

    return FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: deformable})


def published_fusion_gmac(classes: int, height: int, width: int) -> float:
    """GMAC that the published form of the guided block needs in addition to ours, on the h x w grid.

    It applies the nine 3 x 3 filters to every class (81 per class and pixel) and the Laplacian as a convolution (9).
    Ours combines the filters first (81 per pixel, counted) and needs ten multiply-adds per class, which the counter
    omits.
    """
    return (81 * classes + 9 - 81) * height * width / 1e9


def stream_gmac(
    net: GSVNet, height: int, width: int, scale: float, method: str = "gsv", frames: int = 2
) -> tuple[float, float]:
    """GMAC of a stream's first frame of height x width, and of the last of `frames`, with the guided convolution in its
    published form. The counter leaves out DIS and the warp, which neither convolve nor multiply matrices.

    Computed only where the network does not run on the meta device.
    """
    try:
        first, last = _counted(copy.deepcopy(net).to("meta"), height, width, scale, method, frames)
    except (RuntimeError, NotImplementedError):
        first, last = _counted(net, height, width, scale, method, frames)
    if method == "gsv":
        last += published_fusion_gmac(net.guided.classes, *grid_size(height, width, net.grid))
    return first, last


def _counted(net: GSVNet, height: int, width: int, scale: float, method: str, frames: int) -> tuple[float, float]:
    way, counter, counts, state = build_method(name=method, net=net, scale=scale), _counter(), list[float](), None

    def run(name: str, *inputs: Tensor) -> Tensor:
        return way.networks[name](*inputs)

    with torch.no_grad(), next(net.segmenter.parameters()).device:
        image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
        view, flow = (torch.zeros(1, c, *grid_size(height, width, net.grid)) for c in (3, 2))
        seen = SeenFrame(image, view, flow=flow)
        for _ in range(frames):
            with counter:
                state = way.first(run, seen) if state is None else way.next(run, state, seen)
            counts.append(counter.get_total_flops() / 2 / 1e9)
    return counts[0], counts[-1]
