"""DDRNet-23 (Hong et al., 2021, arXiv 2101.06085): a branch at 1/8 and a deep one, which exchange their maps twice."""
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import DatasetConfig
from models.losses import Average, DDRNetLoss
from models.resize import half_pixel, size_of
from models.segmenters.base import Segmenter
from models.segmenters.blocks import Head, PyramidPooling, basics, bottlenecks, conv_bn, kaiming, stem


class DDRNet(Segmenter):
    """Keyframe segmenters ddrnet23-slim (width 32, head 64) and ddrnet23 (width 64, head 128).

    forward: RGB image (N,3,H,W) float32, as `normalise` returns it -> logits (N,C,ceil(H/8),ceil(W/8)).
    """

    class_tensor = "final_layer.conv2.bias"
    stride = 8

    def __init__(self, classes: int, *, width: int, head: int):
        super().__init__()
        self.classes, w = classes, width
        self.conv1 = stem(w)
        self.layer1, self.layer2 = basics(w, w, 2), basics(w, 2 * w, 2, stride=2)
        self.layer3, self.layer4 = basics(2 * w, 4 * w, 2, stride=2), basics(4 * w, 8 * w, 2, stride=2)
        self.compression3, self.compression4 = conv_bn(4 * w, 2 * w, 1), conv_bn(8 * w, 2 * w, 1)
        self.down3 = conv_bn(2 * w, 4 * w, 3, stride=2)
        self.down4 = nn.Sequential(*conv_bn(2 * w, 4 * w, 3, stride=2), nn.ReLU(), *conv_bn(4 * w, 8 * w, 3, stride=2))
        self.layer3_, self.layer4_ = basics(2 * w, 2 * w, 2), basics(2 * w, 2 * w, 2)
        self.layer5_, self.layer5 = bottlenecks(2 * w, 2 * w, 1), bottlenecks(8 * w, 8 * w, 1, stride=2)
        self.spp = PyramidPooling(16 * w, 128, 4 * w, cascade=True)
        self.seghead_extra, self.final_layer = Head(2 * w, head, classes), Head(4 * w, head, classes)
        kaiming(self)

    def forward(self, image: Tensor) -> Tensor:
        return self._maps(image)[0]

    def training_logits(self, image: Tensor) -> list[Tensor]:
        """Main logits and those of the auxiliary head, both (N,C,ceil(H/8),ceil(W/8))."""
        logits, shared = self._maps(image)
        return [logits, self.seghead_extra(shared)]

    def training_only(self) -> list[nn.Module]:
        return [self.seghead_extra]

    def pretrained_modules(self) -> list[nn.Module]:
        return [
            self.conv1, self.layer1, self.layer2, self.layer3, self.layer4, self.layer5, self.compression3,
            self.compression4, self.down3, self.down4, self.layer3_, self.layer4_, self.layer5_,
        ]

    def training_loss(self, dataset: DatasetConfig, average: Average) -> nn.Module:
        weights = dataset.segmenter_weights or (1.0,) * self.classes
        return DDRNetLoss(weights, ignore=dataset.ignore)

    def _maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (N,3,H,W) -> logits and the map that the auxiliary head sees, (N,2*width), at 1/8."""
        x = F.relu(self.layer2(F.relu(self.layer1(self.conv1(image)))))  # (N,2w) at 1/8
        size = size_of(x)
        low, high = self.layer3(x), self.layer3_(x)  # (N,4w) at 1/16, (N,2w) at 1/8
        low, shared = (
            low + self.down3(F.relu(high)),
            high + half_pixel(self.compression3(F.relu(low)), size),
        )
        low, high = self.layer4(F.relu(low)), self.layer4_(F.relu(shared))  # (N,8w) at 1/32, (N,2w) at 1/8
        low, high = (
            low + self.down4(F.relu(high)),
            high + half_pixel(self.compression4(F.relu(low)), size),
        )
        context = self.spp(self.layer5(F.relu(low)))  # (N,4w) at 1/64
        return self.final_layer(half_pixel(context, size) + self.layer5_(F.relu(high))), shared
