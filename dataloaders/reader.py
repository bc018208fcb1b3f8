"""Frames and labels of one data set from their files, or from the cache of decoded ones."""
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np

from config.errors import UserError
from config.schema import DatasetConfig
from dataloaders.cache import PictureCache
from dataloaders.images import colour_counts, label_table, read_ids, read_image

FEW = 20  # labels that tell whether a split's labels hold colours


class Reader:
    """Reads the files of a data set as its description says: bits of its frames, ids or colours of its labels.

    labels: the split's, by which all of them are known to hold ids or colours. Everything raises UserError where a file
    is unreadable, or the cache cannot be used.
    """

    def __init__(self, dataset: DatasetConfig, cache: PictureCache | None = None, *, labels: Sequence[Path] = ()):
        self.dataset, self.cache, self.labels, self.table = dataset, cache, labels[:FEW], label_table(dataset)
        self.decode_frame = partial(read_image, bits=dataset.bits)

    @cached_property
    def coloured(self) -> bool:
        """Whether labels of three channels hold colours: one of them is not grey, or all grey values are described."""
        known, seen = self.dataset.colour_ids, set[int]()
        for path in self.labels if known else ():
            try:
                seen.update(colour_counts(path))
            except UserError:
                continue
            if any(x >> 16 != x & 255 or x >> 16 != x >> 8 & 255 for x in seen):
                return True
        return bool(seen) and seen <= {*known}

    @cached_property
    def decode_ids(self) -> partial[np.ndarray]:
        colours = self.dataset.colour_ids if self.coloured else None
        return partial(read_ids, colours=colours, unknown=self.dataset.unknown_id)

    def frame(self, path: Path) -> np.ndarray:
        """A frame, RGB (H,W,3) uint8."""
        if self.cache is None:
            return self.decode_frame(path)
        return self.cache.read(path, self.decode_frame, f"{self.dataset.bits} bits" if self.dataset.bits else "")

    def ids(self, path: Path) -> np.ndarray:
        """A label's ids, (H,W) uint8; of a colour that no class has, the data set's `unknown_id`."""
        if self.cache is None:
            return self.decode_ids(path)
        return self.cache.read(path, self.decode_ids, str(self.dataset.label_colours) if self.coloured else "")

    def label(self, path: Path) -> np.ndarray:
        """A label's class indices, (H,W) uint8; `ignore` where it has no class."""
        return cv2.LUT(self.ids(path), self.table)
