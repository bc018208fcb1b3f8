"""PIDNet (Xu et al., CVPR 2023): branches for detail (P), context (I) and boundaries (D)."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import DatasetConfig
from models.losses import Average, PIDNetLoss
from models.resize import half_pixel, size_of
from models.segmenters.base import Segmenter
from models.segmenters.blocks import (
    Basic,
    Head,
    PyramidPooling,
    basics,
    bn_relu_conv,
    bottlenecks,
    conv_bn,
    kaiming,
    stem,
)


class AttentionGate(nn.Module):
    """Takes from the context branch what resembles the detail: (N,c,H,W), (N,c,h,w) -> (N,c,H,W)."""

    def __init__(self, c: int):
        super().__init__()
        self.f_x, self.f_y = conv_bn(c, c // 2, 1), conv_bn(c, c // 2, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        query = half_pixel(self.f_y(y), size_of(x))
        similarity = torch.sigmoid((self.f_x(x) * query).sum(dim=1, keepdim=True))  # (N,1,H,W)
        return (1 - similarity) * x + similarity * half_pixel(y, size_of(x))


class BoundaryFusion(nn.Module):
    """Detail where there is a boundary, context elsewhere: three maps (N,c,H,W) -> (N,c,H,W)."""

    def __init__(self, c: int, *, light: bool):
        super().__init__()
        if light:
            self.conv_p, self.conv_i = conv_bn(c, c, 1), conv_bn(c, c, 1)
        else:
            self.conv = bn_relu_conv(c, c, 3)
        self.light = light

    def forward(self, p: Tensor, i: Tensor, d: Tensor) -> Tensor:
        edge = torch.sigmoid(d)
        if self.light:
            return self.conv_p((1 - edge) * i + p) + self.conv_i(i + edge * p)
        return self.conv(edge * p + (1 - edge) * i)


class PIDNet(Segmenter):
    """Keyframe segmenters pidnet-s (width 32), pidnet-m (width 64), pidnet-l (width 64, deeper).

    blocks: of the layers before and after 1/8. forward: RGB image (N,3,H,W) float32, as `normalise` returns it ->
    logits (N,C,ceil(H/8),ceil(W/8)).
    """

    class_tensor = "final_layer.conv2.bias"
    stride = 8
    learns_boundaries = True

    def __init__(
        self, classes: int, *, width: int, blocks: tuple[int, int], pyramid: int, head: int
    ):
        super().__init__()
        self.classes, w, (early, late) = classes, width, blocks
        light = blocks == (2, 3)
        self.conv1 = stem(w)
        self.layer1, self.layer2 = basics(w, w, early), basics(w, 2 * w, early, stride=2)
        self.layer3, self.layer4 = basics(2 * w, 4 * w, late, stride=2), basics(4 * w, 8 * w, late, stride=2)
        self.layer5 = bottlenecks(8 * w, 8 * w, 2, stride=2)
        self.compression3, self.compression4 = conv_bn(4 * w, 2 * w, 1), conv_bn(8 * w, 2 * w, 1)
        self.pag3, self.pag4 = AttentionGate(2 * w), AttentionGate(2 * w)
        self.layer3_, self.layer4_ = basics(2 * w, 2 * w, early), basics(2 * w, 2 * w, early)
        self.layer5_, self.layer5_d = bottlenecks(2 * w, 2 * w, 1), bottlenecks(2 * w, 2 * w, 1)
        self.layer3_d = Basic(2 * w, w if light else 2 * w)
        self.layer4_d = bottlenecks(w, w, 1) if light else Basic(2 * w, 2 * w)
        self.diff3, self.diff4 = conv_bn(4 * w, w if light else 2 * w, 3), conv_bn(8 * w, 2 * w, 3)
        self.spp = PyramidPooling(16 * w, pyramid, 4 * w, cascade=not light)
        self.dfm = BoundaryFusion(4 * w, light=light)
        self.seghead_p, self.seghead_d = Head(2 * w, head, classes), Head(2 * w, w, 1)
        self.final_layer = Head(4 * w, head, classes)
        kaiming(self)

    def forward(self, image: Tensor) -> Tensor:
        return self._maps(image)[0]

    def training_logits(self, image: Tensor) -> list[Tensor]:
        """Main logits, those of the detail branch, and (N,1) of boundaries, all (ceil(H/8),ceil(W/8))."""
        logits, detail, boundary = self._maps(image)
        return [logits, self.seghead_p(detail), self.seghead_d(boundary)]

    def training_only(self) -> list[nn.Module]:
        return [self.seghead_p, self.seghead_d]

    def pretrained_modules(self) -> list[nn.Module]:
        return [
            self.conv1, self.layer1, self.layer2, self.layer3, self.layer4, self.layer5, self.compression3,
            self.compression4, self.pag3, self.pag4, self.layer3_, self.layer4_, self.layer5_,
        ]

    def training_loss(self, dataset: DatasetConfig, average: Average) -> nn.Module:
        weights = dataset.segmenter_weights or (1.0,) * self.classes
        return PIDNetLoss(weights, ignore=dataset.ignore)

    def _maps(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image (N,3,H,W) -> logits, and the maps that the heads of detail and boundary see, (N,2*width), at 1/8."""
        x = F.relu(self.layer2(F.relu(self.layer1(self.conv1(image)))))  # (N,2w) at 1/8
        size = size_of(x)
        p, d, i = self.layer3_(x), self.layer3_d(x), F.relu(self.layer3(x))  # i at 1/16
        p = F.relu(self.pag3(p, self.compression3(i)))
        d = F.relu(d + half_pixel(self.diff3(i), size))
        detail, i = p, F.relu(self.layer4(i))  # i at 1/32
        p, d = self.layer4_(p), self.layer4_d(d)
        p = F.relu(self.pag4(p, self.compression4(i)))
        boundary = d = F.relu(d + half_pixel(self.diff4(i), size))
        p, d = self.layer5_(p), self.layer5_d(d)
        context = half_pixel(self.spp(self.layer5(i)), size)  # from 1/64
        return self.final_layer(self.dfm(p, context, d)), detail, boundary
