"""The one loop over the frames of an evaluation: yields each frame with what every method predicts for it."""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from config.errors import UserError
from dataloaders.eval_videos import Video, VideoFrame
from evaluation.keyframe_groups import VideoPropagation, plan_video
from models.gsvnet import GSVNet
from models.label_map import label_map
from models.steps import KeyframeStep, ViewStep
from utils.logging import watched
from utils.metrics import confusion_counts, scores


@dataclass(frozen=True, eq=False)
class EvaluatedFrame:
    """A frame of a video and the logits that the methods have for it. All tensors are on the device.

    source: path, and the labelled frame if it is one; time: number of the frame in its video, from 0. image: (H,W,3)
    uint8 RGB; label: (H',W') uint8 class indices, empty if unlabelled; ahead (H,W,2) and visible (H,W): the true flow
    to the next frame, empty if unknown or not needed (`VideoDataset`). logits: (1,C,h,w) by method and keyframe.
    positions: those that are evaluated and that the video reaches back to.
    """

    source: VideoFrame
    time: int
    image: Tensor
    label: Tensor
    ahead: Tensor
    visible: Tensor
    logits: Mapping[str, Mapping[int, Tensor]]
    positions: tuple[int, ...]
    _maps: dict[tuple[int, tuple[int, ...]], Tensor] = field(default_factory=dict, repr=False)

    @torch.inference_mode()
    def label_map(self, method: str, keyframe: int, size: Sequence[int]) -> Tensor:
        """Class indices (H,W) uint8 at `size`, of the group that began at `keyframe`; computed when first asked for."""
        logits = self.logits[method][keyframe]  # (1,C,h,w), which methods and keyframes may share
        key = (id(logits), tuple(size))
        if key not in self._maps:
            self._maps[key] = label_map(logits, size)
        return self._maps[key]

    @cached_property
    def predictions(self) -> dict[str, dict[int, Tensor]]:
        """Class indices (H',W') uint8 at the label's size, by method and position."""
        size, at = self.label.shape, self.positions
        return {method: {k: self.label_map(method, self.time - k, size) for k in at} for method in self.logits}

    @cached_property
    def counts(self) -> dict[str, dict[int, Tensor]]:
        """The frame's own confusion counts (C,C) int64 on the CPU, by method and position."""
        return {
            method: {
                k: confusion_counts(self.label, x, classes=self.logits[method][self.time - k].shape[1])
                for k, x in by_position.items()
            }
            for method, by_position in self.predictions.items()
        }

    def miou(self, method: str, position: int) -> float | None:
        """mIoU of this frame alone, 0..1; None where no pixel is labelled."""
        return scores(self.counts[method][position]).miou


@torch.inference_mode()
def evaluated_frames(
    net: GSVNet, videos: Sequence[Video], items: Iterable[Mapping[str, Tensor]], *, positions: Sequence[int],
    methods: Sequence[str], scale: float, device: torch.device, intervals: Sequence[int] = (), show: bool = False,
) -> Iterator[EvaluatedFrame]:
    """Go once through `videos`, whose frames (items of VideoDataset, one after the other) are `items`.

    A labelled frame has predictions at every position that its video reaches back to. With `intervals`, every frame has
    the logits of the streams with these keyframe intervals, which begin with the video. show: a progress bar. Raises
    UserError where the frames of a video differ in size.
    """
    net.eval()
    segment, view = KeyframeStep(net, scale).to(device), ViewStep(net).to(device)
    loaded = iter(watched(items, description=f"evaluate {', '.join(methods)}", unit="frame", show=show))
    for video in videos:
        plan = plan_video([frame.labelled is not None for frame in video], positions, intervals)
        propagation, size = VideoPropagation(net, segment, view, plan, methods=methods), None
        for time, source in enumerate(video):
            item = {name: x.to(device, non_blocking=True) for name, x in next(loaded).items()}
            size = size or item["image"].shape
            if (found := item["image"].shape) != size:
                raise UserError(
                    f"{source.path}: {found[1]} x {found[0]} pixels, but {video[0].path} of the same video has "
                    f"{size[1]} x {size[0]}"
                )
            possible = tuple(k for k in positions if k <= time) if source.labelled is not None else ()
            logits = propagation.advance(item["image"])
            yield EvaluatedFrame(
                source, time, item["image"], item["label"], item["ahead"], item["visible"], logits, possible
            )
    next(loaded, None)  # ends the progress bar
