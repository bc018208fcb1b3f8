r"""ESPNetv2 for Cityscapes: an example of bringing your own network, complete in one file that needs only torch.

    python main.py --segnet docs/examples/espnetv2.py:build --segnet-weights espnetv2_s_2.0_city_1024x512.pth \
        --method per-frame --video IN --output OUT

Paper: Mehta, Rastegari, Shapiro, Hajishirzi, "ESPNetv2: A Light-weight, Power Efficient, and General Purpose
Convolutional Neural Network", CVPR 2019; here with s = 2.0 and the decoder of the authors' repository, EdgeNets.
789,242 parameters, 2.70 GMAC at 512 x 1024. Height and width of the image must be multiples of 16.

The weights are in github.com/sacmehta/EdgeNets, folder model/segmentation/model_zoo/espnetv2: MIT licence, Copyright
(c) 2021 Sachin Mehta. They were trained on Cityscapes, whose own terms allow non-commercial use of the data. The
authors report 66.4 mIoU on its validation set at 1024 x 512. The code is our own; its modules have the file's names.
"""
import math
from collections import OrderedDict
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = (  # of Cityscapes, with their colours
    ("road", (128, 64, 128)), ("sidewalk", (244, 35, 232)), ("building", (70, 70, 70)), ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)), ("pole", (153, 153, 153)), ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)), ("vegetation", (107, 142, 35)), ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)), ("person", (220, 20, 60)), ("rider", (255, 0, 0)), ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)), ("bus", (0, 60, 100)), ("train", (0, 80, 100)), ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)
MULTIPLE = 16  # of height and width
SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)  # of the pyramid's branches
SMALLEST = 5  # rows and columns of a branch
WIDTH = 10  # channels of a branch
halve = partial(F.avg_pool2d, kernel_size=3, stride=2, padding=1)  # (N,C,H,W) -> (N,C,H/2,W/2), rounded up
resize = partial(F.interpolate, mode="bilinear", align_corners=True)  # (N,C,H,W), size -> (N,C,*size)


def conv(c_in: int, c_out: int, kernel: int = 1, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    """Convolution without bias: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride), rounded up."""
    return nn.Conv2d(c_in, c_out, kernel, stride, dilation * (kernel // 2), dilation, groups, bias=False)


def bn_prelu(c: int) -> nn.Sequential:
    """BatchNorm and PReLU: (N,c,H,W) -> (N,c,H,W)."""
    return nn.Sequential(nn.BatchNorm2d(c), nn.PReLU(c))


def named(**parts: nn.Module) -> nn.Sequential:
    """Modules to run in this order, with the names that the weights file uses."""
    return nn.Sequential(OrderedDict(parts))


def encoder_conv(c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm and PReLU: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride)."""
    first = conv(c_in, c_out, kernel, stride=stride, groups=groups)
    return named(conv=first, bn=nn.BatchNorm2d(c_out), act=nn.PReLU(c_out))


def decoder_conv(c_in: int, c_out: int, kernel: int, *, groups: int = 1) -> nn.Sequential:
    """The same with the names that the decoder uses: (N,c_in,H,W) -> (N,c_out,H,W)."""
    return named(cbr=nn.Sequential(conv(c_in, c_out, kernel, groups=groups), *bn_prelu(c_out)))


class EESP(nn.Module):
    """Extremely efficient spatial pyramid: (N,c_in,H,W) -> (N,c_out,H/stride,W/stride); at stride 1 c_in is c_out."""

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1, dilations: tuple[int, ...] = (1, 2, 3, 4)):
        super().__init__()
        branches, c = len(dilations), c_out // len(dilations)
        self.proj_1x1 = encoder_conv(c_in, c, 1, groups=branches)
        self.spp_dw = nn.ModuleList(named(conv=conv(c, c, 3, stride=stride, dilation=d, groups=c)) for d in dilations)
        self.br_after_cat = named(bn=nn.BatchNorm2d(c_out), act=nn.PReLU(c_out))
        self.conv_1x1_exp = named(conv=conv(c_out, c_out, groups=branches), bn=nn.BatchNorm2d(c_out))
        self.module_act = nn.PReLU(c_out)  # in the file, but unused, at stride 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.proj_1x1(x)  # (N,c_out/4,H,W)
        sums = accumulate(branch(reduced) for branch in self.spp_dw)  # four of (N,c_out/4,H/stride,W/stride)
        out = self.conv_1x1_exp(self.br_after_cat(torch.cat(list(sums), dim=1)))  # (N,c_out,H/stride,W/stride)
        return self.module_act(out + x) if self.stride == 1 else out


class Downsampling(nn.Module):
    """x (N,c_in,H,W), and the network's input shrunk to (N,3,H/2,W/2) -> (N,c_out,H/2,W/2)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.eesp = EESP(c_in, c_out - c_in, stride=2)
        self.inp_reinf = nn.Sequential(encoder_conv(3, 3, 3), named(conv=conv(3, c_out), bn=nn.BatchNorm2d(c_out)))
        self.act = nn.PReLU(c_out)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        x = torch.cat([halve(x), self.eesp(x)], dim=1)  # (N,c_out,H/2,W/2)
        return self.act(x + self.inp_reinf(image))


class Encoder(nn.Module):
    """Image (N,3,H,W) -> (N,32,H/2,W/2), (N,128,H/4,W/4), (N,256,H/8,W/8), (N,512,H/16,W/16)."""

    def __init__(self) -> None:
        super().__init__()
        self.level1 = encoder_conv(3, 32, 3, stride=2)
        self.level2_0 = Downsampling(32, 128)
        self.level3_0 = Downsampling(128, 256)
        self.level3 = nn.Sequential(*(EESP(256, 256) for _ in range(3)))
        self.level4_0 = Downsampling(256, 512)
        self.level4 = nn.Sequential(*(EESP(512, 512, dilations=(1, 1, 2, 3)) for _ in range(7)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        quarter = halve(halve(image))  # (N,3,H/4,W/4)
        eighth = halve(quarter)  # (N,3,H/8,W/8)
        e1 = self.level1(image)  # (N,32,H/2,W/2)
        e2 = self.level2_0(e1, quarter)  # (N,128,H/4,W/4)
        e3 = self.level3(self.level3_0(e2, eighth))  # (N,256,H/8,W/8)
        e4 = self.level4(self.level4_0(e3, halve(eighth)))  # (N,512,H/16,W/16)
        return e1, e2, e3, e4


class Pyramid(nn.Module):
    """Depthwise convolutions at five scales: (N,c_in,H,W) -> (N,c_out,H,W). The decoder's last one returns logits."""

    def __init__(self, c_in: int, c_out: int, *, last: bool = False):
        super().__init__()
        self.projection_layer = decoder_conv(c_in, WIDTH, 1)
        self.stages = nn.ModuleList(conv(WIDTH, WIDTH, 3, groups=WIDTH) for _ in SCALES)
        c = WIDTH * len(SCALES)
        self.merge_layer = nn.Sequential(
            named(br=bn_prelu(c)),
            nn.ChannelShuffle(len(SCALES)),  # channel 10 a + b becomes 5 b + a: the scales of a channel side by side
            decoder_conv(c, WIDTH, 3, groups=WIDTH),
            nn.Conv2d(WIDTH, c_out, 1, bias=last),
        )
        self.br = nn.Identity() if last else named(br=bn_prelu(c_out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection_layer(x)  # (N,10,H,W)
        height, width = x.shape[-2:]
        maps = []
        for scale, stage in zip(SCALES, self.stages):
            size = max(SMALLEST, math.ceil(height * scale)), max(SMALLEST, math.ceil(width * scale))
            if scale == 1:
                maps.append(stage(x))  # (N,10,H,W)
            elif scale > 1:
                maps.append(F.adaptive_avg_pool2d(stage(resize(x, size)), (height, width)))  # (N,10,H,W)
            else:
                maps.append(resize(stage(F.adaptive_avg_pool2d(x, size)), (height, width)))  # (N,10,H,W)
        return self.br(self.merge_layer(torch.cat(maps, dim=1)))  # (N,50,H,W) -> (N,c_out,H,W)


class GatedProjection(nn.Module):
    """Features (N,c_in,H,W) -> (N,c_out,H,W), each channel weighted by a gate that sees the whole image."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.wt_layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(c_in, c_out), nn.Sigmoid())
        self.expansion_layer = decoder_conv(c_in, c_out, 3, groups=math.gcd(c_in, c_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.expansion_layer(x) * self.wt_layer(x)  # (N,c_out,H,W) * (N,c_out,1,1)


class ESPNetv2(nn.Module):
    """forward: RGB image (N,3,H,W) float32, (x - mean) / std, H and W multiples of 16 -> logits (N,20,H,W)."""

    def __init__(self, outputs: int = len(CLASSES) + 1):  # the last one is the background
        super().__init__()
        self.base_net = Encoder()
        self.bu_dec_l1 = Pyramid(512, 64)
        self.merge_enc_dec_l2, self.bu_br_l2, self.bu_dec_l2 = GatedProjection(256, 64), bn_prelu(64), Pyramid(64, 48)
        self.merge_enc_dec_l3, self.bu_br_l3, self.bu_dec_l3 = GatedProjection(128, 48), bn_prelu(48), Pyramid(48, 32)
        self.merge_enc_dec_l4, self.bu_br_l4 = GatedProjection(32, 32), bn_prelu(32)
        self.bu_dec_l4 = Pyramid(32, outputs, last=True)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise ValueError(f"image of {height} x {width}: both sides must be multiples of {MULTIPLE}")
        e1, e2, e3, e4 = self.base_net(image)
        d = self.bu_dec_l1(e4)  # (N,64,H/16,W/16)
        d = resize(d, e3.shape[-2:]) + self.merge_enc_dec_l2(e3)  # (N,64,H/8,W/8)
        d = self.bu_dec_l2(self.bu_br_l2(d))  # (N,48,H/8,W/8)
        d = resize(d, e2.shape[-2:]) + self.merge_enc_dec_l3(e2)  # (N,48,H/4,W/4)
        d = self.bu_dec_l3(self.bu_br_l3(d))  # (N,32,H/4,W/4)
        d = resize(d, e1.shape[-2:]) + self.merge_enc_dec_l4(e1)  # (N,32,H/2,W/2)
        d = self.bu_dec_l4(self.bu_br_l4(d))  # (N,20,H/2,W/2)
        return resize(d, (height, width))  # (N,20,H,W)


def without_background(logits: Tensor) -> Tensor:
    """(N,20,H,W) -> (N,19,H,W): the background was never a training target and never wins."""
    return logits[:, : len(CLASSES)]


def build() -> tuple[nn.Module, dict[str, object]]:
    """Return the network without its weights, and what --segnet has to know about it."""
    names, colours = zip(*CLASSES)
    return ESPNetv2(), {
        "classes": names, "colours": colours,
        "mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375),  # RGB, on the 0..255 scale
        "multiple": MULTIPLE, "scores": "logits", "pick": without_background,
    }
