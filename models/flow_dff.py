"""FlowNetS as Deep Feature Flow (Zhu et al., CVPR 2017) has it: the flow network inside Accel.

The layers are those of `models/flownet_s.py` under other names, which are flat; they are children of the network that
the functions get. Cropping, order of the frames and units differ.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.flownet_s import SLOPE, crop_like, predict_flow

CONVOLUTIONS = (  # name, channels, kernel, stride
    ("flow_conv1", 6, 64, 7, 2), ("conv2", 64, 128, 5, 2), ("conv3", 128, 256, 5, 2), ("conv3_1", 256, 256, 3, 1),
    ("conv4", 256, 512, 3, 2), ("conv4_1", 512, 512, 3, 1), ("conv5", 512, 512, 3, 2), ("conv5_1", 512, 512, 3, 1),
    ("conv6", 512, 1024, 3, 2), ("conv6_1", 1024, 1024, 3, 1),
)
LEVELS = (  # from 1/64 on: head, its channels, upsampling of its flow, transposed convolution, its channels, skip
    ("Convolution1", 1024, "upsample_flow6to5", "deconv5", 512, "conv5_1"),
    ("Convolution2", 1026, "upsample_flow5to4", "deconv4", 256, "conv4_1"),
    ("Convolution3", 770, "upsample_flow4to3", "deconv3", 128, "conv3_1"),
    ("Convolution4", 386, "upsample_flow3to2", "deconv2", 64, "conv2"),
)
FACTOR = 2.5  # of the output, to pixels of the 1/16 grid


def add_flow(net: nn.Module) -> None:
    """Give `net` the layers."""
    for name, c_in, c_out, kernel, stride in CONVOLUTIONS:
        net.add_module(name, nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2))
    for head, c_in, up, deconv, c_out, _ in LEVELS:
        net.add_module(head, predict_flow(c_in))
        net.add_module(up, nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1))
        net.add_module(deconv, nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1))
    net.add_module("Convolution5", predict_flow(194))


def flow_between(net: nn.Module, previous: Tensor, current: Tensor) -> Tensor:
    """Two frames at half size, RGB (N,3,H/2,W/2) without their mean and divided by 255 -> flow (N,2,h,w) in pixels of
    the grid h x w = H/16 x W/16, x first: from each pixel of the current frame to where it was in the previous one."""
    x, maps = torch.cat([current, previous], dim=1), dict[str, Tensor]()  # (N,6,H/2,W/2)
    for name, *_ in CONVOLUTIONS:
        x = maps[name] = F.leaky_relu(getattr(net, name)(x), SLOPE)
    for head, _, up, deconv, _, skip in LEVELS:
        flow = crop_like(getattr(net, up)(getattr(net, head)(x)), maps[skip])  # (N,2) at the skip's size
        finer = F.leaky_relu(crop_like(getattr(net, deconv)(x), maps[skip]), SLOPE)
        x = torch.cat([maps[skip], finer, flow], dim=1)  # (N,1026|770|386|194)
    return net.get_submodule("Convolution5")(F.avg_pool2d(x, 2, ceil_mode=True)) * FACTOR  # (N,2,h,w)
