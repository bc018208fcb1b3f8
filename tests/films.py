"""Small videos and pictures for tests."""
from pathlib import Path

import cv2
import numpy as np

from inference.video_writer import VideoFile


def picture(number: int, size: tuple[int, int] = (16, 24)) -> np.ndarray:
    return np.full((*size, 3), (10 * number, 100, 200 - 10 * number), np.uint8)


def write_pictures(folder: Path, names: list[str], **how) -> None:
    """Write pictures numbered in the order of `names`."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture(number, **how)[..., ::-1])


def write_video(path: Path, count: int = 5, fps: float = 29.97, size: tuple[int, int] = (16, 24)) -> Path:
    with VideoFile(path, fps) as video:
        for i in range(count):
            video.write(picture(i, size))
    return path


def opened(path: Path) -> tuple[float, float, list[np.ndarray]]:
    """Return the frame rate and count in a video's header, and its frames, RGB."""
    reader, frames = cv2.VideoCapture(str(path)), []
    while True:
        good, frame = reader.read()
        if not good:
            return reader.get(cv2.CAP_PROP_FPS), reader.get(cv2.CAP_PROP_FRAME_COUNT), frames
        frames.append(frame[..., ::-1])
