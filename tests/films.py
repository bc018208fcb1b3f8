"""Small videos and pictures for tests."""
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
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


def write_video(path: Path, count: int = 5, fps: float = 29.97, size: tuple[int, int] = (16, 24), **how) -> Path:
    with VideoFile(path, fps, **how) as video:
        for i in range(count):
            video.write(picture(i, size))
    return path


SOUND = 48_000  # samples a second


def encoded(
    path: Path, frames: Iterable[np.ndarray], *, codec: str = "libx264", pixels: str = "yuv420p", times=None,
    aspect: Fraction = Fraction(1), turned: int = 0, sound: str = "", click: float = 0.0, seconds: float = 2.0,
    origin: float = 0.0,
) -> Path:
    """Write frames with PyAV alone, at 30 a second or `times`; with a sound that is silent but for a click."""
    frames, ticks = [*frames], 30 if path.suffix == ".avi" else 30_000
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=30)
        (video.height, video.width), video.pix_fmt = frames[0].shape[:2], pixels
        video.sample_aspect_ratio, video.codec_context.time_base = aspect, Fraction(1, ticks)
        if turned:
            video.set_display_rotation(turned)
        if sound:
            track = container.add_stream(sound, rate=SOUND, layout="mono")
            samples = np.zeros(round(seconds * SOUND), np.float32)
            samples[round(click * SOUND) :][:48] = 0.9
            planar = track.format.name != "s16"
            samples = samples[None] if planar else (samples[None] * 32767).astype(np.int16)
            heard = av.AudioFrame.from_ndarray(samples, format="fltp" if planar else "s16", layout="mono")
            heard.sample_rate, heard.time_base, heard.pts = SOUND, Fraction(1, SOUND), round(origin * SOUND)
            container.mux([*track.encode(heard), *track.encode(None)])
        for number, frame in enumerate(frames):
            shown = av.VideoFrame.from_ndarray(frame, format="rgb24")
            shown.time_base = Fraction(1, ticks)
            shown.pts = round(ticks * (origin + (number / 30 if times is None else times[number])))
            container.mux(video.encode(shown))
        container.mux(video.encode(None))
    return path


def shown_at(path: Path) -> list[float]:
    """When the frames of a video are shown, in seconds of the file; AVI has only times of decoding."""
    with av.open(str(path)) as container:
        container.flags &= ~av.container.Flags.gen_pts.value
        frames = [*container.decode(video=0)]
    return [float((frame.dts if frame.pts is None else frame.pts) * frame.time_base) for frame in frames]


def times_of(path: Path) -> list[float]:
    """When the frames of a video are shown, in seconds from the first one."""
    times = shown_at(path)
    return [time - times[0] for time in times]


def heard_at(path: Path) -> float:
    """When the click of a video is heard, in seconds from its first frame."""
    began = shown_at(path)[0]
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.sample_rate, frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
    _, time = max((np.abs(x).max() / (1 if x.dtype.kind == "f" else 32767), at + np.abs(x).argmax() / rate)
                  for at, rate, x in frames)
    return time - began


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """The size of a video of H.264 or H.265, whose sides are even."""
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def opened(path: Path) -> tuple[float, float, list[np.ndarray]]:
    """Return the frame rate and count in a video's header, and its frames, RGB."""
    reader, frames = cv2.VideoCapture(str(path)), []
    while True:
        good, frame = reader.read()
        if not good:
            return reader.get(cv2.CAP_PROP_FPS), reader.get(cv2.CAP_PROP_FRAME_COUNT), frames
        frames.append(frame[..., ::-1])
