"""TD4-PSP18, the variant of TDNet (Hu et al., CVPR 2020) on PSPNet that its authors released."""
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.resize import align, size_of
from models.resnet import ResNet18
from models.segmenters.tdnet import DROPOUT, TDNet, initialise

WIDTH = 512  # of the feature group
BINS = (1, 2, 3, 6)  # regions a side, of the pyramid's levels
LEVEL = 128  # channels of each


class DilatedResNet18(ResNet18):
    """ResNet-18 that stays at 1/8: its last two layers are dilated instead, each convolution as much as given here."""

    def __init__(self, *, pretrained: bool):
        super().__init__(pretrained=pretrained)
        for layer, dilations in ((self.layer3, (1, 2, 2, 2)), (self.layer4, (4, 4, 8, 4))):
            layer[0].conv1.stride = layer[0].downsample[0].stride = (1, 1)
            convolutions = [conv for block in layer for conv in (block.conv1, block.conv2)]
            for conv, dilation in zip(convolutions, dilations, strict=True):
                conv.dilation = conv.padding = (dilation, dilation)


class Pyramid(nn.Module):
    """Averages of growing regions next to the map itself, of each `group`, the first (0) or last (1) half of its
    channels: (N,512,h,w) -> (N,512,h,w)."""

    def __init__(self, group: int):
        super().__init__()
        for number in range(1, len(BINS) + 1):
            convolution = nn.Conv2d(WIDTH, LEVEL, 1, bias=False)
            self.add_module(f"conv{number}", nn.Sequential(convolution, nn.BatchNorm2d(LEVEL), nn.ReLU()))
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        parts = [x.chunk(2, dim=1)[self.group]]  # (N,256,h,w)
        for number, bins in enumerate(BINS, 1):
            level = self.get_submodule(f"conv{number}")(F.adaptive_avg_pool2d(x, bins))  # (N,128,bins,bins)
            parts.append(align(level.chunk(2, dim=1)[self.group], size_of(x)))  # (N,64,h,w)
        return torch.cat(parts, dim=1)


def head(c: int, classes: int) -> nn.Sequential:
    """(N,c,h,w) -> logits (N,C,h,w)."""
    conv, norm = nn.Conv2d(c, c // 4, 3, padding=1, bias=False), nn.BatchNorm2d(c // 4)
    conv5 = nn.Sequential(conv, norm, nn.ReLU(), nn.Dropout2d(DROPOUT), nn.Conv2d(c // 4, classes, 1))
    return nn.Sequential(OrderedDict(conv5=conv5))


class TD4PSP18(TDNet):
    """TD4-PSP18: each path a dilated ResNet-18 with pyramid pooling.

    norm: (h,w) of the 1/8 grid, on which the weights of LayerNorm lie, so that the image is 8(h-1)+1 x 8(w-1)+1.
    step: the authors train with 3 and evaluate with 4. pretrained: as of TD4-Bise18.
    The released file lacks the auxiliary heads. It has `pretrained1.fc` to `pretrained4.fc`, the ImageNet classifiers
    of the four trunks, which no output depends on; they do not exist here.
    """

    class_tensor = "head1.conv5.4.bias"
    trunk, output, auxiliary = "pretrained{}", ("layer_norm{}", "head{}"), ("auxlayer{}",)
    output_weights, divergence_weights, full_size_divergence = (1.0, 0.5, 0.1), (1.0, 0.5), False

    def __init__(self, classes: int, *, norm: tuple[int, int] = (97, 193), step: int = 4, pretrained: bool = False):
        super().__init__(classes, channels=WIDTH, step=step)
        self.size = (8 * (norm[0] - 1) + 1, 8 * (norm[1] - 1) + 1)
        for path in range(self.paths):
            number = path + 1
            self.add_module(f"pretrained{number}", DilatedResNet18(pretrained=pretrained))
            self.add_module(f"psp{number}", Pyramid(path % 2))
            self.add_module(f"layer_norm{number}", nn.Sequential(OrderedDict(ln=nn.LayerNorm(norm))))
            self.add_module(f"head{number}", head(WIDTH, classes))
            self.add_module(f"auxlayer{number}", head(WIDTH // 2, classes))
        initialise(self)

    def _features(self, image: Tensor, path: int) -> tuple[Tensor, list[Tensor]]:
        *_, layer3, layer4 = self._part("pretrained{}", path).features(image)  # (N,256,h,w), (N,512,h,w)
        return self._part("psp{}", path)(layer4), [layer3]
