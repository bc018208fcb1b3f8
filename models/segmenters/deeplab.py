"""DeepLab on ResNet-101 and on ResNet-18, both with deformable convolutions: the segmenters in Accel (Jain et al., CVPR
2019), where ResNet-101 segments keyframes and ResNet-18 corrects what is carried to the frames between.

Names of tensors are the published ones, which are flat and may begin with a digit. So every layer is a child of the
whole network, and the functions find it by its name there: Accel has the layers of both segmenters.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.deformable import deformable
from models.resize import size_of
from models.segmenters.base import Segmenter, TrainingRecipe

BLOCKS = tuple(  # of ResNet-101: name, inner channels, stride
    (f"res{name}", c, stride if name.endswith("a") else 1) for names, c, stride in (
        (("2a", "2b", "2c"), 64, 1), (("3a", "3b1", "3b2", "3b3"), 128, 2),
        (("4a", *(f"4b{number}" for number in range(1, 23))), 256, 2), (("5a", "5b", "5c"), 512, 1),
    ) for name in names
)
UNITS = tuple(  # of ResNet-18: name, channels in and out, stride
    (f"18_stage{stage}_unit{unit}", c_in if unit == 1 else c, c, stride if unit == 1 else 1)
    for stage, c_in, c, stride in ((1, 64, 64, 1), (2, 64, 128, 2), (3, 128, 256, 2)) for unit in (1, 2)
)
LAST = (("18_res5a", 256, 2), ("18_res5b", 512, 1))  # blocks of ResNet-18: name, channels in, stride
EPSILON = 2e-5  # of the BatchNorms of ResNet-18 before LAST
CHANNELS, HIDDEN, STRIDE = 2048, 1024, 16  # of the features; inside the head; of both
STD = 0.01  # of the weights that heads start with


class UnitNorm(nn.BatchNorm2d):
    """BatchNorm that ignores its weight, as MXNet does with a fixed gamma: (N,C,H,W) -> the same shape."""

    def forward(self, input: Tensor) -> Tensor:
        mean, var, momentum = self.running_mean, self.running_var, self.momentum or 0.0
        return F.batch_norm(input, mean, var, torch.ones_like(self.bias), self.bias, self.training, momentum, self.eps)


def run(net: nn.Module, x: Tensor, *names: str) -> Tensor:
    """The layers `names` of `net`, one after the other."""
    for name in names:
        x = getattr(net, name)(x)
    return x


def add_conv(
    net: nn.Module, name: str, c_in: int, c_out: int, kernel: int = 1, *, stride: int = 1, dilation: int = 1,
    std: float | None = None,
) -> None:
    """Give `net` a convolution that keeps the size but for its stride. std: it has a bias, which starts at 0, and
    weights that start so far from 0."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, dilation * (kernel // 2), dilation, bias=std is not None)
    if std is not None and conv.bias is not None:
        nn.init.normal_(conv.weight, std=std)
        nn.init.zeros_(conv.bias)
    net.add_module(name, conv)


def add_normed(
    net: nn.Module, name: str, c_in: int, c_out: int, kernel: int = 1, *, stride: int = 1,
    offsets: tuple[int, int] | None = None,
) -> None:
    """Give `net` a convolution and its BatchNorm, "bn..." for "res...". offsets: of a deformable one, dilated by 2, the
    number of groups, and the dilation of the convolution that they come from."""
    if offsets is not None:
        add_conv(net, f"{name}_offset", c_in, 18 * offsets[0], 3, dilation=offsets[1], std=0.0)
    add_conv(net, name, c_in, c_out, kernel, stride=stride, dilation=1 if offsets is None else 2)
    net.add_module(name.replace("res", "bn"), nn.BatchNorm2d(c_out))


def normed(net: nn.Module, name: str, x: Tensor) -> Tensor:
    """What `add_normed` added: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride)."""
    conv, offsets = getattr(net, name), getattr(net, f"{name}_offset", None)
    x = conv(x) if offsets is None else deformable(conv, x, offsets(x))
    return run(net, x, name.replace("res", "bn"))


def add_block(
    net: nn.Module, name: str, c_in: int, branch: tuple[tuple[int, int], ...], stride: int,
    offsets: tuple[int, int] | None,
) -> None:
    """Give `net` a residual block. branch: channels and kernel of its two or three convolutions, of which the first has
    the stride and the second the `offsets`. The first block of a stage, "...a", has a convolution for the shortcut."""
    if name.endswith("a"):
        add_normed(net, f"{name}_branch1", c_in, branch[-1][0], stride=stride)
    for letter, (c, kernel) in zip("abc", branch):
        first, moved = letter == "a", offsets if letter == "b" else None
        add_normed(net, f"{name}_branch2{letter}", c_in, c, kernel, stride=stride if first else 1, offsets=moved)
        c_in = c


def block(net: nn.Module, name: str, x: Tensor) -> Tensor:
    """What `add_block` added: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride)."""
    shortcut = normed(net, f"{name}_branch1", x) if name.endswith("a") else x
    x = normed(net, f"{name}_branch2b", F.relu(normed(net, f"{name}_branch2a", x)))
    if hasattr(net, f"{name}_branch2c"):
        x = normed(net, f"{name}_branch2c", F.relu(x))
    return F.relu(x + shortcut)


def add_resnet101(net: nn.Module) -> None:
    """Give `net` ResNet-101, with its strides on 1x1 convolutions and deformable ones in its last stage."""
    add_conv(net, "conv1", 3, 64, 7, stride=2)
    net.add_module("bn_conv1", nn.BatchNorm2d(64))
    c_in = 64
    for name, c, stride in BLOCKS:
        add_block(net, name, c_in, ((c, 1), (c, 3), (4 * c, 1)), stride, (1, 1) if c == 512 else None)
        c_in = 4 * c


def resnet101(net: nn.Module, image: Tensor) -> Tensor:
    """Normalised image (N,3,H,W) -> features (N,2048,h,w), h,w = H/16,W/16."""
    x = F.relu(run(net, image, "conv1", "bn_conv1"))  # (N,64,H/2,W/2)
    x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)  # (N,64,H/4,W/4)
    for name, *_ in BLOCKS:
        x = block(net, name, x)  # (N,256,H/4,W/4), (N,512,H/8,W/8), (N,1024,h,w), (N,2048,h,w)
    return x


def add_resnet18(net: nn.Module) -> None:
    """Give `net` ResNet-18 of pre-activation units, two blocks with deformable convolutions, and upsampling to 1/16."""
    net.add_module("18_bn_data", UnitNorm(3, EPSILON))
    net.get_parameter("18_bn_data.weight").requires_grad_(False)
    add_conv(net, "18_conv0", 3, 64, 7, stride=2)
    net.add_module("18_bn0", nn.BatchNorm2d(64, EPSILON))
    for name, c_in, c, stride in UNITS:
        net.add_module(f"{name}_bn1", nn.BatchNorm2d(c_in, EPSILON))
        add_conv(net, f"{name}_conv2", c, c, 3)  # not last: `folded` takes a BatchNorm for that of the layer before
        if name.endswith("unit1"):
            add_conv(net, f"{name}_sc", c_in, c, stride=stride)
        add_conv(net, f"{name}_conv1", c_in, c, 3, stride=stride)
        net.add_module(f"{name}_bn2", nn.BatchNorm2d(c, EPSILON))
    for name, c_in, stride in LAST:
        add_block(net, name, c_in, ((512, 3), (512, 3)), stride, (4, 2))
    net.add_module("18_feat_upsampling", nn.ConvTranspose2d(512, CHANNELS, 4, stride=2, padding=1, bias=False))


def resnet18(net: nn.Module, image: Tensor) -> Tensor:
    """Normalised image (N,3,H,W) -> features (N,2048,h,w), h,w = H/16,W/16."""
    x = F.relu(run(net, image, "18_bn_data", "18_conv0", "18_bn0"))  # (N,64,H/2,W/2)
    x = F.max_pool2d(x, 3, stride=2, padding=1)  # (N,64,H/4,W/4)
    for name, *_ in UNITS:  # (N,64,H/4,W/4), (N,128,H/8,W/8), (N,256,h,w)
        active = F.relu(run(net, x, f"{name}_bn1"))
        shortcut = run(net, active, f"{name}_sc") if name.endswith("unit1") else x
        x = run(net, F.relu(run(net, active, f"{name}_conv1", f"{name}_bn2")), f"{name}_conv2") + shortcut
    for name, *_ in LAST:
        x = block(net, name, x)  # (N,512,H/32,W/32)
    return run(net, x, "18_feat_upsampling")  # (N,2048,h,w)


def add_head(net: nn.Module, classes: int, prefix: str = "") -> None:
    """Give `net` a head, whose upsampling is bilinear and is not trained."""
    add_conv(net, f"{prefix}fc6", CHANNELS, HIDDEN, std=STD)
    add_conv(net, f"{prefix}score", HIDDEN, classes, std=STD)
    up = nn.ConvTranspose2d(classes, classes, 2 * STRIDE, STRIDE, STRIDE // 2, groups=classes, bias=False)
    ramp = 1 - (torch.arange(2 * STRIDE) / STRIDE - (2 - 1 / STRIDE) / 2).abs()
    up.weight = nn.Parameter(torch.outer(ramp, ramp).repeat(classes, 1, 1, 1), requires_grad=False)
    net.add_module(f"{prefix}upsampling", up)


def scored(net: nn.Module, features: Tensor, prefix: str = "") -> Tensor:
    """Features (N,2048,h,w) -> scores (N,C,h,w)."""
    return run(net, F.relu(run(net, features, f"{prefix}fc6")), f"{prefix}score")


def upsampled(net: nn.Module, scores: Tensor, size: tuple[int, int], prefix: str = "", bias: Tensor | None = None
              ) -> Tensor:
    """Scores (N,C,h,w) -> (N,C,*size), plus a `bias` (C,)."""
    up = getattr(net, f"{prefix}upsampling")
    scores = F.conv_transpose2d(scores, up.weight, bias, up.stride, up.padding, groups=up.groups)  # (N,C,16*h,16*w)
    return scores[:, :, : size[0], : size[1]]


class DeepLab101(Segmenter):
    """Accel's segmenter of keyframes. The other, `DeepLab18`, differs in names and features alone.

    forward: RGB image (N,3,H,W) float32, as `normalise` returns it -> scores (N,C,H,W).

    The recipe leaves out that the authors double the rate for the biases of fc6, score and the offsets, and keep conv1,
    res2 and every BatchNorm as ImageNet has them.
    """

    class_tensor = "score.bias"
    stride = 1
    multiple = 32  # the least size of which no map has to be cropped
    pixel_mean, pixel_std = (123.15, 115.90, 103.06), (1.0, 1.0, 1.0)
    recipe = TrainingRecipe(schedule="steps", warm_up=1000, drop=40.3 / 53, nesterov=False, decay_all=False)
    add_features, features = add_resnet101, resnet101

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        self.add_features()
        add_head(self, classes, self.prefix)

    def head(self, features: Tensor) -> Tensor:
        """Features (N,2048,h,w) -> scores (N,C,h,w), h,w = H/16,W/16."""
        return scored(self, features, self.prefix)

    def upsample(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores (N,C,h,w) -> (N,C,*size), the size of the image."""
        return upsampled(self, scores, size, self.prefix)

    def forward(self, image: Tensor) -> Tensor:
        return self.upsample(self.head(self.features(image)), size_of(image))  # (N,C,H,W)


class DeepLab18(DeepLab101):
    """Accel's network for the frames between, by itself."""

    class_tensor, prefix = "18_score.bias", "18_"
    add_features, features = add_resnet18, resnet18
