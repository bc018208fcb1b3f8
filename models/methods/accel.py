"""Method accel: a keyframe's features, warped from frame to frame, fused with a light network's scores."""
from torch import Tensor

from models.accel import Accel
from models.fold import folded
from models.gsvnet import GSVNet, State
from models.methods.base import Method, Run, SeenFrame, with_labels
from models.steps import FrameStep, LogitsStep, NetworkStep


class AccelMethod(Method):
    """Accel (Jain et al., CVPR 2019): features are warped recursively, from frame to frame; the fused scores of a frame
    are not fed back. The state's labels are at full size, since the upsampling is the network's own.

    A frame's look (1,3,H/2,W/2) and its update (1,C,h,w) may serve the features (N,2048,h,w) of N keyframes.
    """

    def __init__(self, net: GSVNet, scale: float):
        assert isinstance(net.segmenter, Accel)
        accel, self.foldable = folded(net.segmenter), net.segmenter.foldable
        self.networks = {
            "features": FrameStep(accel, Accel.features, scale), "look": FrameStep(accel, Accel.look, scale),
            "update": FrameStep(accel, Accel.update, scale), "keyframe": LogitsStep(accel, Accel.scored, "features"),
            "warped": NetworkStep(accel, Accel.warped, "features", "previous_look", "look"),
            "fused": LogitsStep(accel, Accel.fused, "features", "update"),
        }

    def first(self, run: Run, seen: SeenFrame, keyframe: Tensor | None = None) -> State:
        features = run("features", seen.image)
        return with_labels(run("keyframe", features), run("look", seen.image), seen.size, features)

    def next(self, run: Run, state: State, seen: SeenFrame) -> State:
        look, (features,) = run("look", seen.image), state.memory
        features = run("warped", features, state.view, look)
        return with_labels(run("fused", features, run("update", seen.image)), look, seen.size, features)
