"""TDNet and Accel made so small that streams, trainings and checkpoints of them take no time."""
import math

import pytest
import torch
from torch import nn

from models import accel as accel_networks
from models import build
from models.build import build_gsvnet
from models.gsvnet import GSVNet
from models.segmenters import deeplab
from models.segmenters.tdnet import TDNet


class TinyFlow(nn.Module):
    """Looks (N,3,H/2,W/2) of the current and the previous frame -> flow (N,2,H/16,W/16)."""

    def __init__(self):
        super().__init__()
        self.conv6, self.Convolution5 = nn.Conv2d(6, 8, 9, 8, 4), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, current, previous):
        return self.Convolution5(self.conv6(torch.cat([current, previous], dim=1)).relu())


class TinyTDNet(TDNet):
    """Each path one convolution; its labels follow the colours."""

    class_tensor = "head1.weight"
    trunk, output, auxiliary = "trunk{}", ("head{}",), ("aux{}",)
    output_weights, divergence_weights, full_size_divergence = (1.0, 0.5, 0.1), (1.0, 0.5), False

    def __init__(self, classes: int, *, pretrained: bool = False):
        super().__init__(classes, channels=8, step=3)
        for number in range(1, 5):
            self.add_module(f"trunk{number}", nn.Sequential(nn.Conv2d(3, 8, 9, 8, 4), nn.BatchNorm2d(8), nn.ReLU()))
            self.add_module(f"head{number}", nn.Conv2d(8, classes, 1))
            self.add_module(f"aux{number}", nn.Conv2d(8, classes, 1))

    def _features(self, image, path):
        x = self._part("trunk{}", path)(image)
        return x, [x]


def shrink(patch=setattr) -> None:
    """Make td4-bise18, deeplab101, deeplab18 and accel18 small. patch: as setattr."""
    patch(build, "SEGMENTERS", {**build.SEGMENTERS, "td4-bise18": (TinyTDNet, {})})
    patch(deeplab, "BLOCKS", tuple((f"res{n}a", 8, stride) for n, stride in ((2, 1), (3, 2), (4, 2), (5, 1))))
    patch(deeplab, "LAST", deeplab.LAST[:1])
    patch(deeplab, "CHANNELS", 32)
    patch(deeplab, "HIDDEN", 16)
    patch(accel_networks, "FeatureFlow", TinyFlow)


@pytest.fixture(scope="module")
def small():
    """`shrink` for the tests of a module."""
    with pytest.MonkeyPatch.context() as patches:
        shrink(patches.setattr)
        yield


def lively(network: nn.Module) -> nn.Module:
    """With biases, statistics, offsets and a fusion that matter, the same in every call."""
    generator = torch.Generator().manual_seed(5)
    for name, x in network.state_dict().items():
        if x.is_floating_point() and name not in ("upsampling.weight", "18_upsampling.weight"):
            values = torch.randn(x.shape, generator=generator) / math.sqrt(max(1, x[:1].numel()))
            small = values.abs() + 0.5 if name.endswith(("weight", "var")) else 0.1 * values
            x.copy_(values if x.ndim > 1 else small)
    return network.eval()


def network_of(segnet: str, classes: int = 5) -> GSVNet:
    net = build_gsvnet(segmenter=segnet, flow="none", classes=classes)
    accel = lively(net.segmenter)
    if segnet == "accel18":  # otherwise one class wins everywhere
        with torch.no_grad():
            image = accel.normalise(torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(5)))
            accel.deep.head.score.bias -= accel.deep.head(accel.features(image)).mean(dim=(0, 2, 3))
            accel.small.head.score.bias -= accel.update(image).mean(dim=(0, 2, 3))
    net.segmenter.names = tuple(f"class {index}" for index in range(classes))
    return net.eval()
