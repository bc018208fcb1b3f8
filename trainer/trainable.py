"""What one training step of each stage computes. Plain modules and functions: no loop, no saving, no printing."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.gsvnet import GSVNet, State, grid_view
from models.resize import align, grid_size, size_of
from models.segmenters.base import Segmenter
from models.warp import grid_flow

TRAINED_STEPS = 2  # propagation steps, counted from the last, that gradient flows through


class ClipPropagation(nn.Module):
    """The trained part of a clip, apart from the frozen segmenter, so that it can be wrapped for several GPUs."""

    def __init__(self, net: GSVNet, *, finetune_all: bool):
        super().__init__()
        self.flow, self.guided = net.flow, net.guided
        self._net = [net]  # in a list: the frozen segmenter is not a part of this module
        self.finetune_all = finetune_all

    def forward(self, key_logits: Tensor, views: Sequence[Tensor]) -> Tensor:
        """Keyframe logits (N,C,h,w) and the grid views (N,3,h,w) of all T frames -> logits (N,C,h,w) of the last.

        Steps before the last two run without gradient and with the guided block in evaluation mode (the recipe's
        way; with `finetune_all` they train like the others). The flow network keeps its mode throughout.
        """
        state, guided_mode = State(key_logits, views[0]), self.guided.training
        steps = len(views) - 1
        for step, view in enumerate(views[1:]):
            trained = self.finetune_all or steps - step <= TRAINED_STEPS
            self.guided.train(guided_mode and trained)
            with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                state = self._net[0].propagate(state, view)
        self.guided.train(guided_mode)
        return state.logits


def frozen_pass(segmenter: nn.Module, first: Tensor, last: Tensor, *, distil: bool) -> tuple[Tensor, Tensor | None]:
    """Keyframe logits (N,C,h,w) and teacher logits (at the segmenter's own stride, or None without distillation).

    first, last: (N,3,H,W) normalised RGB. Both frames go through the frozen segmenter in one batch.
    """
    count = len(first)
    with torch.inference_mode():
        frames = torch.cat([first, last]) if distil else first  # (2N,3,H,W)
        logits = segmenter(frames.contiguous(memory_format=torch.channels_last)).float()  # (2N,C,H/4,W/4)
        key_logits = align(logits[:count], grid_size(*size_of(first)))  # (N,C,h,w)
    # Clones, since what inference mode made cannot be kept for a backward pass; channels first again, as the logits that
    # they meet in the guided block and the loss.
    kept = dict(memory_format=torch.contiguous_format)
    return key_logits.clone(**kept), logits[count:].clone(**kept) if distil else None


def views_of(clip: Tensor) -> list[Tensor]:
    """Normalised RGB clip (N,T,3,H,W) -> T grid views (N,3,h,w)."""
    return [grid_view(clip[:, t]) for t in range(clip.shape[1])]


class SegmenterOutputs(nn.Module):
    """All outputs that a segmenter's loss looks at, behind the `forward` that a data-parallel wrapper needs."""

    def __init__(self, segmenter: Segmenter):
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.segmenter.training_logits(image)


class FlowOutput(nn.Module):
    """Flow in pixels of the h x w grid, for the loss of the flow stage."""

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        return grid_flow(self.flow(current, previous), size_of(current))  # (N,2,h,w)


def freeze_batch_norm(module: nn.Module) -> None:
    """Keep running statistics as they are (`--freeze-bn 1`)."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
