"""Accel-18 (Jain et al., CVPR 2019): features of a deep network are carried along the flow, and the scores of a small
network on each frame correct what that loses."""
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.flownet_s import FlowNetS
from models.published_names import publish
from models.segmenters.base import Segmenter, TrainingRecipe
from models.segmenters.deeplab import DeepLab18, DeepLab101, biased
from models.warp import warp

FACTOR = 2.5  # of the flow network's output, to pixels of the 1/16 grid


class FeatureFlow(FlowNetS):
    """FlowNetS as Deep Feature Flow (Zhu et al., CVPR 2017) has it: other names, order of the frames and cropping.

    forward: `Accel.look` (N,3,H/2,W/2) of the current and the previous frame -> flow (N,2,h,w) in pixels of h,w =
    H/16,W/16, x first, as `warp` takes it: at p + flow(p) the previous frame shows what the current one shows at p.
    """

    margin = 1

    def __init__(self) -> None:
        super().__init__()
        publish(self, published_name)

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        return super().forward(previous, current) * FACTOR


def published_name(name: str) -> str:
    """Name of a tensor of FlowNetS -> that in Deep Feature Flow."""
    layer, tensor = name.split(".")[0], name.split(".")[-1]
    if layer.startswith("predict_flow"):  # from the coarsest level on
        layer = f"Convolution{7 - int(layer[-1])}"
    layer = layer.replace("upsampled_flow", "upsample_flow").replace("_to_", "to")
    return f"{'flow_conv1' if layer == 'conv1' else layer}.{tensor}"


class Accel(Segmenter):
    """All networks of Accel-18; h,w = H/16,W/16 for images of H x W.

    forward: a keyframe, RGB (N,3,H,W) float32 as `normalise` returns it -> scores (N,C,H,W), of `deep`. For every other
    frame: the previous frame's features `warped`, and their scores `fused` with the `update`, those of `small`.
    The warped features serve the next frame.
    """

    class_tensor, stride, multiple = DeepLab101.class_tensor, DeepLab101.stride, DeepLab101.multiple
    pixel_mean, pixel_std = DeepLab101.pixel_mean, DeepLab101.pixel_std
    recipe = TrainingRecipe(schedule="steps", warm_up=1000, new_rate=2.0, new_bias_rate=2.0, decay_all=False)
    one_kernel = True  # whether the scores of all classes and of both networks are upsampled alike

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        self.deep, self.small, self.flow = DeepLab101(classes), DeepLab18(classes), FeatureFlow()
        self.correction = biased(2 * classes, classes)
        publish(self, lambda name: name if name.startswith("correction") else name.split(".", 1)[1])
        self.register_load_state_dict_post_hook(_compare_kernels)

    def forward(self, image: Tensor) -> Tensor:
        return self.deep(image)

    def features(self, image: Tensor) -> Tensor:
        """Normalised image (N,3,H,W) -> features (N,2048,h,w) of the deep network."""
        return self.deep.features(image)

    def scored(self, features: Tensor) -> Tensor:
        """Features (N,2048,h,w) -> the deep network's scores (N,C,H,W), those of a keyframe."""
        return self.deep.upsample(self.deep.head(features))

    def look(self, image: Tensor) -> Tensor:
        """Normalised image (N,3,H,W) -> what `flow` sees of it, (N,3,H/2,W/2)."""
        return F.avg_pool2d(image / 255, 2)

    def warped(self, features: Tensor, previous: Tensor, look: Tensor) -> Tensor:
        """Features (N,2048,h,w) of a frame, its look and that of the next frame -> the next frame's features."""
        return warp(features, self.flow(look, previous))

    def update(self, image: Tensor) -> Tensor:
        """Normalised image (N,3,H,W) -> scores (N,C,h,w) of the small network."""
        return self.small.head(self.small.features(image))

    def fused(self, features: Tensor, update: Tensor) -> Tensor:
        """Carried features (N,2048,h,w), scores of `update`, (N,C,h,w) or one for all -> scores (N,C,H,W).

        Published as upsampling both, then a 1x1 convolution. Where all kernels of the upsampling are equal, both orders
        are the same but for rounding, and at 1/16 the convolution costs 256 times less.
        """
        reference, update = self.deep.head(features), update.expand(len(features), -1, -1, -1)  # (N,C,h,w)
        if self.one_kernel:
            scores = F.conv2d(torch.cat([reference, update], dim=1), self.correction.weight)  # (N,C,h,w)
            return self.deep.upsample(scores, self.correction.bias)  # (N,C,H,W)
        return self.correction(torch.cat([self.deep.upsample(reference), self.small.upsample(update)], dim=1))

    def training_outputs(self, clip: Sequence[Tensor]) -> list[Tensor]:
        """Normalised images (N,3,H,W), a keyframe and those after it -> scores (N,C,H,W) of the last.

        Where the deep network is trained too, followed by the scores of the carried features alone: trained through the
        fusion only, they would no longer segment a keyframe.
        """
        features = self.features(clip[0])
        for previous, look in pairwise(map(self.look, clip)):
            features = self.warped(features, previous, look)
        fused = self.fused(features, self.update(clip[-1]))
        return [fused, self.scored(features)] if features.requires_grad else [fused]

    def new_modules(self) -> list[nn.Module]:
        return [self.correction]


def _compare_kernels(accel: Accel, _: object) -> None:
    """Set `one_kernel` after weights are loaded."""
    kernels = torch.cat([accel.deep.upsampling.weight, accel.small.upsampling.weight])
    accel.one_kernel = bool((kernels == kernels[:1]).all())
