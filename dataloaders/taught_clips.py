"""Clips of videos whose frames a frozen segmenter has segmented once; everything is on the propagation grid."""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.errors import UserError
from config.schema import DatasetConfig
from dataloaders.clips import SizedDataset, check_size
from dataloaders.reader import Reader
from models.resize import nearest

UNKNOWN, FOLLOWS, BEGINS, REPEATS = range(4)  # a row: not there yet; after the one before; after a cut or gap; no news
ARRAYS = ("logits", "view", "flow")


@dataclass(frozen=True)
class TaughtVideo:
    """Frames of a video, in `folder`; each is a row of these .npy files: `logits` (C,h,w), `view` (3,h,w), `flow`
    (2,h,w) by DIS to the previous frame in grid pixels, all float16, and `state`, a uint8 of those above.

    size: of the frames, (H,W). names: of the rows, VIDEO/FRAME.
    """

    folder: Path
    size: tuple[int, int]
    names: Sequence[str]

    def array(self, name: str) -> np.memmap:
        """The array of that name, memory-mapped. Raises UserError."""
        path = self.folder / f"{name}.npy"
        try:
            return np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); delete {self.folder}, and it is made again") from error

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        return {name: self.array(name) for name in ARRAYS}

    def __getstate__(self) -> dict:
        """Without the arrays, which each worker process maps by itself."""
        return {name: x for name, x in self.__dict__.items() if name != "arrays"}

    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows that are no repetitions, and how many of them before each are its own scene's, without gaps."""
        states = np.array(self.array("state"))
        rows = np.flatnonzero((states == FOLLOWS) | (states == BEGINS))
        begins = np.where(states[rows] == BEGINS, np.arange(len(rows)), 0)
        return rows, np.arange(len(rows)) - np.maximum.accumulate(begins) if len(rows) else begins


class TaughtClips(SizedDataset):
    """Clips of `interval` + 1 frames, of which no two are the same and none is after a cut.

    Items: `key` and `teacher`, logits (C,h,w) of the first and the last frame; `views` (T,3,h,w); `flow` (T-1,2,h,w);
    all float16; `label` (h,w) uint8 class indices of the last frame, the pixels nearest to the grid's, `ignore` where
    there is none; `name`. labels: a folder of label maps, VIDEO/FRAME.png or FRAME.png. Reading raises UserError.
    """

    frames: Any  # (clips,2)

    def __init__(
        self, videos: Sequence[TaughtVideo], interval: int, dataset: DatasetConfig, labels: Path | None = None
    ):
        self.videos, self.interval, self.ignore = videos, interval, dataset.ignore
        kept = [video.kept() for video in videos]
        self.rows = [rows for rows, _ in kept]  # of each video
        ends = [np.flatnonzero(before >= interval) for _, before in kept]
        # Ends of clips: video, index into its rows. Arrays, since videos may be long.
        self.frames = np.concatenate([np.stack([np.full(len(x), i), x], axis=1) for i, x in enumerate(ends)])
        self.labels = {} if labels is None else labels_of(labels, videos)
        self.reader = Reader(dataset, labels=[*self.labels.values()])

    def __getitem__(self, index: int) -> dict:
        number, end = self.frames[index]
        rows = self.rows[number][end - self.interval : end + 1]
        video, name = self.videos[number], self.videos[number].names[rows[-1]]
        arrays = {key: [torch.from_numpy(np.array(x[row])) for row in rows] for key, x in video.arrays.items()}
        grid = arrays["view"][0].shape[1:]
        label = torch.full(grid, self.ignore, dtype=torch.uint8)
        if (path := self.labels.get(name)) is not None:
            found = self.reader.label(path)  # (H,W)
            check_size(path, found.shape, Path(name), video.size)
            label = nearest(torch.from_numpy(found), (grid[0], grid[1]))
        return {
            "key": arrays["logits"][0], "teacher": arrays["logits"][-1], "views": torch.stack(arrays["view"]),
            "flow": torch.stack(arrays["flow"][1:]), "label": label, "name": name,
        }


def labels_of(folder: Path, videos: Sequence[TaughtVideo]) -> dict[str, Path]:
    """The label maps in a folder, by the names of their frames. Raises UserError where none belongs to a frame."""
    names = [name for video in videos for name in video.names]
    found = {name: path for name in names if (path := folder / f"{name}.png").is_file()}
    if len(videos) == 1:
        found |= {name: path for name in names if (path := folder / f"{Path(name).name}.png").is_file()}
    if not found:
        raise UserError(
            f"--label-path {folder}: no label map of a training frame; name them as {names[0]}.png" if names else
            f"--label-path {folder}: there are no training frames"
        )
    return found


def grid_crop(x: Tensor, top: int, left: int, size: tuple[int, int], flip: bool) -> Tensor:
    """The rectangle `size` (h,w) at (top, left) of x (...,h,w), flipped from left to right if `flip`."""
    x = x[..., top : top + size[0], left : left + size[1]]
    return x.flip(-1) if flip else x
