"""FlowNet2-S (Ilg et al., CVPR 2017) as the released program changed it: the second of the two flow networks."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1  # of the LeakyReLUs
ENCODER = (  # name, channels in and out, kernel, stride
    ("conv1", 6, 64, 7, 2), ("conv2", 64, 128, 5, 2), ("conv3", 128, 256, 5, 2), ("conv3_1", 256, 256, 3, 1),
    ("conv4", 256, 512, 3, 2), ("conv4_1", 512, 512, 3, 1), ("conv5", 512, 512, 3, 2), ("conv5_1", 512, 512, 3, 1),
    ("conv6", 512, 1024, 3, 2), ("conv6_1", 1024, 1024, 3, 1),
)
DECODER = (  # level (6: 1/64), the map of the encoder that it is joined with, channels in, and out of its deconvolution
    (6, "conv5_1", 1024, 512), (5, "conv4_1", 1026, 256), (4, "conv3_1", 770, 128), (3, "conv2", 386, 64),
)


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
        for name, c_in, c_out, kernel, stride in ENCODER:
            conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2)
            self.add_module(name, nn.Sequential(conv, nn.LeakyReLU(SLOPE)))
        for level, _, c_in, c_out in DECODER:  # it overshoots by up to 2 pixels a side, and is cropped
            self.add_module(f"deconv{level - 1}", nn.Sequential(nn.ConvTranspose2d(c_in, c_out, 4, stride=2)))
        for level, c_in in (*((level, c_in) for level, _, c_in, _ in DECODER), (2, 194)):
            self.add_module(f"predict_flow{level}", nn.Conv2d(c_in, 2, 3, padding=1))
        for level, *_ in DECODER:
            self.add_module(f"upsampled_flow{level}_to_{level - 1}", nn.ConvTranspose2d(2, 2, 4, stride=2))

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        x, maps = torch.cat([previous, current], dim=1), {}  # (N,6,h,w)
        for name, *_ in ENCODER:
            x = maps[name] = getattr(self, name)(x)  # at h/2, h/4 from conv2 on, and so on to (N,1024,h/64,w/64)
        for level, of, *_ in DECODER:
            names = f"predict_flow{level}", f"upsampled_flow{level}_to_{level - 1}", f"deconv{level - 1}"
            skip, (predict, up, deconv) = maps[of], map(self.get_submodule, names)
            flow = crop_like(up(predict(x)), skip, self.margin)  # (N,2) at the skip's size
            finer = F.leaky_relu(crop_like(deconv(x), skip, self.margin), SLOPE)
            x = torch.cat([skip, finer, flow], dim=1)  # (N,1026|770|386|194)
        window = (min(2, x.shape[2]), min(2, x.shape[3]))  # a map of one pixel, on tiny frames, stays one pixel
        return self.get_submodule("predict_flow2")(F.avg_pool2d(x, window))  # (N,2,h/8,w/8)
