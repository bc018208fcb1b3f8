"""The one loop over the frames of an evaluation: yields each frame with what every method predicts for it."""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from config.errors import UserError
from dataloaders.eval_videos import Video, VideoFrame
from evaluation.keyframe_groups import VideoPropagation, VideoStream, own_logits, plan_video
from inference.engines import Engine
from inference.keyframe_schedule import Schedule
from models.gsvnet import State
from models.label_map import label_map
from utils.logging import watched
from utils.metrics import confusion_counts, scores


@dataclass(frozen=True, eq=False)
class EvaluatedFrame:
    """A frame of a video and the states that the methods have for it. All tensors are on the device.

    source: path, and the labelled frame if it is one; time: number of the frame in its video, from 0. image: (H,W,3)
    uint8 RGB; label: (H',W') uint8 class indices, empty if unlabelled; ahead (H,W,2) and visible (H,W): the true flow
    to the next frame, empty if unknown or not needed (`VideoDataset`). states: by method and keyframe; engines: by
    method, what turns them into labels. positions: those that are evaluated and that the video reaches back to.
    """

    source: VideoFrame
    time: int
    image: Tensor
    label: Tensor
    ahead: Tensor
    visible: Tensor
    states: Mapping[str, Mapping[int, State]]
    engines: Mapping[str, Engine]
    positions: tuple[int, ...]
    _maps: dict[tuple[int, int, int], Tensor] = field(default_factory=dict, repr=False)

    @torch.inference_mode()
    def label_map(self, method: str, keyframe: int, size: Sequence[int]) -> Tensor:
        """Class indices (H,W) uint8 at `size`, of the group that began at `keyframe`; computed when first asked for."""
        state = self.states[method][keyframe]
        # Methods and keyframes may share logits.
        key = (id(state.logits if state.labels is None else state.labels), size[0], size[1])
        if key not in self._maps:
            self._maps[key] = self.engines[method].labels(state, (size[0], size[1])).to(self.image.device)
        return self._maps[key]

    @cached_property
    def predictions(self) -> dict[str, dict[int, Tensor]]:
        """Class indices (H',W') uint8 at the label's size, by method and position."""
        size, at = self.label.shape, self.positions
        return {method: {k: self.label_map(method, self.time - k, size) for k in at} for method in self.states}

    @cached_property
    def counts(self) -> dict[str, dict[int, Tensor]]:
        """The frame's own confusion counts (C,C) int64 on the CPU, by method and position."""
        return {
            method: {
                k: confusion_counts(self.label, x, classes=self.states[method][self.time - k].logits.shape[1])
                for k, x in by_position.items()
            }
            for method, by_position in self.predictions.items()
        }

    def miou(self, method: str, position: int) -> float | None:
        """mIoU of this frame alone, 0..1; None where no pixel is labelled."""
        return scores(self.counts[method][position]).miou


def evaluated_frames(
    engines: Mapping[str, Engine], videos: Sequence[Video], items: Iterable[Mapping[str, Tensor]], *,
    positions: Sequence[int], device: torch.device, intervals: Sequence[int] = (), schedule: Schedule | None = None,
    reference: bool = False, show: bool = False,
) -> Iterator[EvaluatedFrame]:
    """Go once through `videos`, whose frames (items of VideoDataset, one after the other) are `items`; engines: by
    method.

    A labelled frame has predictions at every position that its video reaches back to. With `intervals`, every frame has
    the states of the streams with these keyframe intervals, which begin with the video. With a `schedule`, it has
    predictions at one position, that of the stream with the schedule's keyframes. reference: labels are the segmenter's
    own of the frame. show: a progress bar. Raises UserError where the frames of a video differ in size.
    """
    loaded = iter(watched(items, description=f"evaluate {', '.join(engines)}", unit="frame", show=show))
    for video in videos:
        plan = plan_video([frame.labelled is not None for frame in video], positions, intervals)
        walk = VideoStream(engines, schedule) if schedule is not None else VideoPropagation(engines, plan)
        size: torch.Size | None = None
        for time, source in enumerate(video):
            read = next(loaded)
            item = {name: x.to(device, non_blocking=True) for name, x in read.items()}
            size = size or item["image"].shape
            if (found := item["image"].shape) != size:
                raise UserError(
                    f"{source.path}: {found[1]} x {found[0]} pixels, but {video[0].path} of the same video has "
                    f"{size[1]} x {size[0]}"
                )
            own = own_logits(next(iter(engines.values())), read["image"]) if reference else None
            label = item["label"] if own is None else label_map(own, size[:2])
            states = walk.advance(read["image"], own)
            possible = tuple(k for k in positions if k <= time)
            if schedule is not None:
                possible = tuple(time - start for start in next(iter(states.values())))
            yield EvaluatedFrame(
                source, time, item["image"], label, item["ahead"], item["visible"], states, engines,
                possible if source.labelled is not None else (),
            )
    next(loaded, None)  # ends the progress bar
