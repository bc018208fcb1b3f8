"""Xception39: the light trunk of BiSeNet's paper (Yu et al., ECCV 2018)."""
from torch import Tensor, nn
from torch.nn import functional as F

from models.segmenters.blocks import ConvBn


class Separable(nn.Sequential):
    """A 3x3 convolution of each channel, then ConvBn of single pixels: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride)."""

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1, relu: bool = True):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_in, 3, stride=stride, padding=1, groups=c_in, bias=False)
        self.point_wise_cbr = ConvBn(c_in, c_out, 1, relu=relu)


class Block(nn.Module):
    """Three separable convolutions and a shortcut: (N,c_in,H,W) -> (N,4*middle,H/stride,W/stride)."""

    def __init__(self, c_in: int, middle: int, *, stride: int):
        super().__init__()
        self.proj = Separable(c_in, 4 * middle, stride=stride, relu=False) if stride > 1 else nn.Identity()
        self.residual_branch = nn.Sequential(
            Separable(c_in, middle, stride=stride), Separable(middle, middle), Separable(middle, 4 * middle, relu=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual_branch(x) + self.proj(x))


class Xception39(nn.Module):
    """The trunk. pretrained: must be False, since no ImageNet weights of it exist."""

    channels = (8, 64, 128, 256)  # of the pooled stem, layer1 .. layer3, at strides 4, 8, 16, 32

    def __init__(self, *, pretrained: bool = False):
        super().__init__()
        assert not pretrained
        stem, first, second, third = self.channels
        self.conv1 = ConvBn(3, stem, 3, stride=2)
        self.layer1, self.layer2 = self._layer(stem, 16, 4), self._layer(first, 32, 8)
        self.layer3 = self._layer(second, third // 4, 4)

    @staticmethod
    def _layer(c_in: int, middle: int, count: int) -> nn.Sequential:
        blocks = (Block(4 * middle, middle, stride=1) for _ in range(count - 1))
        return nn.Sequential(Block(c_in, middle, stride=2), *blocks)

    def features(self, x: Tensor) -> list[Tensor]:
        """Normalised image (N,3,H,W) -> pooled stem and outputs of layer1 .. layer3, (N,channels[i]) at 1/4 .. 1/32."""
        maps = [F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)]
        for layer in (self.layer1, self.layer2, self.layer3):
            maps.append(layer(maps[-1]))
        return maps
