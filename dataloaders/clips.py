"""Labelled frames with the frames before them, and the clips that end at them."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from config.errors import UserError
from config.schema import DatasetConfig
from dataloaders.cache import PictureCache
from dataloaders.images import label_table, read_ids, read_image


class SizedDataset(Dataset[dict]):
    """A data set of known length; its items in order when it is walked through."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[dict]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class LabelledFrame:
    """A labelled frame and its past.

    frames: the frames up to and including the labelled one, in order, without a gap; as many as exist, up to what was
    asked for. flow, ahead: files of the true flow from the labelled frame to the one before and to the one after it, where
    the data set has them.
    """

    name: str
    frames: tuple[Path, ...]
    label: Path
    prediction: str  # file name of a prediction for it
    flow: Path | None = None
    ahead: Path | None = None


def with_past(frames: Sequence[LabelledFrame], interval: int) -> list[LabelledFrame]:
    """Those that a clip of `interval` + 1 frames can end at."""
    return [frame for frame in frames if len(frame.frames) > interval]


class ClipDataset(SizedDataset):
    """Clips of `interval` + 1 frames that end at a labelled frame, as bytes.

    Items: `clip` (T,H,W,3) uint8 RGB, as decoders give it (`transforms.channels_first` is the networks' view of it), `label` (H,W)
    uint8 class indices (`ignore` where unlabelled), `name`.
    Pixels stay uint8 here; normalising and resizing happen on the device.
    """

    def __init__(
        self, frames: Sequence[LabelledFrame], interval: int, dataset: DatasetConfig, cache: PictureCache | None = None
    ):
        self.frames = with_past(frames, interval)
        self.interval = interval
        self.table = label_table(dataset)
        self.cache = cache

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict:
        frame = self.frames[index]
        clip, ids = read_clip(frame.frames[-1 - self.interval :], self.cache), self._ids(frame.label)
        refuse_other_size(frame.label, ids.shape, frame.frames[-1], clip.shape[1:3])
        return {"clip": clip, "label": torch.from_numpy(cv2.LUT(ids, self.table)), "name": frame.name}

    def _ids(self, path: Path) -> np.ndarray:
        return read_ids(path) if self.cache is None else self.cache.read(path, read_ids)


def refuse_other_size(path: Path, size: Sequence[int], frame: Path, wanted: Sequence[int]) -> None:
    """Raise UserError unless the `size` (H,W) of what `path` holds is `wanted`, that of its frame."""
    if tuple(size) != tuple(wanted):
        turned = "; EXIF data, which viewers obey, do not turn frames here" if tuple(size) == tuple(wanted)[::-1] else ""
        raise UserError(
            f"{path}: {size[1]} x {size[0]} pixels, but its frame {frame} has {wanted[1]} x {wanted[0]}; save it at its frame's "
            f"size{turned}"
        )


def read_clip(paths: Sequence[Path], cache: PictureCache | None = None) -> Tensor:
    """Frames of one clip -> (T,H,W,3) uint8 RGB. Raises UserError where their sizes differ."""
    clip: np.ndarray | None = None
    for index, path in enumerate(paths):
        picture = read_image(path) if cache is None else cache.read(path, read_image)  # (H,W,3)
        if clip is None:
            clip = np.empty((len(paths), *picture.shape), np.uint8)
        elif picture.shape != clip.shape[1:]:
            raise UserError(
                f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels, but {paths[0]} of the same clip has "
                f"{clip.shape[2]} x {clip.shape[1]}; the frames of a video have one size"
            )
        clip[index] = picture
    return torch.from_numpy(clip)  # (T,H,W,3)
