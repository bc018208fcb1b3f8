"""BiSeNetV2 (Yu et al., IJCV 2021), as github.com/CoinCheung/BiSeNet publishes it: not the paper's own network."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import DatasetConfig
from models.losses import Average, SegmenterLoss
from models.resize import half_pixel, size_of
from models.segmenters.base import Segmenter, TrainingRecipe
from models.segmenters.blocks import ConvBn, GlobalAverage, conv_bn

EXPANSION = 6  # of the channels inside a gather-and-expansion layer


def depthwise_bn(c: int, c_out: int, *, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution with c_out/c filters for each channel, and BatchNorm."""
    return nn.Sequential(nn.Conv2d(c, c_out, 3, stride=stride, padding=1, groups=c, bias=False), nn.BatchNorm2d(c_out))


class DetailBranch(nn.Sequential):
    """Image (N,3,H,W) -> (N,128,H/8,W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.S1 = nn.Sequential(ConvBn(3, 64, 3, stride=2), ConvBn(64, 64, 3))
        self.S2 = nn.Sequential(ConvBn(64, 64, 3, stride=2), ConvBn(64, 64, 3), ConvBn(64, 64, 3))
        self.S3 = nn.Sequential(ConvBn(64, 128, 3, stride=2), ConvBn(128, 128, 3), ConvBn(128, 128, 3))


class Stem(nn.Module):
    """Image (N,3,H,W) -> (N,16,H/4,W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvBn(3, 16, 3, stride=2)
        self.left = nn.Sequential(ConvBn(16, 8, 1), ConvBn(8, 16, 3, stride=2))
        self.fuse = ConvBn(32, 16, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        pooled = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        return self.fuse(torch.cat([self.left(x), pooled], dim=1))


class Gather(nn.Module):
    """Gather-and-expansion layer: (N,c,H,W) -> (N,c,H,W)."""

    def __init__(self, c: int):
        super().__init__()
        self.conv1 = ConvBn(c, c, 3)
        self.dwconv = nn.Sequential(*depthwise_bn(c, EXPANSION * c), nn.ReLU())
        self.conv2 = conv_bn(EXPANSION * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.dwconv(self.conv1(x))) + x)


class GatherDown(nn.Module):
    """Gather-and-expansion layer of stride 2: (N,c_in,H,W) -> (N,c_out,H/2,W/2)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        middle = EXPANSION * c_in
        self.conv1 = ConvBn(c_in, c_in, 3)
        self.dwconv1 = depthwise_bn(c_in, middle, stride=2)
        self.dwconv2 = nn.Sequential(*depthwise_bn(middle, middle), nn.ReLU())
        self.conv2 = conv_bn(middle, c_out, 1)
        self.shortcut = nn.Sequential(*depthwise_bn(c_in, c_in, stride=2), *conv_bn(c_in, c_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.dwconv2(self.dwconv1(self.conv1(x)))) + self.shortcut(x))


class ContextEmbedding(nn.Module):
    """Adds the map's average to it: (N,128,H,W) -> (N,128,H,W)."""

    def __init__(self) -> None:
        super().__init__()
        self.average, self.bn = GlobalAverage(), nn.BatchNorm2d(128)
        self.conv_gap, self.conv_last = ConvBn(128, 128, 1), ConvBn(128, 128, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_last(x + self.conv_gap(self.bn(self.average(x))))


class SemanticBranch(nn.Module):
    """Image (N,3,H,W) -> maps of 16, 32, 64, 128 and 128 channels at 1/4, 1/8, 1/16, 1/32 and 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self.S1S2 = Stem()
        self.S3 = nn.Sequential(GatherDown(16, 32), Gather(32))
        self.S4 = nn.Sequential(GatherDown(32, 64), Gather(64))
        self.S5_4 = nn.Sequential(GatherDown(64, 128), Gather(128), Gather(128), Gather(128))
        self.S5_5 = ContextEmbedding()

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for part in self.children():
            maps.append(part(maps[-1]))
        return maps[1:]


class Aggregation(nn.Module):
    """Each branch gates the other: detail (N,128,H,W), semantics (N,128,H/4,W/4) -> (N,128,H,W)."""

    def __init__(self) -> None:
        super().__init__()
        self.left1, self.right2 = (nn.Sequential(*depthwise_bn(128, 128), nn.Conv2d(128, 128, 1, bias=False))
                                   for _ in range(2))
        self.left2 = nn.Sequential(*conv_bn(128, 128, 3, stride=2), nn.AvgPool2d(3, stride=2, padding=1))
        self.right1 = conv_bn(128, 128, 3)
        self.conv = nn.Sequential(*conv_bn(128, 128, 3), nn.ReLU())

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        size = size_of(detail)
        gate = torch.sigmoid(F.interpolate(self.right1(semantic), size=size))
        context = self.left2(detail) * torch.sigmoid(self.right2(semantic))
        return self.conv(self.left1(detail) * gate + F.interpolate(context, size=size))


class AuxiliaryHead(nn.Module):
    """A map (N,c_in) at 1/stride -> logits (N,C,H,W)."""

    def __init__(self, c_in: int, classes: int, *, stride: int):
        super().__init__()
        self.conv, self.drop, self.factor = ConvBn(c_in, 128, 3), nn.Dropout(0.1), stride // 2
        finer = nn.Sequential(nn.Upsample(scale_factor=2), ConvBn(128, stride**2, 3))
        self.conv_out = nn.Sequential(finer, nn.Conv2d(stride**2, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv_out(self.drop(self.conv(x)))
        height, width = size_of(logits)
        return half_pixel(logits, (height * self.factor, width * self.factor))


class MainHead(nn.Module):
    """(N,128,H,W) -> logits (N,C,H,W)."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv = ConvBn(128, 1024, 3)
        self.conv_out = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(1024, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNetV2(Segmenter):
    """Keyframe segmenter bisenetv2.

    forward: RGB image (N,3,H,W) float32, as `normalise` returns it -> logits (N,C,ceil(H/8),ceil(W/8)).
    """

    class_tensor = "head.conv_out.1.bias"
    stride = 8
    pixel_mean = (83.0535, 94.0950, 82.1865)  # of Cityscapes
    pixel_std = (53.8560, 54.7740, 53.9325)
    recipe = TrainingRecipe(warm_up=1000, start=0.1, new_rate=10.0, decay_all=False)

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        self.detail, self.segment, self.bga = DetailBranch(), SemanticBranch(), Aggregation()
        self.head = MainHead(classes)
        self.aux2, self.aux3 = AuxiliaryHead(16, classes, stride=4), AuxiliaryHead(32, classes, stride=8)
        self.aux4, self.aux5_4 = AuxiliaryHead(64, classes, stride=16), AuxiliaryHead(128, classes, stride=32)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.bga(self.detail(image), self.segment(image)[-1]))

    def training_logits(self, image: Tensor) -> list[Tensor]:
        """Main logits, then those of the four auxiliary heads, all (N,C,H,W), H and W rounded up to multiples of 8."""
        *earlier, last = self.segment(image)
        logits = self.head(self.bga(self.detail(image), last))  # (N,C,ceil(H/8),ceil(W/8))
        height, width = size_of(logits)
        auxiliary = (head(x) for head, x in zip(self.training_only(), earlier))
        return [half_pixel(logits, (height * self.stride, width * self.stride)), *auxiliary]

    def training_only(self) -> list[nn.Module]:
        return [self.aux2, self.aux3, self.aux4, self.aux5_4]

    def pretrained_modules(self) -> list[nn.Module]:
        return [self.detail, self.segment]

    def new_modules(self) -> list[nn.Module]:
        return [self.head, *self.training_only()]

    def training_loss(self, dataset: DatasetConfig, average: Average) -> nn.Module:
        return SegmenterLoss(ignore=dataset.ignore, ohem=True, of_labelled=True, average=average)
