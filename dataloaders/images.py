"""Read pictures and label maps from disk."""
import contextlib
import io
import os
import stat
import warnings
import zlib
from collections.abc import Mapping, Sequence
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
TIFF = (b"II*\0", b"MM\0*")
PNG_PALETTE, PNG_COLOURS = 3, (2, 6)  # colour types
MOST_PIXELS = 2**27  # of a picture, 16384 x 8192; a header can claim far more, and a decoder would allocate it


def read_image(path: Path, *, bits: int = 0) -> np.ndarray:
    """Read a picture as RGB (H,W,3) uint8. Raises UserError where it is unreadable.

    Grey, palette, RGBA, CMYK and 16-bit files are converted; an EXIF rotation is ignored. bits: of the values in a
    16-bit file, 0 for all 16.
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
    kind = decode(path, content, cv2.IMREAD_UNCHANGED).dtype if content.startswith(TIFF) else np.dtype(np.uint8)
    if kind not in (np.uint8, np.uint16):
        raise UserError(f"{path}: its pixels are {kind}; save frames with 8 or 16 bits a channel")
    deep = cv2.IMREAD_ANYDEPTH if bits else 0
    picture = decode(path, content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION | deep)  # (H,W,3)
    if picture.dtype == np.uint16:
        picture = np.minimum(picture >> bits - 8, 255).astype(np.uint8)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def bits_of(path: Path) -> int:
    """Return how many bits the largest value in a picture's 16-bit file has; 0 for 8-bit files. Raises UserError."""
    content = content_of(path)
    if content.startswith(JPEG) or (content.startswith(PNG) and content[24] != 16):
        return 0
    picture = decode(path, content, cv2.IMREAD_UNCHANGED)
    return int(picture.max()).bit_length() if picture.dtype == np.uint16 else 0


def check_bits(paths: Sequence[Path], bits: int, *, least: int = 16) -> bool:
    """Return whether `bits` are those of pictures in 16-bit files; unreadable ones are reported when they are needed.

    Raises UserError where the largest value has more bits, or, with bits 0, fewer than `least`: they would be dark.
    """
    most = 0
    for path in paths:
        with contextlib.suppress(UserError):
            most = max(most, bits_of(path))
    if bits and most > bits:
        raise UserError(f"{paths[0]}: bits: {bits} in the description, but values of such pictures have {most} bits")
    if not bits and 0 < most < least:
        raise UserError(
            f"{paths[0]}: pictures of 16 bits, whose values have {most} bits in the first {len(paths)} files and would "
            f"be dark; write bits: {most} into the description of a custom data set, or convert them"
        )
    return bool(bits and most)


def read_ids(path: Path, *, colours: Mapping[int, int] | None = None, unknown: int = 255) -> np.ndarray:
    """Read a label file's ids, (H,W) uint8: one 8-bit channel, palette indices, three equal channels, or colours.

    colours: ids by 0xRRGGBB, where files of three channels hold colours; any other colour becomes the id `unknown`.
    Raises UserError where the file is unreadable or holds no ids.
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
    if ids.ndim == 2 and ids.dtype == np.uint8:
        return ids
    if ids.ndim == 3 and ids.dtype == np.uint8 and ids.shape[2] >= 3:
        if not colours and (ids[..., :1] == ids[..., 1:3]).all():
            return np.ascontiguousarray(ids[..., 0])
        if colours:
            known = np.array(sorted(colours))
            packed = _packed(ids)  # (H,W)
            place = np.searchsorted(known, packed).clip(max=len(known) - 1)
            table = np.array([colours[colour] for colour in known], np.uint8)
            return np.where(known[place] == packed, table[place], np.uint8(unknown))
    channels = ids.shape[2] if ids.ndim == 3 else 1
    raise UserError(
        f"{path}: a label must have one 8-bit channel of class ids, this one has {channels} of {ids.dtype}; give the "
        "classes of a custom data set their colours, or use the label files that hold ids, not colours"
    )


def colour_counts(path: Path) -> dict[int, int]:
    """Return the pixels of each colour 0xRRGGBB in a label file of three or four channels; none of another file."""
    content = content_of(path)
    if content.startswith(PNG) and content[25] not in PNG_COLOURS:
        return {}
    picture = decode(path, content, cv2.IMREAD_UNCHANGED)
    if picture.ndim != 3 or picture.shape[2] < 3:
        return {}
    colours, counts = np.unique(_packed(picture), return_counts=True)
    return dict(zip(colours.tolist(), counts.tolist()))


def _packed(picture: np.ndarray) -> np.ndarray:
    """BGR (H,W,3 or 4) uint8 -> 0xRRGGBB (H,W) int64."""
    return picture[..., :3].astype(np.int64) @ np.array([1, 1 << 8, 1 << 16])


def exif_orientation(content: bytes) -> int:
    """Return how the EXIF data in the bytes of a picture's file make viewers rotate or mirror it: 1 (not at all)..8."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as picture:
            found = picture.getexif().get(ExifTags.Base.Orientation, 1)
            return found if found in range(1, 9) else 1
    except Exception:  # of many types; damaged EXIF data rotates nothing
        return 1


def read_upright(path: Path, *, bits: int = 0) -> np.ndarray:
    """Read a picture as `read_image`, but rotated by its EXIF data, as viewers show it. Raises UserError."""
    picture, orientation = read_image(path, bits=bits), exif_orientation(content_of(path))
    if orientation > 4:  # 5 to 8 are 1 to 4 after rows and columns have changed places
        picture, orientation = picture.transpose(1, 0, 2), orientation - 4
    down, across = (-1 if orientation in turned else 1 for turned in ((3, 4), (2, 3)))
    return np.ascontiguousarray(picture[::down, ::across])


def label_table(dataset: DatasetConfig) -> np.ndarray:
    """Return a table (256,) uint8 from a label file's id to the class index; `ignore` for ids without a class."""
    table = np.full(256, dataset.ignore, np.uint8)
    table[list(dataset.class_of)] = list(dataset.class_of.values())
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
