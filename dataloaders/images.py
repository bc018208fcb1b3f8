"""Read pictures and label maps from disk."""
import io
import os
import stat
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image
from torchvision.io import ImageReadMode, decode_image

from config.errors import UserError
from config.schema import DatasetConfig

cv2.setNumThreads(0)  # loader processes run in parallel; OpenCV's own threads would only compete with them
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # first bytes of their files
PNG_PALETTE = 3  # colour type
MOST_PIXELS = 2**27  # of a picture, 16384 x 8192; a header can claim far more, and a decoder would allocate it


def read_image(path: Path) -> np.ndarray:
    """Read a picture as RGB (H,W,3) uint8. Raises UserError where it is unreadable.

    Grey, palette, RGBA, CMYK and 16-bit files are converted; an EXIF rotation is ignored.
    """
    path = Path(path)
    content = content_of(path)
    if content.startswith(JPEG):
        try:
            encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            picture = decode_image(encoded, ImageReadMode.RGB)  # (3,H,W)
        except RuntimeError as error:
            raise _unreadable(path, content) from error
        return picture.permute(1, 2, 0).numpy()
    return cv2.cvtColor(decode(path, content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB)


def read_ids(path: Path) -> np.ndarray:
    """Read a label file's ids, (H,W) uint8: one 8-bit channel, or palette indices.

    Raises UserError where it is unreadable or holds no ids.
    """
    path = Path(path)
    content = content_of(path)
    if content.startswith(JPEG):
        raise UserError(f"{path}: this label is a JPEG, whose compression changes ids; export the labels again as PNG")
    depth, kind = (content[24], content[25]) if content.startswith(PNG) else (8, 0)
    if kind == PNG_PALETTE:
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:  # only Pillow returns the indices
                return np.array(picture)
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(path, content) from error
    if depth != 8:
        raise UserError(f"{path}: this label is a PNG of {depth} bits a channel; save it with 8 bits")
    ids = decode(path, content, cv2.IMREAD_UNCHANGED)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        channels = ids.shape[2] if ids.ndim == 3 else 1
        raise UserError(
            f"{path}: a label must have one 8-bit channel of class ids, this one has {channels} of {ids.dtype}; use "
            "the label files that hold ids, not colours"
        )
    return ids


def turned_by_exif(content: bytes) -> bool:
    """Return whether the EXIF data in the bytes of a picture's file make viewers rotate or mirror it."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as picture:
            return picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # of many types; damaged EXIF data rotates nothing
        return False


def label_table(dataset: DatasetConfig) -> np.ndarray:
    """Return a table (256,) uint8 from a label file's id to the class index; `ignore` for ids without a class."""
    table = np.full(256, dataset.ignore, np.uint8)
    table[list(dataset.label_ids)] = np.arange(dataset.num_classes, dtype=np.uint8)
    for label_id, index in dataset.also:
        table[label_id] = index
    return table


def id_table(dataset: DatasetConfig) -> np.ndarray:
    """Return a table (256,) uint8 from the class index to the label file's id, for written predictions."""
    table = np.zeros(256, np.uint8)
    table[: dataset.num_classes] = dataset.label_ids
    return table


def content_of(path: Path) -> bytes:
    """Return all bytes of a picture's file.

    Raises UserError where it cannot be read, a PNG has a wrong checksum or no end, or the header claims a huge picture.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would block
            raise UserError(f"{path}: a folder or a device, not a picture; remove or rename it")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); restore the file or its permissions") from error
    if content.startswith(PNG[:4]) and _is_damaged_png(memoryview(content)):
        raise _unreadable(path, content)
    width, height = _size_by_header(content)
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path}: {width} x {height} pixels by its header, in {len(content)} bytes; at most {MOST_PIXELS} are "
            "read; restore the file, or make it smaller"
        )
    return content


def decode(path: Path, content: bytes, flags: int) -> np.ndarray:
    """Decode the bytes of a file other than a JPEG with OpenCV's `flags`: (H,W) or (H,W,channels), BGR.

    For a damaged PNG, OpenCV returns nothing where torchvision (0.29) ends the whole process, which then cannot name
    the file. Raises UserError where the picture is unreadable.
    """
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None:
        raise _unreadable(path, content)
    return picture


def _is_damaged_png(content: memoryview) -> bool:
    """Return whether a checksum of a PNG is wrong, or its end missing. Decoders accept some of such files."""
    place, kind = 8, b""
    while kind != b"IEND":
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if zlib.crc32(content[place + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return True
        place, kind = end + 4, bytes(content[place + 4 : place + 8])
    return content[:8] != PNG or content[12:16] != b"IHDR"


def _size_by_header(content: bytes) -> tuple[int, int]:
    """Return width and height in the header of a PNG or JPEG; 0, 0 for other files, whose size OpenCV limits."""
    if content.startswith(PNG):
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    place = 2
    while content.startswith(JPEG) and place + 9 <= len(content):
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker & 0xF0 == 0xC0 and marker not in (0xC4, 0xC8, 0xCC):  # a frame's header
            height, width = (int.from_bytes(content[place + i : place + i + 2], "big") for i in (5, 7))
            return width, height
        # Bytes 0xFF may pad the space before a marker; some markers have no length.
        place += 1 if marker == 0xFF else 2 if marker in (0x01, *range(0xD0, 0xDA)) else 2 + length
    return 0, 0


def _unreadable(path: Path, content: bytes) -> UserError:
    return UserError(f"{path}: not a readable picture ({len(content)} bytes); restore the file from the data set")
