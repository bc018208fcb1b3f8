"""Method accel: a keyframe's features, warped from frame to frame, fused with a light network's scores."""
import torch
from torch import Tensor

from models.accel import Accel
from models.fold import folded
from models.gsvnet import GSVNet, State
from models.label_map import label_map
from models.methods.base import Method, Run, SeenFrame
from models.resize import align, channels_first, size_of
from models.steps import Step
from models.warp import warp

INPUTS = {
    "features": ("image",), "keyframe": ("features",), "look": ("image",),
    "warped": ("features", "previous_look", "look"), "update": ("image",), "fused": ("features", "update"),
}


class AccelStep(Step):
    """One of the things that Accel computes, from tensors named by INPUTS -> a tensor. Frames are (N,H,W,3) uint8 RGB;
    looks and the update network's scores are (1,...) where they serve N keyframes' features."""

    def __init__(self, net: Accel, what: str, scale: float):
        super().__init__()
        self.net, self.what, self.scale, self.inputs = net, what, scale, INPUTS[what]

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self, self.what)(*inputs)

    def features(self, image: Tensor) -> Tensor:
        return self.net.features(self._resized(image))  # (N,2048,h,w), at 1/16

    def keyframe(self, features: Tensor) -> Tensor:
        """-> logits (N,C,16*h,16*w)"""
        return self.net.class_logits(self.net.upsample(self.net.head(features), self._size(features)).float())

    def look(self, image: Tensor) -> Tensor:
        return self.net.look(self._resized(image))  # (N,3,8*h,8*w)

    def warped(self, features: Tensor, previous: Tensor, look: Tensor) -> Tensor:
        return warp(features, self.net.flow(previous, look))  # (N,2048,h,w)

    def update(self, image: Tensor) -> Tensor:
        return self.net.update(self._resized(image))  # (N,C,h,w)

    def fused(self, features: Tensor, update: Tensor) -> Tensor:
        """-> logits (N,C,16*h,16*w)"""
        update = update.expand(len(features), -1, -1, -1)
        fused = self.net.fused(self.net.head(features), update, self._size(features))
        return self.net.class_logits(fused.float())

    def _resized(self, image: Tensor) -> Tensor:
        """-> normalised (N,3,16*h,16*w)"""
        frame = channels_first(image).float()
        return self.net.normalise(align(frame, self.net.input_size(*size_of(frame), self.scale)))

    def _size(self, features: Tensor) -> tuple[int, int]:
        return 16 * features.shape[2], 16 * features.shape[3]


class AccelMethod(Method):
    """Accel (Jain et al., CVPR 2019): features are warped recursively, from frame to frame; the fused scores of a frame
    are not fed back. The state's labels are at full size, since the upsampling is the network's own."""

    def __init__(self, net: GSVNet, scale: float):
        assert isinstance(net.segmenter, Accel)
        accel = folded(net.segmenter)
        self.foldable = net.segmenter.foldable
        self.networks = {what: AccelStep(accel, what, scale).eval() for what in INPUTS}

    def first(self, run: Run, seen: SeenFrame, keyframe: Tensor | None = None) -> State:
        features = run("features", seen.image)
        return _state(run("keyframe", features), features, run("look", seen.image), seen)

    def next(self, run: Run, state: State, seen: SeenFrame) -> State:
        look, (features,) = run("look", seen.image), state.memory
        features = run("warped", features, state.view, look)
        return _state(run("fused", features, run("update", seen.image)), features, look, seen)


def _state(logits: Tensor, features: Tensor, look: Tensor, seen: SeenFrame) -> State:
    labels = torch.stack([label_map(x, seen.size) for x in logits.split(1)])  # (N,H,W)
    return State(logits[:, :, :0, :0], look, labels, memory=(features,))
