"""SwiftNet-RN18, single scale (Orsic et al., CVPR 2019): the first of the two keyframe segmenters."""
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.resize import half_pixel, size_of
from models.resnet import ResNet18
from models.segmenters.base import Segmenter, TrainingRecipe

WIDTH = 128  # channels of the decoder
PYRAMID_GRIDS = (8, 4, 2)
PYRAMID_MOMENTUM = 0.005  # BatchNorm momentum inside the pyramid


class BnReluConv(nn.Sequential):
    """BatchNorm, ReLU, then a size-keeping convolution: (N,c_in,H,W) -> (N,c_out,H,W)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, *, bias: bool = False, momentum: float = 0.1):
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(c_in, momentum=momentum), nn.ReLU()
        self.conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias)


class SpatialPyramid(nn.Module):
    """Spatial pyramid pooling over the layer4 skip (N,512,H,W) -> (N,128,H,W)."""

    def __init__(self, c_in: int):
        super().__init__()
        level = WIDTH // len(PYRAMID_GRIDS)  # 42 channels a level
        stages = {"spp_bn": BnReluConv(c_in, WIDTH, momentum=PYRAMID_MOMENTUM)}
        for i in range(len(PYRAMID_GRIDS)):
            stages[f"spp{i}"] = BnReluConv(WIDTH, level, momentum=PYRAMID_MOMENTUM)
        stages["spp_fuse"] = BnReluConv(WIDTH + level * len(PYRAMID_GRIDS), WIDTH, momentum=PYRAMID_MOMENTUM)
        self.spp = nn.Sequential(OrderedDict(stages))  # a container for the released names; not run in sequence

    def forward(self, x: Tensor) -> Tensor:
        bottleneck, *levels, fuse = self.spp
        x = bottleneck(x)  # (N,128,H,W)
        height, width = x.shape[-2:]
        maps = [x]
        for grid, level in zip(PYRAMID_GRIDS, levels):
            pooled = F.adaptive_avg_pool2d(x, (grid, max(1, round(grid * width / height))))  # (N,128,grid,grid*W/H)
            maps.append(half_pixel(level(pooled), (height, width)))  # (N,42,H,W)
        return fuse(torch.cat(maps, dim=1))  # (N,254,H,W) -> (N,128,H,W)


class Upsample(nn.Module):
    """One step of the decoder: x (N,128,H,W) and the finer skip (N,c_skip,H',W') -> (N,128,H',W')."""

    def __init__(self, c_skip: int):
        super().__init__()
        self.bottleneck = BnReluConv(c_skip, WIDTH)
        self.blend_conv = BnReluConv(WIDTH, WIDTH, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        skip = self.bottleneck(skip)  # (N,128,H',W')
        return self.blend_conv(half_pixel(x, size_of(skip)) + skip)


class SwiftNetBackbone(ResNet18):
    """Trunk, pyramid and decoder: normalised image (N,3,H,W) -> features (N,128,H/4,W/4)."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], *, pretrained: bool):
        super().__init__(pretrained=pretrained)
        # Present in the released file and unused by forward: frames arrive normalised.
        self.register_buffer("img_mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("img_std", torch.tensor(std).view(1, 3, 1, 1))
        self.spp = SpatialPyramid(self.channels[-1])
        self.upsample = nn.ModuleList(Upsample(c) for c in reversed(self.channels[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        *skips, deepest = self.features(x)
        x = self.spp(deepest)  # (N,128,H/32,W/32)
        for step, skip in zip(self.upsample, reversed(skips)):
            x = step(x, skip)  # (N,128,H/16,W/16), then /8, /4
        return x


class SwiftNet(Segmenter):
    """Keyframe segmenter A.

    forward: RGB image (N,3,H,W) float32, as `normalise` returns it -> logits (N,C,H/4,W/4).
    """

    class_tensor = "logits.conv.bias"
    stride = 4
    recipe = TrainingRecipe("cosine", trunk_rate=0.25)
    pixel_mean = view_mean = (73.15, 82.90, 72.3)  # RGB, on the 0..255 scale
    pixel_std = view_std = (47.67, 48.49, 47.73)

    def __init__(self, classes: int, *, pretrained: bool = False):
        super().__init__()
        self.classes = classes
        self.backbone = SwiftNetBackbone(self.pixel_mean, self.pixel_std, pretrained=pretrained)
        self.logits = BnReluConv(WIDTH, classes, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(self.backbone(image))  # (N,C,H/4,W/4)

    def pretrained_modules(self) -> list[nn.Module]:
        trunk = self.backbone
        return [trunk.conv1, trunk.bn1, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
