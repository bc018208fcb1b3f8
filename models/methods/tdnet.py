"""Method tdnet: sub-networks take turns, and each frame attends to the features of the three before it."""
from functools import partial

from torch import Tensor

from models.fold import folded
from models.gsvnet import GSVNet, State
from models.methods.base import Method, Run, SeenFrame
from models.segmenters.tdnet import TDNet
from models.steps import FrameStep, LogitsStep, NetworkStep

MEMORY = 3  # frames before the present one that it attends to


class TDNetMethod(Method):
    """TDNet (Hu et al., CVPR 2020): every frame costs the same, and there is no keyframe. The first three frames of a
    stream are segmented by themselves, each by its own sub-network."""

    keyframes = False

    def __init__(self, net: GSVNet, scale: float):
        assert isinstance(net.segmenter, TDNet)
        tdnet, self.paths = folded(net.segmenter), net.segmenter.paths
        self.frames = MEMORY + self.paths
        memories = [f"memory_{back}" for back in range(MEMORY, 0, -1)]
        self.networks = {}
        for path in range(self.paths):
            group, memory, alone, propagated = (
                partial(call, path=path) for call in (TDNet.group, TDNet.memory, TDNet.alone, TDNet.propagated)
            )
            self.networks |= {
                f"group{path}": FrameStep(tdnet, group, scale), f"memory{path}": NetworkStep(tdnet, memory, "group"),
                f"alone{path}": LogitsStep(tdnet, alone, "group"),
                f"propagated{path}": LogitsStep(tdnet, propagated, "group", *memories),
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
