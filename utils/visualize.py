"""Pictures of label maps."""
from pathlib import Path
from typing import Optional, Sequence

import cv2
import numpy as np

from config.errors import UserError


def colourise(label: np.ndarray, colours: Sequence[Sequence[int]]) -> np.ndarray:
    """Class indices (H,W) uint8 -> RGB (H,W,3) uint8; black where there is no class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table[label]


def overlay(image: np.ndarray, label: np.ndarray, colours: Sequence[Sequence[int]], strength: float = 0.55) -> np.ndarray:
    """Colours of `label` (H,W) laid over RGB `image` (H,W,3), both uint8; `strength` 0..1 of the colours."""
    paint = colourise(label, colours)
    mixed = image * (1 - strength) + paint * strength
    return np.where(paint.any(axis=2, keepdims=True), mixed, image).astype(np.uint8)


def with_caption(image: np.ndarray, text: str) -> np.ndarray:
    """RGB (H,W,3) -> the same with a strip of text above it, (H+24,W,3)."""
    strip = np.full((24, image.shape[1], 3), 24, np.uint8)
    cv2.putText(strip, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA)
    return np.vstack([strip, image])


def grid(panels: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of equally large RGB pictures -> one picture."""
    return np.vstack([np.hstack(list(row)) for row in panels])


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write RGB (H,W,3) or one-channel (H,W) uint8 as the file type of `path`. Raises UserError if it cannot."""
    data = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        _, encoded = cv2.imencode(path.suffix, data)
    except cv2.error as error:
        kind = path.suffix or "a file without ending"
        raise UserError(f"{path}: pictures cannot be written as {kind}; use .png") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded.tofile(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


class VideoFile:
    """A video being written frame by frame, MPEG-4 in .mp4: RGB (H,W,3) uint8 frames of one size."""

    def __init__(self, path: Path, fps: float):
        self.path, self.fps = path, fps
        self._writer: Optional[cv2.VideoWriter] = None

    def write(self, frame: np.ndarray) -> None:
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), code, self.fps, (frame.shape[1], frame.shape[0]))
            if not self._writer.isOpened():
                raise UserError(f"{self.path}: cannot be written as a video; check the folder and use .mp4")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_) -> None:
        if self._writer is not None:
            self._writer.release()
