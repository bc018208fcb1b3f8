"""Labelled frames with their past, and the clips that end at them."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from config.errors import UserError
from config.schema import DatasetConfig
from dataloaders.boundaries import boundary_target
from dataloaders.cache import Decode, PictureCache
from dataloaders.images import read_image
from dataloaders.reader import Reader
from models.flow_dis import DISFlow


class SizedDataset(Dataset[dict]):
    """A data set with an item for each of its `frames`; iterating yields the items in order."""

    frames: Sequence

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[dict]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class LabelledFrame:
    """A labelled frame and its past."""

    name: str
    frames: tuple[Path, ...]  # consecutive, the labelled one last; fewer than requested at a video's start or gap
    label: Path
    prediction: str  # file name of a prediction for it
    flow: Path | None = None  # file of the true flow from the labelled frame to the previous one, if any
    ahead: Path | None = None  # the same, to the next frame


def with_past(frames: Sequence[LabelledFrame], interval: int) -> list[LabelledFrame]:
    """Return the frames at which a clip of `interval` + 1 frames can end."""
    return [frame for frame in frames if len(frame.frames) > interval]


class ClipDataset(SizedDataset):
    """Clips of `interval` + 1 frames that end at a labelled frame, as bytes.

    Items: `clip` (T,H,W,3) uint8 RGB, as decoded (networks take `resize.channels_first` of it); `label` (H,W) uint8
    class indices (`ignore` where unlabelled); `name`; with `border`, `boundary` (H,W), the `boundary_target` of the
    label; with a classical `flow`, `flow` (T-1,2,H',W') float32 of `DISFlow.along`. Normalising and resizing happen on
    the device. Reading raises UserError for unreadable files and for sizes that differ.
    """

    def __init__(
        self, frames: Sequence[LabelledFrame], interval: int, dataset: DatasetConfig, cache: PictureCache | None = None,
        *, border: int | None = None, flow: DISFlow | None = None,
    ):
        self.border, self.flow = border, flow
        self.frames, self.interval = with_past(frames, interval), interval
        self.reader = Reader(dataset, cache, labels=[frame.label for frame in self.frames])

    def __getitem__(self, index: int) -> dict:
        frame = self.frames[index]
        clip = read_clip(frame.frames[-1 - self.interval :], self.reader.frame)  # (T,H,W,3)
        label = self.reader.label(frame.label)  # (H,W)
        check_size(frame.label, label.shape, frame.frames[-1], clip.shape[1:3])
        item = {"clip": clip, "label": torch.from_numpy(label), "name": frame.name}
        if self.border is not None:
            item["boundary"] = torch.from_numpy(boundary_target(label, border=self.border))
        if self.flow is not None:
            item["flow"] = torch.from_numpy(self.flow.along(clip.numpy()))
        return item


def check_size(path: Path, size: Sequence[int], frame: Path, expected: Sequence[int]) -> None:
    """Raise UserError unless the `size` (H,W) of a label or flow at `path` is `expected`, that of its frame."""
    if tuple(size) != tuple(expected):
        rotated = "; EXIF data rotates frames in viewers, not here" if tuple(size) == tuple(expected)[::-1] else ""
        raise UserError(
            f"{path}: {size[1]} x {size[0]} pixels, but its frame {frame} has {expected[1]} x {expected[0]}; save it "
            f"at the size of its frame{rotated}"
        )


def read_clip(paths: Sequence[Path], read: Decode = read_image) -> Tensor:
    """Read the frames of one clip: (T,H,W,3) uint8 RGB. Raises UserError where their sizes differ."""
    clip: np.ndarray | None = None
    for index, path in enumerate(paths):
        picture = read(path)  # (H,W,3)
        if clip is None:
            clip = np.empty((len(paths), *picture.shape), np.uint8)
        elif picture.shape != clip.shape[1:]:
            raise UserError(
                f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels, but {paths[0]} of the same clip has "
                f"{clip.shape[2]} x {clip.shape[1]}; all frames of a video must have one size"
            )
        clip[index] = picture
    return torch.from_numpy(clip)  # (T,H,W,3)
