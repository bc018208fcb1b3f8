"""DeepLab on ResNet-101 and on ResNet-18, both with deformable convolutions: the segmenters in Accel (Jain et al., CVPR
2019), where ResNet-101 segments keyframes and ResNet-18 corrects what is carried to the frames between."""
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from models.published_names import publish
from models.resize import size_of
from models.segmenters.base import Segmenter, TrainingRecipe

BLOCKS = tuple(  # of ResNet-101: name, inner channels, stride
    (f"res{name}", c, stride if name.endswith("a") else 1) for names, c, stride in (
        (("2a", "2b", "2c"), 64, 1), (("3a", "3b1", "3b2", "3b3"), 128, 2),
        (("4a", *(f"4b{number}" for number in range(1, 23))), 256, 2), (("5a", "5b", "5c"), 512, 1),
    ) for name in names
)
LAST = (("res5a", 256, 2), ("res5b", 512, 1))  # blocks of ResNet-18: name, channels in, stride
EPSILON = 2e-5  # of the BatchNorms of ResNet-18 before LAST
CHANNELS, HIDDEN, STRIDE = 2048, 1024, 16  # of the features; inside the head; of both
STD = 0.01  # of the weights that heads start with


def deformable(conv: nn.Conv2d, maps: Tensor, offset: Tensor) -> Tensor:
    """Deformable convolution (Dai et al., ICCV 2017) with the borders of MXNet, in which Accel was trained.

    It applies `conv`, 3x3 of stride 1 that keeps the size, to maps (N,c,h,w) where `offset` moves its taps: (N,c',h,w).

    offset: (N,G*9*2,h,w) in pixels; for each of G groups of channels the nine taps row by row, y before x. A tap counts
    as zero unless 0 <= y < h and 0 <= x < w; the last row and column reach to h and w. torchvision fades to zero over
    one pixel beyond every side instead, so it gets positions clamped to the centres of pixels, and a mask.
    """
    (n, _, h, w), dilation = maps.shape, int(conv.dilation[0])
    kind = torch.promote_types(maps.dtype, torch.float32)  # half precision cannot tell positions in wide maps apart
    taps = torch.arange(-1, 2, device=maps.device) * dilation
    rows = taps.repeat_interleave(3).view(9, 1, 1) + torch.arange(h, device=maps.device).view(h, 1)  # (9,h,1)
    columns = taps.repeat(3).view(9, 1, 1) + torch.arange(w, device=maps.device)  # (9,1,w)
    moves = offset.to(kind).view(n, -1, 9, 2, h, w)
    y, x = rows + moves[:, :, :, 0], columns + moves[:, :, :, 1]  # (N,G,9,h,w)
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    moves = torch.stack([y.clamp(0, h - 1) - rows, x.clamp(0, w - 1) - columns], dim=3)  # (N,G,9,2,h,w)
    bias = None if conv.bias is None else conv.bias.to(kind)
    return deform_conv2d(
        maps.to(kind), moves.flatten(1, 3), conv.weight.to(kind), bias, padding=dilation, dilation=dilation,
        mask=inside.flatten(1, 2).to(kind),
    ).to(maps.dtype)  # (N,c',h,w)


class UnitNorm(nn.BatchNorm2d):
    """BatchNorm that ignores its weight, as MXNet does with a fixed gamma: (N,C,H,W) -> the same shape."""

    def forward(self, input: Tensor) -> Tensor:
        mean, var, momentum = self.running_mean, self.running_var, self.momentum or 0.0
        return F.batch_norm(input, mean, var, torch.ones_like(self.bias), self.bias, self.training, momentum, self.eps)


def plain(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size but for its stride."""
    return nn.Conv2d(c_in, c_out, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


def biased(c_in: int, c_out: int, kernel: int = 1, dilation: int = 1, *, std: float = STD) -> nn.Conv2d:
    """A convolution that keeps the size, with a bias that starts at 0 and weights that start so far from 0."""
    conv = nn.Conv2d(c_in, c_out, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    nn.init.normal_(conv.weight, std=std)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class Normed(nn.Module):
    """A convolution and its BatchNorm: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride). offsets: of a deformable one,
    dilated by 2, the number of groups, and the dilation of the convolution that they come from."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, offsets: tuple[int, int] | None):
        super().__init__()
        self.offset = biased(c_in, 18 * offsets[0], 3, offsets[1], std=0.0) if offsets else None
        self.conv, self.bn = plain(c_in, c_out, kernel, stride, 2 if offsets else 1), nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x) if self.offset is None else deformable(self.conv, x, self.offset(x)))


class Block(nn.Module):
    """A residual block: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride). branch: channels and kernel of its two or three
    convolutions, of which the first has the stride and the second the `offsets`."""

    def __init__(self, c_in: int, branch: tuple[tuple[int, int], ...], stride: int, offsets: tuple[int, int] | None):
        super().__init__()
        c_out = branch[-1][0]
        self.branch1 = Normed(c_in, c_out, 1, stride, None) if stride > 1 or c_in != c_out else nn.Identity()
        parts = zip("abc", (c_in, *(c for c, _ in branch)), branch, (stride, 1, 1), (None, offsets, None))
        for letter, c, (c_out, kernel), step, moved in parts:
            self.add_module(f"branch2{letter}", Normed(c, c_out, kernel, step, moved))

    def forward(self, x: Tensor) -> Tensor:
        shortcut, (*inner, last) = self.branch1(x), [*self.children()][1:]
        for part in inner:
            x = F.relu(part(x))
        return F.relu(last(x) + shortcut)


class Unit(nn.Module):
    """A residual block that normalises first: (N,c_in,H,W) -> (N,c,H/stride,W/stride). first: of its stage."""

    def __init__(self, c_in: int, c: int, stride: int, first: bool):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in, EPSILON)
        self.conv2 = plain(c, c, 3)  # not last: `folded` takes a BatchNorm for that of the layer before
        self.sc = plain(c_in, c, 1, stride) if first else None
        self.conv1, self.bn2 = plain(c_in, c, 3, stride), nn.BatchNorm2d(c, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.sc is None else self.sc(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut


def resnet101() -> OrderedDict[str, nn.Module]:
    """ResNet-101, with its strides on 1x1 convolutions and deformable ones in its last stage: image (N,3,H,W) ->
    (N,2048,H/16,W/16)."""
    layers: dict[str, nn.Module] = {"conv1": plain(3, 64, 7, 2), "bn_conv1": nn.BatchNorm2d(64), "relu": nn.ReLU()}
    layers["pool"], c_in = nn.MaxPool2d(3, 2, ceil_mode=True), 64
    for name, c, stride in BLOCKS:
        branch = (c, 1), (c, 3), (4 * c, 1)
        layers[name] = Block(c_in, branch, stride, (1, 1) if c == 512 else None)
        c_in = 4 * c
    return OrderedDict(layers)


def resnet18() -> OrderedDict[str, nn.Module]:
    """ResNet-18 of units that normalise first, two blocks with deformable convolutions, and upsampling: image (N,3,H,W)
    -> (N,2048,H/16,W/16)."""
    norm = UnitNorm(3, EPSILON)
    norm.weight.requires_grad_(False)
    layers: dict[str, nn.Module] = {"bn_data": norm, "conv0": plain(3, 64, 7, 2), "bn0": nn.BatchNorm2d(64, EPSILON)}
    layers |= {"relu": nn.ReLU(), "pool": nn.MaxPool2d(3, 2, 1)}
    for number, (c_in, c, stride) in enumerate(((64, 64, 1), (64, 128, 2), (128, 256, 2)), 1):
        layers[f"stage{number}_unit1"] = Unit(c_in, c, stride, first=True)
        layers[f"stage{number}_unit2"] = Unit(c, c, 1, first=False)
    for name, c_in, stride in LAST:
        layers[name] = Block(c_in, ((512, 3), (512, 3)), stride, (4, 2))
    layers["feat_upsampling"] = nn.ConvTranspose2d(512, CHANNELS, 4, 2, 1, bias=False)
    return OrderedDict(layers)


class DeepLab101(Segmenter):
    """Accel's segmenter of keyframes. The other, `DeepLab18`, differs in names and features alone.

    features: RGB image (N,3,H,W) float32, as `normalise` returns it -> (N,2048,h,w), h,w = H/16,W/16. head: features ->
    scores (N,C,h,w). forward: image -> scores (N,C,H,W), upsampled bilinearly by weights that are not trained.

    The recipe leaves out that the authors double the rate for the biases of fc6, score and the offsets, and keep conv1,
    res2 and every BatchNorm as ImageNet has them.
    """

    class_tensor = "score.bias"
    stride = 1
    multiple = 32  # the least size of which no map has to be cropped
    pixel_mean, pixel_std = (123.15, 115.90, 103.06), (1.0, 1.0, 1.0)
    recipe = TrainingRecipe(schedule="steps", warm_up=1000, drop=40.3 / 53, decay_all=False)
    layers = staticmethod(resnet101)

    def __init__(self, classes: int):
        super().__init__()
        self.classes, self.features = classes, nn.Sequential(self.layers())
        head = dict(fc6=biased(CHANNELS, HIDDEN), relu=nn.ReLU(), score=biased(HIDDEN, classes))
        self.head = nn.Sequential(OrderedDict(head))
        self.upsampling = nn.ConvTranspose2d(classes, classes, 32, STRIDE, STRIDE // 2, groups=classes, bias=False)
        ramp = 1 - (torch.arange(2 * STRIDE) / STRIDE - (2 - 1 / STRIDE) / 2).abs()
        self.upsampling.weight = nn.Parameter(torch.outer(ramp, ramp).repeat(classes, 1, 1, 1), requires_grad=False)
        publish(self, self.published_name)

    def forward(self, image: Tensor) -> Tensor:
        height, width = size_of(image)
        return self.upsample(self.head(self.features(image)))[:, :, :height, :width]  # (N,C,H,W)

    def upsample(self, scores: Tensor, bias: Tensor | None = None) -> Tensor:
        """Scores (N,C,h,w) -> (N,C,16*h,16*w), plus a `bias` (C,)."""
        kernel = self.upsampling.weight
        return F.conv_transpose2d(scores, kernel, bias, STRIDE, STRIDE // 2, groups=self.classes)

    @classmethod
    def published_name(cls, name: str) -> str:
        """Names in MXNet are flat: "features.res5a.branch2b.bn.bias" is "bn5a_branch2b.bias"."""
        *path, tensor = name.split(".")
        if path[-1] == "bn":
            path[1] = path[1].replace("res", "bn")
        return f"{cls.prefix}{'_'.join(x for x in path if x not in ('features', 'head', 'conv', 'bn'))}.{tensor}"


class DeepLab18(DeepLab101):
    """Accel's network for the frames between, by itself."""

    class_tensor, prefix = "18_score.bias", "18_"
    layers = staticmethod(resnet18)
