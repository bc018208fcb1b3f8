"""FlowNet2-S (Ilg et al., CVPR 2017) as the released program changed it: the second of the two flow networks."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1  # of the LeakyReLUs


def conv_block(c_in: int, c_out: int, kernel: int = 3, *, stride: int = 1) -> nn.Sequential:
    """Convolution with bias, LeakyReLU."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2), nn.LeakyReLU(SLOPE))


def deconv_block(c_in: int, c_out: int) -> nn.Sequential:
    """Transposed convolution without padding: it overshoots by up to 2 pixels a side, and its output is cropped."""
    return nn.Sequential(nn.ConvTranspose2d(c_in, c_out, 4, stride=2))


def predict_flow(c_in: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, 2, 3, padding=1)


def upsample_flow() -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(2, 2, 4, stride=2)


def crop_like(x: Tensor, target: Tensor, margin: int) -> Tensor:
    """The top left of x (N,C,H,W) at the size of `target`, but for a margin."""
    return x[:, :, margin : margin + target.shape[2], margin : margin + target.shape[3]]


class FlowNetS(nn.Module):
    """Two frames -> flow.

    forward: current, previous (N,3,h,w) normalised BGR -> flow (N,2,h/8,w/8), units as in `LightFlow`.
    The network itself sees (previous, current), in that order.
    """

    stride = 8
    margin = 0  # rows and columns that are cropped at the top left

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_block(6, 64, 7, stride=2)
        self.conv2 = conv_block(64, 128, 5, stride=2)
        self.conv3 = conv_block(128, 256, 5, stride=2)
        self.conv3_1 = conv_block(256, 256)
        self.conv4 = conv_block(256, 512, stride=2)
        self.conv4_1 = conv_block(512, 512)
        self.conv5 = conv_block(512, 512, stride=2)
        self.conv5_1 = conv_block(512, 512)
        self.conv6 = conv_block(512, 1024, stride=2)
        self.conv6_1 = conv_block(1024, 1024)
        self.deconv5 = deconv_block(1024, 512)
        self.deconv4 = deconv_block(1026, 256)
        self.deconv3 = deconv_block(770, 128)
        self.deconv2 = deconv_block(386, 64)
        self.predict_flow6 = predict_flow(1024)
        self.predict_flow5 = predict_flow(1026)
        self.predict_flow4 = predict_flow(770)
        self.predict_flow3 = predict_flow(386)
        self.predict_flow2 = predict_flow(194)
        self.upsampled_flow6_to_5 = upsample_flow()
        self.upsampled_flow5_to_4 = upsample_flow()
        self.upsampled_flow4_to_3 = upsample_flow()
        self.upsampled_flow3_to_2 = upsample_flow()

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        x = self.conv1(torch.cat([previous, current], dim=1))  # (N,6,h,w) -> (N,64,h/2,w/2)
        skip2 = self.conv2(x)  # (N,128,h/4,w/4)
        skip3 = self.conv3_1(self.conv3(skip2))  # (N,256,h/8,w/8)
        skip4 = self.conv4_1(self.conv4(skip3))  # (N,512,h/16,w/16)
        skip5 = self.conv5_1(self.conv5(skip4))  # (N,512,h/32,w/32)
        x = self.conv6_1(self.conv6(skip5))  # (N,1024,h/64,w/64)
        for skip, predict, up, deconv in (
            (skip5, self.predict_flow6, self.upsampled_flow6_to_5, self.deconv5),
            (skip4, self.predict_flow5, self.upsampled_flow5_to_4, self.deconv4),
            (skip3, self.predict_flow4, self.upsampled_flow4_to_3, self.deconv3),
            (skip2, self.predict_flow3, self.upsampled_flow3_to_2, self.deconv2),
        ):
            flow = crop_like(up(predict(x)), skip, self.margin)  # (N,2) at the skip's size
            finer = F.leaky_relu(crop_like(deconv(x), skip, self.margin), SLOPE)
            x = torch.cat([skip, finer, flow], dim=1)  # (N,1026|770|386|194)
        window = (min(2, x.shape[2]), min(2, x.shape[3]))  # a map of one pixel, on tiny frames, stays one pixel
        return self.predict_flow2(F.avg_pool2d(x, window))  # (N,2,h/8,w/8)
