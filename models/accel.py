"""Accel-18 (Jain et al., CVPR 2019): features of a deep network are carried along the flow, and the scores of a small
network on each frame correct what that loses."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.flow_dff import add_flow, flow_between
from models.segmenters.base import TrainingRecipe
from models.segmenters.deeplab import STD, DeepLab101, add_conv, add_head, add_resnet18, resnet18, scored, upsampled


class Accel(DeepLab101):
    """All networks of Accel-18; h,w = H/16,W/16 for images of H x W.

    forward: a keyframe, RGB (N,3,H,W) float32 as `normalise` returns it -> scores (N,C,H,W). For every other frame:
    `flow` between the previous frame's `look` and its own, the previous frame's features warped by it (`models.warp`),
    their `head`, its own `update`, and both `fused`. The warped features serve the next frame.
    """

    recipe = TrainingRecipe(schedule="steps", warm_up=1000, decay_all=False)
    correction: nn.Conv2d
    one_kernel = True  # whether the scores of all classes and of both networks are upsampled alike

    def __init__(self, classes: int):
        super().__init__(classes)
        add_resnet18(self)
        add_head(self, classes, "18_")
        add_flow(self)
        add_conv(self, "correction", 2 * classes, classes, std=STD)
        self.register_load_state_dict_post_hook(_compare_kernels)

    def look(self, image: Tensor) -> Tensor:
        """Normalised image (N,3,H,W) -> what `flow` sees of it, (N,3,H/2,W/2)."""
        return F.avg_pool2d(image / 255, 2, ceil_mode=True)

    def flow(self, previous_look: Tensor, look: Tensor) -> Tensor:
        """Looks (N,3,H/2,W/2) of two frames -> flow (N,2,h,w) in pixels of h x w, x first, as `warp` takes it: at p +
        flow(p) the previous frame shows what the current one shows at p."""
        return flow_between(self, previous_look, look)

    def update(self, image: Tensor) -> Tensor:
        """Normalised image (N,3,H,W) -> scores (N,C,h,w) of the small network."""
        return scored(self, resnet18(self, image), "18_")

    def fused(self, reference: Tensor, update: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores (N,C,h,w) of carried features and of `update` -> scores (N,C,*size).

        Published as upsampling both, then a 1x1 convolution. Where all kernels of the upsampling are equal, both orders
        are the same but for rounding, and at 1/16 the convolution costs 256 times less.
        """
        if self.one_kernel:
            scores = F.conv2d(torch.cat([reference, update], dim=1), self.correction.weight)  # (N,C,h,w)
            return upsampled(self, scores, size, bias=self.correction.bias)  # (N,C,*size)
        full = [upsampled(self, reference, size), upsampled(self, update, size, "18_")]
        return self.correction(torch.cat(full, dim=1))  # (N,C,*size)


def _compare_kernels(accel: Accel, _: object) -> None:
    """Set `one_kernel` after weights are loaded."""
    kernels = torch.cat([accel.get_parameter(f"{prefix}upsampling.weight") for prefix in ("", "18_")])
    accel.one_kernel = bool((kernels == kernels[:1]).all())
