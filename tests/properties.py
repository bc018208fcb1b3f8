"""What the property tests share: sizes and contents drawn at random, and slow references in plain Python or float64."""
import math

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from config.schema import DatasetConfig

seeds = st.integers(0, 2**32 - 1)  # of contents, which shrink to seed 0; sizes and settings are drawn


def sizes(most: int, least: int = 1) -> st.SearchStrategy[tuple[int, int]]:
    """Height and width, each `least` .. `most`."""
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def datasets(draw) -> DatasetConfig:
    """1 to 250 classes, each with an id of its own and some with further ones; the rest of the 256 ids are no class."""
    classes = draw(st.integers(1, 6) | st.integers(1, DatasetConfig.ignore))
    ids = draw(st.permutations(range(256)))
    further = draw(st.integers(0, min(8, 256 - classes)))
    also = tuple((label_id, draw(st.integers(0, classes - 1))) for label_id in ids[classes : classes + further])
    names = tuple(f"class {c}" for c in range(classes))
    return DatasetConfig("random", names, tuple(ids[:classes]), ((0, 0, 0),) * classes, (1.0,) * classes, "", also=also)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_labels(rng: np.random.Generator, size: tuple[int, ...], classes: int, ignore: int | None = None) -> Tensor:
    """Class indices `size` uint8 without some of the classes; a few, half or nearly all are `ignore` if it is given."""
    present = rng.choice(classes, size=rng.integers(1, classes + 1), replace=False)
    labels = rng.choice(present, size=size)
    if ignore is not None:
        labels = np.where(rng.random(size) < rng.choice([0.1, 0.5, 0.97]), ignore, labels)
    return torch.from_numpy(labels.astype(np.uint8))


def aligned_positions(points: int, pixels: int) -> list[float]:
    """Where each of `pixels` lies among `points`, the first and the last on each other; a single pixel on the first."""
    return [i * (points - 1) / (pixels - 1) if pixels > 1 else 0.0 for i in range(pixels)]


def upsampled(x: Tensor, size: tuple[int, int]) -> np.ndarray:
    """x (...,h,w) resized to `size`, bilinear with corners aligned, in float64."""
    out = x.double().numpy()
    for axis, pixels in ((-2, size[0]), (-1, size[1])):
        lines = np.moveaxis(out, axis, 0)
        resized = []
        for position in aligned_positions(len(lines), pixels):
            low = math.floor(position)
            high = min(low + 1, len(lines) - 1)
            resized.append(lines[low] * (1 - (position - low)) + lines[high] * (position - low))
        out = np.moveaxis(np.stack(resized), 0, axis)
    return out
