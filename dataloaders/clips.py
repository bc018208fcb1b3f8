"""Labelled frames with the frames before them, and the clips that end at them."""
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from config.dataset import DatasetConfig
from config.errors import UserError
from dataloaders.images import label_table, read_image, read_label


@dataclass(frozen=True)
class LabelledFrame:
    """A labelled frame and its past.

    frames: the frames up to and including the labelled one, in order, without a gap; as many as exist, up to what was
    asked for. flow: file of the true flow from the labelled frame to the one before it, where the data set has one.
    """

    name: str
    frames: tuple[Path, ...]
    label: Path
    prediction: str  # file name of a prediction for it
    flow: Optional[Path] = None


def with_past(frames: Sequence[LabelledFrame], interval: int) -> list[LabelledFrame]:
    """Those that a clip of `interval` + 1 frames can end at."""
    return [frame for frame in frames if len(frame.frames) > interval]


class ClipDataset(Dataset):
    """Clips of `interval` + 1 frames that end at a labelled frame, as bytes.

    Items: `clip` (T,3,H,W) uint8 RGB, `label` (H,W) uint8 class indices (`ignore` where unlabelled), `name`.
    Pixels stay uint8 here; normalising and resizing happen on the device.
    """

    def __init__(self, frames: Sequence[LabelledFrame], interval: int, dataset: DatasetConfig):
        self.frames = with_past(frames, interval)
        self.interval = interval
        self.table = label_table(dataset)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict:
        frame = self.frames[index]
        return {
            "clip": read_clip(frame.frames[-1 - self.interval :]),
            "label": torch.from_numpy(read_label(frame.label, self.table)),
            "name": frame.name,
        }


class PastDataset(ClipDataset):
    """As ClipDataset, but an item's clip is as long as the frame's past allows, up to `interval` + 1 frames."""

    def __init__(self, frames: Sequence[LabelledFrame], interval: int, dataset: DatasetConfig):
        super().__init__(frames, 0, dataset)
        self.interval = interval


def read_clip(paths: Sequence[Path]) -> Tensor:
    """Frames of one clip -> (T,3,H,W) uint8 RGB. Raises UserError where their sizes differ."""
    pictures = []
    for path in paths:
        picture = read_image(path)
        if pictures and picture.shape != pictures[0].shape:
            raise UserError(
                f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels, but {paths[0]} of the same clip has "
                f"{pictures[0].shape[1]} x {pictures[0].shape[0]}"
            )
        pictures.append(picture)
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())  # (T,3,H,W)
