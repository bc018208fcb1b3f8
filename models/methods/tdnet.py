"""Method tdnet: sub-networks take turns, and each frame attends to the features of the three before it."""
from torch import Tensor

from models.fold import folded
from models.gsvnet import GSVNet, State
from models.methods.base import Method, Run, SeenFrame
from models.resize import channels_first, half_pixel, size_of
from models.segmenters.tdnet import TDNet
from models.steps import Step

MEMORY = 3  # frames before the present one that it attends to
INPUTS = {
    "group": ("image",), "memory": ("group",), "alone": ("group",),
    "propagated": ("group", *(f"memory_{back}" for back in range(MEMORY, 0, -1))),
}


class PathStep(Step):
    """One of the things that sub-network `path` computes, from tensors named by `inputs` -> a tensor.

    group: frame (N,H,W,3) uint8 RGB -> its feature group (N,c,h,w), at `scale`; the others are those of `TDNet`.
    """

    def __init__(self, net: TDNet, what: str, path: int, scale: float):
        super().__init__()
        self.net, self.what, self.path, self.scale, self.inputs = net, what, path, scale, INPUTS[what]

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self, self.what)(*inputs)

    def group(self, image: Tensor) -> Tensor:
        frame = channels_first(image).float()
        size = self.net.input_size(*size_of(frame), self.scale)
        if size != size_of(frame):
            frame = half_pixel(frame, size).round()  # as decoded pictures are resized
        return self.net.group(self.net.normalise(frame), self.path)

    def memory(self, group: Tensor) -> Tensor:
        return self.net.memory(group, self.path)

    def alone(self, group: Tensor) -> Tensor:
        return self.net.class_logits(self.net.alone(group, self.path).float())

    def propagated(self, group: Tensor, *memories: Tensor) -> Tensor:
        return self.net.class_logits(self.net.propagated(group, memories, self.path).float())


class TDNetMethod(Method):
    """TDNet (Hu et al., CVPR 2020): every frame costs the same, and there is no keyframe. The first three frames of a
    stream are segmented by themselves, each by its own sub-network."""

    keyframes = False

    def __init__(self, net: GSVNet, scale: float):
        assert isinstance(net.segmenter, TDNet)
        tdnet, self.paths = folded(net.segmenter), net.segmenter.paths
        self.frames = MEMORY + self.paths
        self.networks = {
            f"{what}{path}": PathStep(tdnet, what, path, scale).eval()
            for what in INPUTS for path in range(self.paths)
        }

    def first(self, run: Run, seen: SeenFrame, keyframe: Tensor | None = None) -> State:
        group = run("group0", seen.image)
        return State(run("alone0", group), seen.view, memory=(run("memory0", group),))

    def next(self, run: Run, state: State, seen: SeenFrame) -> State:
        step = state.step + 1
        path, full = step % self.paths, len(state.memory) == MEMORY
        group = run(f"group{path}", seen.image)
        logits = run(f"propagated{path}", group, *state.memory) if full else run(f"alone{path}", group)
        memory = (*state.memory, run(f"memory{path}", group))[-MEMORY:]
        return State(logits, seen.view, memory=memory, step=step)
