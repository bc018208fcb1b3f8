"""What one training step of each stage computes. Plain modules and functions: no loop, no saving, no printing."""
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.gsvnet import GSVNet, Propagation, State, on_grid
from models.resize import GRID_STRIDE, size_of
from models.segmenters.base import Segmenter
from models.warp import grid_flow

TRAINED_STEPS = 2  # propagation steps, counted from the last, that gradient flows through


class ClipPropagation(Propagation):
    """The trained part of a clip: flow network and guided block of `net`. It has no frozen segmenter, so that it can be
    wrapped for several GPUs."""

    def __init__(self, net: GSVNet, *, finetune_all: bool):
        super().__init__(net.flow, net.guided)
        self.finetune_all = finetune_all

    def forward(self, key_logits: Tensor, views: Sequence[Tensor], flows: Sequence[Tensor] = ()) -> Tensor:
        """Keyframe logits (N,C,h,w) and the views (N,3,h,w) of all T frames -> logits (N,C,h,w) of the last. flows:
        T-1 of (N,2,h,w), as in `warp`, in place of those of the flow network.

        Steps before the last two run without gradient and with the guided block in evaluation mode, as in the released
        recipe; `finetune_all` trains them like the others. The flow network keeps its mode throughout.
        """
        state, guided_mode = State(key_logits, views[0]), self.guided.training
        steps = len(views) - 1
        for step, view in enumerate(views[1:]):
            trained = self.finetune_all or steps - step <= TRAINED_STEPS
            self.guided.train(guided_mode and trained)
            with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                state = self.propagate(state, view, flows[step] if flows else None)
        self.guided.train(guided_mode)
        return state.logits


def keyframe_and_teacher(
    frozen: Callable[[Tensor], Tensor], ends: Tensor, *, distil: bool, grid: int = GRID_STRIDE
) -> tuple[Tensor, Tensor | None]:
    """First and last frames (N,2,3,H,W), RGB 0..255 -> keyframe logits (N,C,h,w) of the first, teacher logits
    (N,C,H/stride,W/stride) of the last (None without distillation), float32.

    frozen: see `trainer.frozen`. Both frames go through it in one batch.
    """
    with torch.inference_mode():
        logits = frozen(torch.cat([ends[:, 0], ends[:, 1]]) if distil else ends[:, 0])  # (2N,C,H/4,W/4)
        key_logits = on_grid(logits[: len(ends)], size_of(ends), grid)  # (N,C,h,w)
    # Clones, since a backward pass cannot keep tensors of inference mode; channels first, like the logits that they are
    # combined with in the guided block and the loss.
    kept = dict(memory_format=torch.contiguous_format)
    return key_logits.clone(**kept), logits[len(ends) :].clone(**kept) if distil else None


class SegmenterOutputs(nn.Module):
    """forward: what the segmenter's method `name` takes, normalised images -> all outputs that its loss looks at. DDP
    wraps only `forward`."""

    def __init__(self, segmenter: Segmenter, name: str):
        super().__init__()
        self.segmenter, self.name = segmenter, name

    def forward(self, *inputs: Any) -> list[Tensor]:
        return getattr(self.segmenter, self.name)(*inputs)


class FlowOutput(nn.Module):
    """forward: views (N,3,h,w) of the current and the previous frame -> flow (N,2,h,w), x first, in grid pixels."""

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        return grid_flow(self.flow(current, previous), size_of(current))  # (N,2,h,w)
