"""Pictures of label maps."""
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from config.errors import UserError
from utils.files import write_bytes


def colourise(label: np.ndarray, colours: Sequence[Sequence[int]]) -> np.ndarray:
    """Class indices (H,W) uint8 -> RGB (H,W,3) uint8; black where the index is not a class."""
    return cv2.applyColorMap(label, _table(colours)[:, None])


def overlay(
    image: np.ndarray, label: np.ndarray, colours: Sequence[Sequence[int]], strength: float = 0.55
) -> np.ndarray:
    """Colours of `label` (H,W) laid over RGB `image` (H,W,3), both uint8; `strength` 0..1 of the colours. Where the
    colour is black, the image stays as it is."""
    mixed = cv2.addWeighted(image, 1 - strength, colourise(label, colours), strength, 0)
    unpainted = np.asarray(~_table(colours).any(axis=1), np.uint8)  # (256,)
    if not unpainted[: int(label.max()) + 1].any():
        return mixed
    return cv2.copyTo(image, cv2.LUT(label, unpainted), mixed)


def _table(colours: Sequence[Sequence[int]]) -> np.ndarray:
    """(256,3) uint8: the colour of every class index, black for the others."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table


def with_caption(image: np.ndarray, text: str) -> np.ndarray:
    """RGB (H,W,3) -> the same with a strip of text above it, (H+24,W,3)."""
    strip = np.full((24, image.shape[1], 3), 24, np.uint8)
    cv2.putText(strip, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA)
    return np.vstack([strip, image])


def legend(classes: Sequence[str], colours: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Colours and names of the classes as an RGB strip, (H,width,3)."""
    cell = 34 + max(cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0] for name in classes)
    columns = max(1, width // cell)
    strip = np.full((22 * math.ceil(len(classes) / columns) + 6, width, 3), 24, np.uint8)
    for c, (name, colour) in enumerate(zip(classes, colours)):
        x, y = c % columns * cell + 6, c // columns * 22 + 6
        cv2.rectangle(strip, (x, y), (x + 16, y + 14), colour, cv2.FILLED)
        cv2.putText(strip, name, (x + 22, y + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA)
    return strip


def grid(panels: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of equally large RGB pictures -> one picture."""
    return np.vstack([np.hstack(list(row)) for row in panels])


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write RGB (H,W,3) or grey (H,W) uint8 as the file type of `path`, whole or not at all. Raises UserError."""
    data = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        _, encoded = cv2.imencode(path.suffix, data)
    except cv2.error as error:
        kind = path.suffix or "a file without ending"
        raise UserError(f"{path}: pictures cannot be written as {kind}; use .png") from error
    write_bytes(path, encoded.tobytes())
