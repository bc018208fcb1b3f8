"""The light flow network of the paper (section 3.2): a dilated pyramid on the 1/8-resolution frames."""
import torch
from torch import Tensor, nn

SLOPE = 0.1  # of the LeakyReLUs


def conv_block(c_in: int, c_out: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution with bias, BatchNorm, LeakyReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=padding, dilation=dilation),
        nn.BatchNorm2d(c_out),
        nn.LeakyReLU(SLOPE),
    )


class LightFlow(nn.Module):
    """Two frames -> flow.

    forward: current, previous (N,3,h,w) normalised BGR -> flow (N,2,h/4,w/4), x first; divided by
    `warp.FLOW_DIVISOR` it is the displacement in pixels of the h x w grid from a point of the current frame to
    the same point of the previous one.
    """

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_block(6, 32, stride=2)
        self.conv2 = conv_block(32, 64, stride=2)
        self.conv_dilate_1 = conv_block(64, 64, dilation=1)
        self.conv_dilate_2 = conv_block(64, 64, dilation=2)
        self.conv_dilate_3 = conv_block(64, 64, dilation=4)
        self.conv_dilate_4 = conv_block(64, 64, dilation=8)
        self.conv_merge = conv_block(256, 64, 1)
        self.toflow = nn.Conv2d(64, 2, 3, padding=1)

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        x = self.conv2(self.conv1(torch.cat([current, previous], dim=1)))  # (N,6,h,w) -> (N,64,h/4,w/4)
        y1 = self.conv_dilate_1(x)
        y2 = self.conv_dilate_2(x) + y1
        y3 = self.conv_dilate_3(x) + y2
        y4 = self.conv_dilate_4(x) + y3
        merged = self.conv_merge(torch.cat([y1, y2, y3, y4], dim=1))  # (N,256,h/4,w/4) -> (N,64,h/4,w/4)
        return self.toflow(merged + x)  # (N,2,h/4,w/4)
