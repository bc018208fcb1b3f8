"""The guided spatially-varying convolution (paper section 3.3): warped logits and the current frame -> logits."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.resize import align, size_of

KERNELS = 11  # the warped logits themselves, nine filters of the bank, the intra features
FILTERS = 9  # filters of the bank; released with eight one-pixel shifts and one empty filter
EPSILON = 1e-9


def shift_bank() -> Tensor:
    """The released filter bank (9,1,1,3,3): shifts to the eight neighbours in row-major order, then an empty filter."""
    bank = torch.zeros(FILTERS, 9)
    bank[:4, :4] = bank[4:8, 5:] = torch.eye(4)  # every tap but the centre
    return bank.view(FILTERS, 1, 1, 3, 3)


def edge_map(logits: Tensor) -> Tensor:
    """Logits (N,C,h,w) -> (N,1,h,w) of 0 and 1: where the Laplacian of the class ids is not zero (paper section 3.3).

    The border of the image counts as an edge of every class but 0, since the Laplacian pads with zeros.
    """
    ids = logits.max(dim=1, keepdim=True).indices.float()  # (N,1,h,w); on CPU much faster than argmax
    # The Laplacian is the sum of the 3 x 3 window minus nine times its centre; sums of class ids are exact in floats.
    # (An average pooling in ONNX divides by nine, which is not exact.)
    height, width = ids.shape[-2:]
    padded = F.pad(ids, (1, 1, 1, 1))  # (N,1,h+2,w+2)
    sums = padded[:, :, :height] + padded[:, :, 1 : height + 1] + padded[:, :, 2:]  # (N,1,h,w+2)
    window = sums[..., :width] + sums[..., 1 : width + 1] + sums[..., 2:]  # (N,1,h,w)
    return (window != 9 * ids).to(logits.dtype)


def conv_bn_relu(c_in: int, c_out: int, stride: int = 1) -> list[nn.Module]:
    """3 x 3 convolution with bias, BatchNorm, ReLU."""
    return [nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]


class GuideNet(nn.Module):
    """forward: intra features (N,C,h,w), edge map (N,1,h,w) -> kernels (N,11,h,w) float32, at least 0, of sum 1."""

    def __init__(self, classes: int):
        super().__init__()
        self.encoder = nn.Sequential(*conv_bn_relu(classes + 1, 32))
        self.down1 = nn.Sequential(*conv_bn_relu(32, 64, stride=2))
        self.down2 = nn.Sequential(*conv_bn_relu(64, 128, stride=2))
        self.up1 = nn.Sequential(*conv_bn_relu(128, 64))
        self.up2 = nn.Sequential(*conv_bn_relu(64, 32))
        self.decoder = nn.Sequential(*conv_bn_relu(32, KERNELS))

    def forward(self, intra: Tensor, edge: Tensor) -> Tensor:
        encoded = self.encoder(torch.cat([intra, edge], dim=1))  # (N,32,h,w)
        half = self.down1(encoded)  # (N,64,h/2,w/2)
        quarter = self.down2(half)  # (N,128,h/4,w/4)
        x = self.up1(align(quarter, size_of(half)))  # (N,64,h/2,w/2)
        x = self.up2(align(x, size_of(encoded)))  # (N,32,h,w)
        kernels = self.decoder(encoded + x).float()  # (N,11,h,w); the epsilon below vanishes in half precision
        # The paper adds epsilon. A minimum differs only where the kernels nearly vanish, and ONNX Runtime keeps it.
        return kernels / kernels.sum(dim=1, keepdim=True).clamp(min=EPSILON)


class GuidedConv(nn.Module):
    """Corrects the warped logits using the current frame (paper section 3.3).

    forward: warped logits (N,C,h,w), the current frame's view (N,3,h,w), normalised BGR -> logits (N,C,h,w). A view of
    batch 1 serves all warped logits, and its intra features are computed once.
    Ablations: use_intra=False sets intra features to zero, as guidance and as candidate; use_edge=False the edge map.
    """

    def __init__(self, classes: int, *, use_intra: bool = True, use_edge: bool = True):
        super().__init__()
        self.classes, self.use_intra, self.use_edge = classes, use_intra, use_edge
        self.filter_bank = nn.Parameter(shift_bank(), requires_grad=False)  # (9,1,1,3,3)
        # View (N,3,h,w), normalised BGR -> intra features (N,C,h,w), a coarse segmentation of the frame.
        self.intra = nn.Sequential(*conv_bn_relu(3, 32), *conv_bn_relu(32, 32), nn.Conv2d(32, classes, 3, padding=1))
        self.guide = GuideNet(classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
        if not use_intra:
            self.intra.requires_grad_(False)

    def forward(self, warped: Tensor, frame: Tensor) -> Tensor:
        intra = self.intra(frame) if self.use_intra else torch.zeros_like(warped)  # (N,C,h,w)
        intra = intra.expand_as(warped)
        edge = edge_map(warped) if self.use_edge else torch.zeros_like(warped[:, :1])  # (N,1,h,w)
        return self.fuse(warped, intra, self.guide(intra, edge))

    def fuse(self, warped: Tensor, intra: Tensor, kernels: Tensor) -> Tensor:
        """Warped logits, intra features (N,C,h,w), kernels (N,11,h,w) -> sum of kernel_k * candidate_k (N,C,h,w),
        paper equation 2.

        The published form filters every class with every filter and multiplies the (N,11,C,h,w) stack. Since the
        filters are the same for all classes, kernels and filters combine first, into one 3 x 3 kernel per pixel
        (N,9,h,w): the same sum for any filter bank, with nine multiply-adds per class and no stack.
        """
        taps = F.conv2d(kernels[:, 1:10], self.filter_bank.view(FILTERS, 9).t()[:, :, None, None])  # (N,9,h,w)
        height, width = warped.shape[-2:]
        padded = F.pad(warped, (1, 1, 1, 1))  # (N,C,h+2,w+2)
        out = kernels[:, 10:11] * intra  # (N,C,h,w)
        out = torch.addcmul(out, kernels[:, 0:1], warped)
        for tap in range(9):
            dy, dx = divmod(tap, 3)
            out = torch.addcmul(out, taps[:, tap : tap + 1], padded[:, :, dy : dy + height, dx : dx + width])
        return out
