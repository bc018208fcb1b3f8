"""Pictures and label maps from disk."""
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

cv2.setNumThreads(0)  # loader processes are the parallelism; OpenCV's own threads would only compete with them


PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # how their files begin
PNG_PALETTE = 3  # colour type
MOST_PIXELS = 2**27  # of a picture, 16384 x 8192; a few bytes can claim to be far more, and a decoder would make room for it


def read_image(path: Path) -> np.ndarray:
    """Read a picture as RGB (H,W,3) uint8. Grey, palette, RGBA, CMYK and 16-bit files are converted; EXIF data, which may ask
    viewers to turn a picture, are not looked at. Raises UserError."""
    path = Path(path)
    content = content_of(path)
    if content.startswith(JPEG):
        try:
            picture = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)  # (3,H,W)
        except RuntimeError as error:
            raise _unreadable(path, content) from error
        return picture.permute(1, 2, 0).numpy()
    return cv2.cvtColor(decode(path, content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB)


def read_ids(path: Path) -> np.ndarray:
    """Read a label file's ids as they stand, (H,W) uint8: one 8-bit channel, or palette indices. Raises UserError."""
    path = Path(path)
    content = content_of(path)
    if content.startswith(JPEG):
        raise UserError(f"{path}: a label file is a PNG, this one is a JPEG, whose compression changes ids; write the labels anew as PNG")
    depth, kind = (content[24], content[25]) if content.startswith(PNG) else (8, 0)
    if kind == PNG_PALETTE:  # only Pillow gives the indices
        return _palette_indices(path, content)
    if depth != 8:
        raise UserError(f"{path}: a label file has 8 bits a pixel, this PNG has {depth}; save it as an 8-bit one")
    ids = decode(path, content, cv2.IMREAD_UNCHANGED)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise UserError(
            f"{path}: a label file has one 8-bit channel of class ids, this one has {ids.shape[2] if ids.ndim == 3 else 1} of "
            f"{ids.dtype}; take the label files that hold ids, not colours"
        )
    return ids


def turned(content: bytes) -> bool:
    """Whether the EXIF data of a picture's file ask viewers to show it turned or mirrored."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as picture:
            return picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # of many kinds; damaged EXIF data turn nothing
        return False


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


def content_of(path: Path) -> bytes:
    """All bytes of a picture's file. Raises UserError where it cannot be read, a PNG's checksum is wrong or its end missing,
    or the picture claims to be huge."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise UserError(f"{path}: a folder or a device, not a picture; remove it, or give it another name")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); restore the file, or its permissions") from error
    if content.startswith(PNG[:4]) and _is_damaged_png(memoryview(content)):
        raise _unreadable(path, content)
    width, height = _size_by_header(content)
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path}: {width} x {height} pixels by its header, in {len(content)} bytes; at most {MOST_PIXELS} are read; restore the "
            "file, or make it smaller"
        )
    return content


def decode(path: Path, content: bytes, flags: int) -> np.ndarray:
    """What content_of(path) gave, not of a JPEG, as (H,W) or (H,W,channels), BGR, as OpenCV's `flags` have it.

    OpenCV answers a PNG whose pixels are wrong with nothing, where torchvision (0.29) ends the whole process; a loader process
    that dies cannot say which file it was. Raises UserError.
    """
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None:
        raise _unreadable(path, content)
    return picture


def _palette_indices(path: Path, content: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            return np.array(picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise _unreadable(path, content) from error


def _is_damaged_png(content: memoryview) -> bool:
    """Whether a PNG's checksum is wrong, or its end missing. Decoders take some wrong bytes for right ones."""
    place, kind = 8, b""
    while kind != b"IEND":
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if zlib.crc32(content[place + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return True
        place, kind = end + 4, bytes(content[place + 4 : place + 8])
    return content[:8] != PNG or content[12:16] != b"IHDR"


def _size_by_header(content: bytes) -> tuple[int, int]:
    """Width and height that a PNG or JPEG claims to have; 0, 0 of other files, for which OpenCV has a limit of its own."""
    if content.startswith(PNG):
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    place = 2
    while content.startswith(JPEG) and place + 9 <= len(content):
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker & 0xF0 == 0xC0 and marker not in (0xC4, 0xC8, 0xCC):  # a frame's header
            return int.from_bytes(content[place + 7 : place + 9], "big"), int.from_bytes(content[place + 5 : place + 7], "big")
        # Bytes 0xFF may fill the room before a marker; some markers have no length.
        place += 1 if marker == 0xFF else 2 if marker in (0x01, *range(0xD0, 0xDA)) else 2 + length
    return 0, 0


def _unreadable(path: Path, content: bytes) -> UserError:
    return UserError(f"{path}: not a readable picture ({len(content)} bytes); restore the file from the data set")
