"""Pictures and label maps from disk."""
from pathlib import Path

import cv2
import numpy as np

from config.dataset import DatasetConfig
from config.errors import UserError

cv2.setNumThreads(0)  # loader processes are the parallelism; OpenCV's own threads would only compete with them


def read_image(path: Path) -> np.ndarray:
    """Read a picture as RGB (H,W,3) uint8. Grey, palette, RGBA and 16-bit files are converted. Raises UserError."""
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_ids(path: Path) -> np.ndarray:
    """Read a label file's ids as they stand, (H,W) uint8. Raises UserError for anything but one 8-bit channel."""
    ids = _decode(path, cv2.IMREAD_UNCHANGED)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise UserError(f"{path}: a label file has one 8-bit channel of class ids, this one is {ids.shape} {ids.dtype}")
    return ids


def label_table(dataset: DatasetConfig) -> np.ndarray:
    """Table (256,) uint8 from a label file's id to the class index, `ignore` for every id that is no class."""
    table = np.full(256, dataset.ignore, np.uint8)
    table[list(dataset.label_ids)] = np.arange(dataset.num_classes, dtype=np.uint8)
    return table


def id_table(dataset: DatasetConfig) -> np.ndarray:
    """Table (256,) uint8 from the class index to the label file's id: the way back, for written predictions."""
    table = np.zeros(256, np.uint8)
    table[: dataset.num_classes] = dataset.label_ids
    return table


def _decode(path: Path, mode: int) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror})") from error
    picture = cv2.imdecode(data, mode) if data.size else None
    if picture is None:
        raise UserError(f"{path}: not a readable picture ({data.size} bytes); restore the file from the data set")
    return picture
