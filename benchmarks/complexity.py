"""Cost of networks: parameters, and multiply-accumulates counted by torch itself."""
import copy

import torch
import torchvision  # noqa: F401 - it registers its operators
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from models.flow_dis import DISFlow
from models.gsvnet import GSVNet
from models.methods.base import Method, SeenFrame
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
    return FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: _deformable_flops})


def _deformable_flops(x: list[int], weight: list[int], *_: object, out_shape: list[int], **__: object) -> int:
    """FLOPs of an ordinary convolution of these shapes."""
    return conv_flop_count(x, weight, out_shape)


def published_fusion_gmac(classes: int, height: int, width: int) -> float:
    """GMAC that the published form of the guided block needs in addition to ours, on the h x w grid.

    It applies the nine 3 x 3 filters to every class (81 per class and pixel) and the Laplacian as a convolution (9).
    Ours combines the filters first (81 per pixel, counted) and needs ten multiply-adds per class, which the counter
    omits.
    """
    return (81 * classes + 9 - 81) * height * width / 1e9


def keyframe_gmac(net: GSVNet, height: int, width: int, scale: float) -> float:
    """GMAC of segmenting a frame of height x width at that scale."""
    return _counted(net.segmenter, (1, 3, *net.segmenter.input_size(height, width, scale)))


def propagated_gmac(net: GSVNet, height: int, width: int, method: str = "gsv") -> float:
    """GMAC of propagating to a frame of height x width, with the guided convolution in its published form. The counter
    leaves out DIS and the warp, which neither convolve nor multiply matrices."""
    (h, w), classes = grid_size(height, width, net.grid), net.guided.classes
    view = (1, 3, h, w)
    count = 0.0 if isinstance(net.flow, DISFlow) else _counted(net.flow, view, view)
    if method != "gsv":
        return count
    return count + _counted(net.guided, (1, classes, h, w), view) + published_fusion_gmac(classes, h, w)


def method_gmac(method: Method, height: int, width: int, frames: int) -> tuple[float, float]:
    """GMAC of a stream's first frame of height x width, and of the last of `frames`, for a method on the meta device;
    without warping and DIS, which the counter leaves out."""
    counter, counts, state = _counter(), list[float](), None

    def run(name: str, *inputs: Tensor) -> Tensor:
        return method.networks[name](*inputs)

    with torch.no_grad(), torch.device("meta"):
        image = torch.empty(1, height, width, 3, dtype=torch.uint8)
        view, flow = (torch.empty(1, c, *grid_size(height, width)) for c in (3, 2))
        seen = SeenFrame(image, view, flow=flow)
        for _ in range(frames):
            with counter:
                state = method.first(run, seen) if state is None else method.next(run, state, seen)
            counts.append(counter.get_total_flops() / 2 / 1e9)
    return counts[0], counts[-1]


def _counted(module: nn.Module, *shapes: tuple[int, ...]) -> float:
    """GMAC for inputs of these shapes; computed only where the network does not run on the meta device."""
    try:
        return gmac(copy.deepcopy(module).to("meta").eval(), *(torch.empty(shape, device="meta") for shape in shapes))
    except (RuntimeError, NotImplementedError):
        device = next(module.parameters()).device
        return gmac(module, *(torch.zeros(shape, device=device) for shape in shapes))
