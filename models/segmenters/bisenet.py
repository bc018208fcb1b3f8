"""BiSeNet-R18 (Yu et al., ECCV 2018): the second of the two keyframe segmenters."""
import torch
from torch import Tensor, nn

from config.schema import DatasetConfig
from models.losses import Average, SegmenterLoss
from models.resize import align, size_of
from models.resnet import ResNet18
from models.segmenters.base import Segmenter, TrainingRecipe
from models.segmenters.blocks import ConvBn, GlobalAverage
from models.segmenters.xception39 import Xception39

WIDTH = 128
AUXILIARY_STRIDES = (16, 8)  # of the maps that the two auxiliary heads look at
BISENET = TrainingRecipe(warm_up=1000, nesterov=True)
XCEPTION = TrainingRecipe(new_rate=10.0, decay_all=False)


class SpatialPath(nn.Sequential):
    """Detail at 1/8: image (N,3,H,W) -> (N,128,H/8,W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_7x7 = ConvBn(3, 64, 7, stride=2)
        self.conv_3x3_1 = ConvBn(64, 64, 3, stride=2)
        self.conv_3x3_2 = ConvBn(64, 64, 3, stride=2)
        self.conv_1x1 = ConvBn(64, WIDTH, 1)


class AttentionRefinement(nn.Module):
    """Channel attention by the map's own average: (N,c_in,H,W) -> (N,128,H,W)."""

    def __init__(self, c_in: int, slope: float = 0.0):
        super().__init__()
        self.conv_3x3 = ConvBn(c_in, WIDTH, 3, slope=slope)
        self.channel_attention = nn.Sequential(GlobalAverage(), ConvBn(WIDTH, WIDTH, 1, relu=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_3x3(x)
        return x * self.channel_attention(x)


class FeatureFusion(nn.Module):
    """Joins both paths: two maps (N,128,H,W) -> (N,256,H,W). inner: channels inside its attention."""

    def __init__(self, channels: int, inner: int, slope: float = 0.0):
        super().__init__()
        self.conv_1x1 = ConvBn(channels, channels, 1, slope=slope)
        squeeze, excite = ConvBn(channels, inner, 1, norm=False), ConvBn(inner, channels, 1, norm=False, relu=False)
        self.channel_attention = nn.Sequential(GlobalAverage(), squeeze, excite, nn.Sigmoid())

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x = self.conv_1x1(torch.cat([spatial, context], dim=1))  # (N,256,H,W)
        return x + x * self.channel_attention(x)


class Head(nn.Sequential):
    """(N,c_in,H,W) -> logits (N,C,H,W)."""

    def __init__(self, c_in: int, width: int, classes: int, *, bias: bool = True, slope: float = 0.0):
        super().__init__()
        self.conv_3x3 = ConvBn(c_in, width, 3, slope=slope)
        self.conv_1x1 = nn.Conv2d(width, classes, 1, bias=bias)


class BiSeNet(Segmenter):
    """Keyframe segmenters bisenet and, with another trunk, bisenet-xception39.

    trunk: maps at 1/4 (not used), 1/8, 1/16 and 1/32. auxiliary: width of the auxiliary heads. label_stride: of the
    labels that all are trained on; the auxiliary heads' logits are upsampled to that size.
    forward: RGB image (N,3,H,W) float32, as `normalise` returns it -> logits (N,C,H/8,W/8).
    The auxiliary heads run in `training_logits` only.
    """

    class_tensor = "heads.2.conv_1x1.bias"
    stride = 8

    def __init__(
        self, classes: int, *, trunk: type[ResNet18] | type[Xception39] = ResNet18, auxiliary: int = 256,
        label_stride: int = 1, pretrained: bool = False,
    ):
        super().__init__()
        self.classes, self.label_stride = classes, label_stride
        self.recipe = BISENET if trunk is ResNet18 else XCEPTION
        self.context_path = trunk(pretrained=pretrained)
        deep, middle = self.context_path.channels[3], self.context_path.channels[2]
        self.spatial_path = SpatialPath()
        self.global_context = nn.Sequential(GlobalAverage(), ConvBn(deep, WIDTH, 1))
        self.arms = nn.ModuleList([AttentionRefinement(deep), AttentionRefinement(middle)])
        self.refines = nn.ModuleList([ConvBn(WIDTH, WIDTH, 3), ConvBn(WIDTH, WIDTH, 3)])
        self.ffm = FeatureFusion(2 * WIDTH, 2 * WIDTH)
        heads = Head(WIDTH, auxiliary, classes), Head(WIDTH, auxiliary, classes), Head(2 * WIDTH, 64, classes)
        self.heads = nn.ModuleList(heads)

    def forward(self, image: Tensor) -> Tensor:
        return self.heads[2](self._fused(image)[0])  # (N,C,H/8,W/8)

    def training_logits(self, image: Tensor) -> list[Tensor]:
        """Main logits (N,C,H/8,W/8), then both auxiliary ones, at 1/label_stride."""
        fused, refined = self._fused(image)
        logits = [self.heads[2](fused)]
        for head, x, stride in zip(self.heads, refined, AUXILIARY_STRIDES):
            height, width = (side * stride // self.label_stride for side in size_of(x))
            logits.append(align(head(x), (height, width)))  # (N,C,H,W)
        return logits

    def training_only(self) -> list[nn.Module]:
        return list(self.heads[:2])

    def pretrained_modules(self) -> list[nn.Module]:
        return [self.context_path]

    def new_modules(self) -> list[nn.Module]:
        return [self.ffm, *self.heads] if self.recipe is XCEPTION else []

    def training_loss(self, dataset: DatasetConfig, average: Average) -> nn.Module:
        return SegmenterLoss(ignore=dataset.ignore, ohem=True, label_stride=self.label_stride, average=average)

    def _fused(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Image (N,3,H,W) -> fusion (N,256,H/8,W/8) and the refinement outputs, (N,128) at 1/16 and 1/8."""
        spatial = self.spatial_path(image)  # (N,128,H/8,W/8)
        _, layer2, layer3, layer4 = self.context_path.features(image)
        running = align(self.global_context(layer4), size_of(layer4))  # (N,128,H/32,W/32)
        refined = []
        for x, finer, arm, refine in zip((layer4, layer3), (layer3, layer2), self.arms, self.refines):
            running = align(arm(x) + running, size_of(finer))  # (N,128,H/16,W/16), then (N,128,H/8,W/8)
            running = refine(running)
            refined.append(running)
        return self.ffm(spatial, running), refined
