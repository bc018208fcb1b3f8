"""Parts that several segmenters share; most are those of DDRNet and PIDNet."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.resize import half_pixel, size_of

POOLED = ((5, 2), (9, 4), (17, 8))  # kernel and stride of the pyramid's pooled maps


class ConvBn(nn.Sequential):
    """Convolution, BatchNorm and ReLU, of `slope` below 0: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride)."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, bias: bool = False, norm: bool = True,
        relu: bool = True, slope: float = 0.0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=bias)
        self.bn = nn.BatchNorm2d(c_out) if norm else nn.Identity()
        self.relu = (nn.LeakyReLU(slope) if slope else nn.ReLU()) if relu else nn.Identity()


def conv_bn(c_in: int, c_out: int, kernel: int, *, stride: int = 1, bias: bool = False) -> nn.Sequential:
    """Convolution and BatchNorm: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride)."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


def bn_relu_conv(c_in: int, c_out: int, kernel: int, *, groups: int = 1) -> nn.Sequential:
    """BatchNorm, ReLU and convolution: (N,c_in,H,W) -> (N,c_out,H,W)."""
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(nn.BatchNorm2d(c_in), nn.ReLU(), conv)


def stem(width: int) -> nn.Sequential:
    """Image (N,3,H,W) -> (N,width,H/4,W/4)."""
    first, second = (conv_bn(c_in, width, 3, stride=2, bias=True) for c_in in (3, width))
    return nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU())


class Basic(nn.Module):
    """Two convolutions and a shortcut: (N,c_in,H,W) -> (N,c,H/stride,W/stride), before its ReLU unless `closed`."""

    def __init__(self, c_in: int, c: int, stride: int = 1, *, closed: bool = False):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(c_in, c, 3, stride=stride)
        self.conv2, self.bn2 = conv_bn(c, c, 3)
        self.downsample = conv_bn(c_in, c, 1, stride=stride) if stride > 1 or c_in != c else None
        self.closed = closed

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut
        return F.relu(x) if self.closed else x


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut: (N,c_in,H,W) -> (N,2*c,H/stride,W/stride), before its ReLU."""

    def __init__(self, c_in: int, c: int, stride: int = 1):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(c_in, c, 1)
        self.conv2, self.bn2 = conv_bn(c, c, 3, stride=stride)
        self.conv3, self.bn3 = conv_bn(c, 2 * c, 1)
        self.downsample = conv_bn(c_in, 2 * c, 1, stride=stride) if stride > 1 or c_in != 2 * c else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.bn3(self.conv3(x)) + shortcut


def basics(c_in: int, c: int, count: int, stride: int = 1) -> nn.Sequential:
    """`count` basic blocks, the first with the stride; all but the last end with ReLU."""
    ins, strides = [c_in] + [c] * (count - 1), [stride] + [1] * (count - 1)
    return nn.Sequential(*(Basic(i, c, s, closed=n < count - 1) for n, (i, s) in enumerate(zip(ins, strides))))


def bottlenecks(c_in: int, c: int, count: int, stride: int = 1) -> nn.Sequential:
    """`count` bottleneck blocks, the first with the stride; none ends with ReLU."""
    ins, strides = [c_in] + [2 * c] * (count - 1), [stride] + [1] * (count - 1)
    return nn.Sequential(*(Bottleneck(i, c, s) for i, s in zip(ins, strides)))


class Head(nn.Module):
    """(N,c_in,H,W) -> (N,c_out,H,W)."""

    def __init__(self, c_in: int, width: int, c_out: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), nn.Conv2d(c_in, width, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


class GlobalAverage(nn.Module):
    """(N,C,H,W) -> (N,C,1,1). A mean, since a pooling to 1 x 1 exports with strides that ONNX does not support."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=True)


class PyramidPooling(nn.Module):
    """Averages of growing regions, each joined with the one before: (N,c_in,H,W) -> (N,c_out,H,W).

    cascade: each level is convolved after the one before is added to it (DDRNet, PIDNet-L); else all levels at once,
    after the map itself is added to each (PIDNet-S, M).
    """

    def __init__(self, c_in: int, width: int, c_out: int, *, cascade: bool):
        super().__init__()
        for number, (kernel, stride) in enumerate(POOLED, 1):
            pool = nn.AvgPool2d(kernel, stride=stride, padding=kernel // 2)
            self.add_module(f"scale{number}", nn.Sequential(pool, *bn_relu_conv(c_in, width, 1)))
        self.scale4 = nn.Sequential(GlobalAverage(), *bn_relu_conv(c_in, width, 1))
        self.scale0 = bn_relu_conv(c_in, width, 1)
        self.cascade = cascade
        if cascade:
            for number in range(1, 5):
                self.add_module(f"process{number}", bn_relu_conv(width, width, 3))
        else:
            self.scale_process = bn_relu_conv(4 * width, 4 * width, 3, groups=4)
        self.compression = bn_relu_conv(5 * width, c_out, 1)
        self.shortcut = bn_relu_conv(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.scale0(x)]  # of (N,width,H,W)
        for number in range(1, 5):
            added = half_pixel(getattr(self, f"scale{number}")(x), size_of(x)) + levels[-1 if self.cascade else 0]
            levels.append(getattr(self, f"process{number}")(added) if self.cascade else added)
        if not self.cascade:
            levels = [levels[0], self.scale_process(torch.cat(levels[1:], dim=1))]
        return self.compression(torch.cat(levels, dim=1)) + self.shortcut(x)


def kaiming(network: nn.Module) -> None:
    """Initialise convolutions as DDRNet and PIDNet do: Kaiming normal, by the outputs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
