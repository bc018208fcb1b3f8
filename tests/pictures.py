"""Picture files of every kind for tests: valid, damaged and hostile."""
import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
_RAMP = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)).astype(np.uint8)  # smooth, for JPEG
COLOUR = _RAMP[..., None] * np.uint8([3, 2, 1])
IDS = (np.arange(HEIGHT * WIDTH) % 11).astype(np.uint8).reshape(HEIGHT, WIDTH)
ORIENTATION, QUARTER_TURN = 274, 6  # of EXIF


def encoded(picture: np.ndarray | Image.Image, kind: str = "PNG", **how) -> bytes:
    content = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(content, kind, **how)
    return content.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, rows: bytes, *, bits: int = 8, kind: int = 0, interlaced: int = 0,
    stream: bytes | None = None,
) -> bytes:
    """Return a PNG with valid checksums, whatever it contains. stream: instead of the compressed rows."""
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    pixels = chunk(b"IDAT", stream or zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def rows_of(picture: np.ndarray, filter_type: int = 0) -> bytes:
    return b"".join(bytes([filter_type]) + row.tobytes() for row in picture)


def interlaced(picture: np.ndarray) -> bytes:
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    return b"".join(rows_of(picture[top::down, left::right]) for top, left, down, right in passes)


def turned(picture: np.ndarray, kind: str) -> bytes:
    """Return a file whose EXIF data makes viewers rotate it."""
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    return encoded(picture, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {"quality": 95}))


def palette_picture(ids: np.ndarray) -> Image.Image:
    picture = Image.fromarray(ids)
    picture.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    return picture


def jpeg_of_size(width: int, height: int) -> bytes:
    """Return a small JPEG whose header claims this size."""
    content = bytearray(encoded(COLOUR, "JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


_DEEP = (COLOUR.astype(np.uint16) * 256).astype(">u2")
_IMAGE, _GREY = Image.fromarray(COLOUR), Image.fromarray(COLOUR[..., 0])
_ANIMATED = dict(save_all=True, append_images=[Image.fromarray(COLOUR[::-1].copy())])
# Valid frames and their pixels; None for lossy files.
FRAMES: dict[str, tuple[bytes, np.ndarray | None]] = {
    "PNG": (encoded(COLOUR), COLOUR),
    "grey PNG": (encoded(_GREY), COLOUR[..., :1].repeat(3, axis=2)),
    "grey PNG with alpha": (encoded(_GREY.convert("LA")), COLOUR[..., :1].repeat(3, axis=2)),
    "RGBA PNG": (encoded(_IMAGE.convert("RGBA")), COLOUR),
    "palette PNG": (encoded(_IMAGE.quantize(256)), np.array(_IMAGE.quantize(256).convert("RGB"))),
    "1-bit PNG": (encoded(IDS > 5), (IDS > 5)[..., None].repeat(3, axis=2).astype(np.uint8) * 255),
    "16-bit PNG": (png(WIDTH, HEIGHT, rows_of(_DEEP), bits=16, kind=2), COLOUR),
    "interlaced PNG": (png(WIDTH, HEIGHT, interlaced(COLOUR), kind=2, interlaced=1), COLOUR),
    "animated PNG": (encoded(_IMAGE, **_ANIMATED), COLOUR),
    "PNG with bytes behind its end": (encoded(COLOUR) + b"and more", COLOUR),
    "BMP": (encoded(COLOUR, "BMP"), COLOUR),
    "WebP": (encoded(COLOUR, "WEBP", lossless=True), COLOUR),
    "turned WebP": (turned(COLOUR, "WEBP"), COLOUR),
    "JPEG": (encoded(COLOUR, "JPEG", quality=95), None),
    "progressive JPEG": (encoded(COLOUR, "JPEG", quality=95, progressive=True), None),
    "CMYK JPEG": (encoded(_IMAGE.convert("CMYK"), "JPEG", quality=95), None),
    "turned JPEG": (turned(COLOUR, "JPEG"), None),
}
# Valid label files of the ids IDS.
LABELS: dict[str, bytes] = {
    "PNG": encoded(IDS),
    "interlaced PNG": png(WIDTH, HEIGHT, interlaced(IDS), interlaced=1),
    "palette PNG": encoded(palette_picture(IDS)),
    "PNG with a transparent grey": encoded(Image.fromarray(IDS), transparency=3),
    "animated PNG": encoded(Image.fromarray(IDS), save_all=True, append_images=[Image.fromarray(IDS[::-1].copy())]),
    "PNG with bytes behind its end": encoded(IDS) + b"and more",
    "BMP": encoded(IDS, "BMP"),
}
# Valid pictures that hold no ids.
NO_IDS: dict[str, bytes] = {
    "RGB PNG": encoded(COLOUR),
    "RGBA PNG": encoded(_IMAGE.convert("RGBA")),
    "16-bit PNG": png(WIDTH, HEIGHT, rows_of(IDS.astype(">u2")), bits=16),
    "1-bit PNG": encoded(IDS > 5),
    "JPEG": encoded(COLOUR, "JPEG"),
    "grey JPEG": encoded(IDS, "JPEG", quality=100),
    "CMYK JPEG": encoded(_IMAGE.convert("CMYK"), "JPEG"),
    "WebP": encoded(COLOUR, "WEBP", lossless=True),
}
GREY: dict[str, bytes] = {  # ids in channels that are equal
    "PNG with alpha": encoded(Image.fromarray(IDS).convert("LA")),
    "RGB PNG": encoded(Image.fromarray(IDS).convert("RGB")), "GIF": encoded(IDS, "GIF"),
}
_HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0))
# Files that are not pictures.
BROKEN: dict[str, bytes] = {
    "zero bytes": b"",
    "text": b"no picture\n" * 20,
    "a web page": b"<html>404 Not Found</html>",
    "PNG cut short": encoded(COLOUR)[:-60],
    "JPEG cut short": encoded(COLOUR, "JPEG")[:-60],
    "PNG without pixels": b"\x89PNG\r\n\x1a\n" + _HEADER + chunk(b"IEND", b""),
    "PNG of no width": png(0, HEIGHT, b""),
    "PNG of an impossible kind": png(WIDTH, HEIGHT, rows_of(IDS), bits=3, kind=2),
}
# Files with valid checksums whose pixels cannot be decoded: they crash decoders that trust the checksums.
HOSTILE: dict[str, bytes] = {
    "PNG with too few rows": png(WIDTH, HEIGHT, rows_of(IDS[:-5])),
    "PNG with an unknown filter": png(WIDTH, HEIGHT, rows_of(IDS, filter_type=9)),
    "PNG whose stream is noise": png(WIDTH, HEIGHT, b"", stream=b"\x78\x9c" + IDS.tobytes()),
}
# A few bytes whose header claims a huge picture.
BOMBS: dict[str, bytes] = {
    "PNG": png(65535, 65535, bytes(50), kind=2),
    "grey PNG": png(65535, 65535, bytes(50)),
    "palette PNG": png(65535, 65535, bytes(50), bits=4, kind=3),
    "PNG of the largest size": png(2**31 - 1, 2**31 - 1, bytes(50), kind=2),
    "JPEG": jpeg_of_size(65535, 65535),
}
