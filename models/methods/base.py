"""What every way to carry a segmentation through video offers: the state after a first frame, and after the next."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.flow_dis import DISFlow
from models.gsvnet import State
from models.label_map import label_map
from models.steps import Step

Run = Callable[..., Tensor]  # the name of one of a method's networks, and its inputs -> its output


@dataclass(frozen=True)
class SeenFrame:
    """N frames, one of each stream, as methods and schedules see them.

    image: (N,H,W,3) uint8 RGB, on the CPU. view: (N,3,h,w), see `FrameView`. looks: N of `DISFlow.look`, where the
    method uses a classical flow. flow: with it, and after a frame of the same size, (N,2,h,w) from these frames to
    the previous ones, at the method's `flow_size`. since: frames since the last one that was known to become a
    keyframe before it was seen, and needs no flow.
    """

    image: Tensor
    view: Tensor
    looks: tuple[np.ndarray, ...] = ()
    flow: Tensor | None = None
    since: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[2]


def together(frames: Sequence[SeenFrame]) -> SeenFrame:
    """Frames of several streams, all of one size, as one batch."""
    flows = [frame.flow for frame in frames if frame.flow is not None]
    return SeenFrame(
        torch.cat([frame.image for frame in frames]), torch.cat([frame.view for frame in frames]),
        tuple(look for frame in frames for look in frame.looks),
        torch.cat(flows) if len(flows) == len(frames) else None,
    )


def with_labels(logits: Tensor, view: Tensor, size: tuple[int, int], *memory: Tensor) -> State:
    """The state of frames of `size` (H,W) that keeps their label maps (N,H,W) in place of their logits (N,C,h,w)."""
    labels = torch.stack([label_map(x, size) for x in logits.split(1)])  # (N,H,W)
    return State(logits[:, :, :0, :0], view, labels, memory=memory)


class Method:
    """A way to carry a segmentation through video. It keeps no state between frames.

    networks: by name. Who calls `first` and `next` runs them (`run`): in PyTorch, compiled, or in another runtime.
    frames: after so many of a stream, each of them has run. flow: the classical flow that the frames come with, if any.
    keyframes: whether frames that are segmented by themselves come again and again; without, all frames of a stream
    follow its first, and states of different age cannot be joined.
    """

    networks: dict[str, Step]
    frames = 2
    flow: DISFlow | None = None
    foldable = True  # see `Segmenter`
    keyframes = True

    def flow_size(self, frame: tuple[int, int]) -> tuple[int, int]:
        """Size of the classical flow for frames of size (H,W)."""
        raise NotImplementedError

    def first(self, run: Run, seen: SeenFrame, keyframe: Tensor | None = None) -> State:
        """The state after frames that are segmented by themselves. keyframe: their logits, on the grid or, as
        any method takes them, at the segmenter's own stride, if they are known."""
        raise NotImplementedError

    def next(self, run: Run, state: State, seen: SeenFrame) -> State:
        """The state after the frames that follow those of `state`. One frame serves a state of any N."""
        raise NotImplementedError
