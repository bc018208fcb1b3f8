"""Frames of a video; and those of files and of streams on the network, decoded by FFmpeg through PyAV."""
import itertools
import math
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from config.errors import UserError
from utils.logging import logger

RATES = 0.01, 1000.0  # frames a second that a video may have
USUAL_RATE = 30.0  # frames a second of sources without a rate
TIMEOUT = 10.0  # seconds that a stream may send nothing
MOMENT = 0.1  # seconds of a frame that --start may drop
BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each attempt to connect again
NETWORK = {"rtsp_transport": "tcp"}  # UDP loses packets, and many networks block it


class TimedImage(NamedTuple):
    """A frame (H,W,3) uint8 RGB, upright; when it is shown, in seconds from the first one; when it was there
    (`time.perf_counter`); and how long it is shown, in seconds, 0 if unknown."""

    image: np.ndarray
    time: float
    arrived: float
    duration: float = 0.0


@dataclass(frozen=True)
class Frames:
    """Frames to iterate over once: RGB (H,W,3) uint8 each.

    name: the source as the user calls it. timed: with their times. fps: frames a second, on average. size: (H,W) of the
    first frame. count: the number of frames, of a part about so many, None if unknown. files: the source files. names:
    one for each frame, or none. aspect: width of a pixel by its height. sound: the file or address that has it. live: a
    camera or a stream, whose frames come whether they are read or not. start: the first frame's time in the source,
    seconds.
    """

    name: str
    timed: Iterable[TimedImage]
    fps: float
    size: tuple[int, int]
    count: int | None = None
    files: tuple[Path, ...] = ()
    names: Sequence[str] = ()
    aspect: Fraction = Fraction(1)
    sound: Path | str | None = None
    live: bool = False
    start: float = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame.image for frame in self.timed)

    def title(self, number: int) -> str:
        """The name of frame `number`, without ending: the picture's, else frame_000000 and so on."""
        return self.names[number] if self.names else frame_title(number)

    @property
    def kept(self) -> dict[str, Any]:
        """What a `VideoFile` of these frames is told, so that it is like the source."""
        return {"aspect": self.aspect, "sound": self.sound, "start": self.start}

    def at_rate(self, fps: float) -> "Frames":
        """The same frames at another rate, without the sound, which would no longer fit."""
        timed = (x._replace(time=number / fps, duration=1 / fps) for number, x in enumerate(self.timed))
        return replace(self, timed=timed, fps=fps, sound=None)

    def part(self, start: float, end: float | None, stride: int) -> "Frames":
        """Every `stride`-th frame from `start` to before `end`, seconds. Of a frame that is shown for long, the part
        between them counts. Raises UserError where there is none, and for numbers that name no part."""
        if not start >= 0 or stride < 1 or stride % 1:
            raise UserError(f"start must be at least 0, not {start!r}; stride a whole number from 1 on, not {stride!r}")
        if not start and end is None and stride == 1:
            return self
        shown = _within(self.timed, start, math.inf if end is None else end)
        chosen = itertools.islice(shown, 0, None, stride) if self.live else _every(shown, stride)
        first = next(chosen, None)
        if first is None:
            raise UserError(f"{self.name}: has no frame in the part that --start and --end name; choose another part")
        timed = (x._replace(time=x.time - first.time) for x in itertools.chain([first], chosen))
        skipped = int(first.time * self.fps + 1e-3)
        names, at = self.names[skipped::stride], self.start + first.time
        last = min(self.count or math.inf, math.inf if end is None else end * self.fps)
        count = None if last == math.inf else -(-max(1, math.ceil(last) - skipped) // stride)
        return replace(self, timed=timed, fps=self.fps / stride, count=count, names=names, start=at)


def _within(timed: Iterable[TimedImage], start: float, end: float) -> Iterator[TimedImage]:
    """The frames between two times; one that is shown then, and longer than a MOMENT, begins or ends there."""
    for x in itertools.takewhile(lambda x: x.time < end, timed):
        last = x.time + x.duration
        if x.time >= start or last > start + MOMENT:
            at = max(x.time, start)
            yield x._replace(time=at, duration=max(0.0, min(last, end) - at))


def _every(timed: Iterator[TimedImage], stride: int) -> Iterator[TimedImage]:
    """Every `stride`-th frame, shown as long as it and those that are left out after it."""
    for first in timed:
        left_out = deque(itertools.islice(timed, stride - 1), maxlen=1)
        last = left_out[0] if left_out else first
        yield first._replace(duration=last.time - first.time + last.duration)


def frame_title(number: int) -> str:
    """The name of frame `number` where it has no other."""
    return f"frame_{number:06d}"


def check_decodable(path: Path) -> None:
    """Raise UserError for a name that is not UTF-8, which FFmpeg requires."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{str(path)!a}: its name is not UTF-8; rename it") from error


def plausible_rate(rate: float) -> float:
    """The rate, or the usual one where it is a mistake in the file."""
    return rate if RATES[0] <= rate <= RATES[1] else USUAL_RATE


def in_ffmpeg(path: Path) -> str:
    """A file's name for FFmpeg: with a protocol in front, since it takes the 12 of "12:30.mp4" for one."""
    return f"file:{path.absolute()}"


def open_stream(source: Path | str) -> Frames:
    """Open a video file, or a stream by its address, which is live without an announced end.

    All frames get the first one's size. Raises UserError where it holds no video that can be decoded.
    """
    path, (container, stream) = source if isinstance(source, Path) else None, _opened(source)
    live = path is None and not (stream.duration or container.duration)
    shown = _decoded(source, container, stream, live)
    first = next(shown, None)
    if first is None:
        raise UserError(f"{source}: no frame of the video can be read ({_amount(source)})")
    rate = plausible_rate(float(stream.average_rate or stream.guessed_rate or 0))
    origin, aspect = _time(first) or 0.0, Fraction(stream.sample_aspect_ratio or 1)
    seconds = _seconds(container, stream, origin)
    count = stream.frames or round((seconds or 0) * rate)
    frames = Frames(
        str(source), (), rate, _upright(first).shape[:2], None if live else count or None, (path,) if path else (),
        aspect=1 / aspect if _turned(first)[0] else aspect,
        sound=source if container.streams.audio and not live else None, live=live, start=origin,
    )
    shown = itertools.chain([first], shown)
    images = (_upright(frame, frames.size) for frame in shown)
    return replace(frames, timed=as_they_come(images) if live else _stored(frames, shown, seconds, stream.frames))


def as_they_come(images: Iterable[np.ndarray]) -> Iterator[TimedImage]:
    """The images, shown from when each arrives."""
    began = 0.0
    for image in images:
        arrived = time.perf_counter()
        began = began or arrived
        yield TimedImage(image, arrived - began, arrived)


def _opened(source: Path | str) -> tuple[Any, Any]:
    """Container and video stream. Raises UserError."""
    import av

    path = source if isinstance(source, Path) else None
    unreadable = UserError(f"{source}: cannot be read as a video ({_amount(source)}; damaged, cut off, or not a video)")
    how: dict[str, Any] = {} if path else {"options": NETWORK, "timeout": TIMEOUT}
    try:
        container = av.open(in_ffmpeg(path) if path else source, metadata_errors="replace", **how)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if path:
            raise unreadable from error
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{source}: cannot be opened ({reason}); check the address, and that it sends") from error
    container.flags &= ~av.container.Flags.gen_pts.value  # it takes times of AVI from the frames after them
    stream = next((x for x in container.streams.video if "attached_pic" not in str(x.disposition)), None)
    if stream is None or (stream.codec_context is not None and stream.codec_context.name == "ansi"):
        raise unreadable
    if stream.codec_context is None:
        fix = "convert it: ffmpeg -i IN -c:v libx264 OUT.mp4"
        raise UserError(f"{source}: its codec{_codec_of(container.name)} cannot be decoded; {fix}")
    stream.thread_type = "AUTO"
    return container, stream


def _codec_of(name: str) -> str:
    """What FFmpeg, which only logs it, calls a codec that it cannot decode."""
    import av.logging

    av.logging.set_level(av.logging.WARNING)
    with av.logging.Capture() as lines:
        av.open(name, timeout=TIMEOUT).close()
    av.logging.set_level(None)
    found = re.search(r"Video: ([^,]+),", "".join(line[2] for line in lines))
    return f", {found[1]}," if found else ""


def _amount(source: Path | str) -> str:
    return f"{source.stat().st_size} bytes" if isinstance(source, Path) else "a stream"


def _decoded(source: Path | str, container: Any, stream: Any, live: bool) -> Iterator[Any]:
    """PyAV's frames; of a live stream that breaks off also those after it, once it sends again."""
    number, waits, frames = 0, iter(BACK_OFF), _readable(container, stream)
    while True:
        for frame in frames:
            number, waits = number + 1, iter(BACK_OFF)
            yield frame
        container.close()
        if not live:
            return
        if (seconds := next(waits, None)) is None:
            logger.info("%s: stopped sending after %d frames", source, number)
            return
        logger.info("%s: broke off after %d frames; connecting again in %g s", source, number, seconds)
        time.sleep(seconds)
        with suppress(UserError):
            container, stream = _opened(source)
            frames = _readable(container, stream)


def _readable(container: Any, stream: Any) -> Iterator[Any]:
    """PyAV's frames, past those that are damaged, whose number is logged. Ends where the source does, or fails."""
    import av

    damaged = 0
    with suppress(av.error.FFmpegError, OSError):
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                damaged += 1
    if damaged:
        logger.info("%s: %d frames are damaged, and left out", container.name.removeprefix("file:"), damaged)


def _seconds(container: Any, stream: Any, origin: float) -> float | None:
    """The announced length of the pictures; sound may be longer."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska counts from 0, not from the first frame.
    if found := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3]) - origin
    return container.duration / 1e6 - origin if container.duration else None


def _time(frame: Any) -> float | None:
    """When a frame is shown, in seconds of its source; AVI has only times of decoding."""
    ticks = frame.dts if frame.pts is None else frame.pts
    return None if ticks is None else float(ticks * frame.time_base)


def _upright(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """A frame as RGB (H,W,3) uint8, turned and mirrored as its metadata says; scaled to `size` where it has another."""
    swapped, rows, columns = _turned(frame)
    shape = {} if size is None else dict(zip(("height", "width"), size[:: -1 if swapped else 1]))
    image = frame.to_ndarray(format="rgb24", **shape)
    return np.ascontiguousarray((image.swapaxes(0, 1) if swapped else image)[::rows, ::columns])


def _turned(frame: Any) -> tuple[bool, int, int]:
    """How a frame is to be shown: whether rows and columns change places; the steps, 1 or -1, in which the rows and
    columns that it then has are read."""
    found = next((x for x in frame.side_data if x.type.name == "DISPLAYMATRIX"), None)
    if found is None:
        return False, 1, 1
    a, b, _, c, d = np.frombuffer(found, np.int32)[:5]  # shown at x' = ax + cy, y' = bx + dy
    swapped = bool(abs(int(b)) > abs(int(a)))
    rows, columns = (b, c) if swapped else (d, a)
    return swapped, -1 if rows < 0 else 1, -1 if columns < 0 else 1


def _stored(frames: Frames, shown: Iterable[Any], seconds: float | None, announced: int) -> Iterator[TimedImage]:
    """A file's frames, with its times; where it tells none that is later than the last one's, by the rate. Each lasts
    until the next: what files tell of the others' lengths is that of their decoding. Logs where it ends before the
    announced seconds."""
    number, tick, duration, waiting = 0, 1 / frames.fps, 0.0, None
    at = -tick
    for frame in shown:
        found, last = _time(frame), at
        at = last + tick if found is None or found - frames.start <= last else found - frames.start
        duration = float((frame.duration or 0) * frame.time_base)
        if waiting is not None:
            yield waiting._replace(duration=at - waiting.time)
        waiting = TimedImage(_upright(frame, frames.size), at, time.perf_counter(), duration)
        number += 1
    if waiting is not None:
        yield waiting
    if seconds is not None and at + max(duration, tick) + 0.5 * tick < seconds - 1e-3:
        where = f"frames, at {at:.1f} of the {seconds:.1f} seconds"
        few = f"of the {announced} frames" if announced > number else where
        logger.info("%s: ends after %d %s that its header announces", frames.name, number, few)
