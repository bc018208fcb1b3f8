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


def panning(steps: list[int], seed: int = 0, size: tuple[int, int] = (128, 192)) -> list[np.ndarray]:
    """Frames of a camera that moves along a smooth random picture: `steps` pixels from each frame to the next."""
    rng, (height, width) = np.random.default_rng(seed), (size[0], size[1] + sum(steps))
    world = np.full((height, width, 3), 120, np.float32)
    for cell, contrast in ((24, 35), (12, 15)):
        coarse = rng.standard_normal((height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        world += contrast * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    starts = np.cumsum([0, *steps])
    return [np.ascontiguousarray(world[:, x : x + size[1]].clip(0, 255).astype(np.uint8)) for x in starts]


def write_frames(folder: Path, frames: list[np.ndarray]) -> Path:
    """Write frames (H,W,3) RGB as numbered pictures. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:03}.png"), frame[..., ::-1])
    return folder


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
