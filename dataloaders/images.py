"""Pictures and label maps from disk."""
import os
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from torchvision.io import ImageReadMode, decode_image, read_file

from config.dataset import DatasetConfig
from config.errors import UserError

cv2.setNumThreads(0)  # loader processes are the parallelism; OpenCV's own threads would only compete with them


TORCHVISION_READS = {".png", ".jpg", ".jpeg"}
PNG_PALETTE = 3  # colour type


def read_image(path: Path) -> np.ndarray:
    """Read a picture as RGB (H,W,3) uint8. Grey, palette, RGBA and 16-bit files are converted. Raises UserError."""
    picture = _decode(Path(path), ImageReadMode.RGB)
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    return picture


def read_ids(path: Path) -> np.ndarray:
    """Read a label file's ids as they stand, (H,W) uint8: one 8-bit channel, or palette indices. Raises UserError."""
    path = Path(path)
    depth, kind = _png_header(path)
    if kind == PNG_PALETTE and depth < 8:  # packed indices, which only Pillow unpacks
        try:
            with Image.open(path) as picture:
                return np.array(picture)
        except (OSError, ValueError) as error:
            raise _unreadable(path, _size(path)) from error
    if depth != 8:
        raise UserError(f"{path}: a label file has 8 bits a pixel, this PNG has {depth}; save it as an 8-bit one")
    ids = _decode(path, ImageReadMode.UNCHANGED)
    if ids.shape[2] != 1 or ids.dtype != np.uint8:
        raise UserError(
            f"{path}: a label file has one 8-bit channel of class ids, this one has {ids.shape[2]} of {ids.dtype}"
        )
    return ids[:, :, 0]


def label_table(dataset: DatasetConfig) -> np.ndarray:
    """Table (256,) uint8 from a label file's id to the class index, `ignore` for every id that is no class."""
    table = np.full(256, dataset.ignore, np.uint8)
    table[list(dataset.label_ids)] = np.arange(dataset.num_classes, dtype=np.uint8)
    for label_id, index in dataset.also:
        table[label_id] = index
    return table


def id_table(dataset: DatasetConfig) -> np.ndarray:
    """Table (256,) uint8 from the class index to the label file's id: the way back, for written predictions."""
    table = np.zeros(256, np.uint8)
    table[: dataset.num_classes] = dataset.label_ids
    return table


def _decode(path: Path, mode: ImageReadMode) -> np.ndarray:
    """(H,W,channels) of a picture file.

    torchvision's decoder takes what it knows: it is the quickest (docs/results.md).
    """
    size = _size(path)
    if path.suffix.lower() in TORCHVISION_READS:
        try:
            content = read_file(str(path))
            if _is_damaged_png(memoryview(content.numpy())):
                raise _unreadable(path, size)
            return decode_image(content, mode).permute(1, 2, 0).numpy()
        except RuntimeError as error:
            raise _unreadable(path, size) from error
    try:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR if mode == ImageReadMode.RGB else cv2.IMREAD_UNCHANGED)
    except cv2.error:
        picture = None
    if picture is None:
        raise _unreadable(path, size)
    return picture[..., ::-1].copy() if picture.ndim == 3 else picture[:, :, None]


def _is_damaged_png(content: memoryview) -> bool:
    """Whether a PNG's checksum is wrong, or its end missing. The decoder ends the whole process over a wrong byte in the
    pixels (torchvision 0.29), and a loader process that dies cannot say which file it was."""
    place, kind = 8, b""
    while content[:4] == b"\x89PNG" and kind != b"IEND":
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if zlib.crc32(content[place + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return True
        place, kind = end + 4, bytes(content[place + 4 : place + 8])
    return False


def _png_header(path: Path) -> tuple[int, int]:
    """Bits a channel and colour type of a PNG; (8, 0) for what is no PNG, whose decoder judges for itself."""
    _size(path)
    with open(path, "rb") as file:
        header = file.read(26)
    return (header[24], header[25]) if len(header) == 26 and header.startswith(b"\x89PNG") else (8, 0)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror})") from error


def _unreadable(path: Path, size: int) -> UserError:
    return UserError(f"{path}: not a readable picture ({size} bytes); restore the file from the data set")
