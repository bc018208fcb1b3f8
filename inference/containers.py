"""Video files and streams on the network, decoded by FFmpeg through PyAV."""
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from config.errors import UserError
from utils.logging import logger

RATES = 0.01, 1000.0  # frames a second that a video may have
USUAL_RATE = 30.0  # frames a second of sources without a rate
TIMEOUT = 10.0  # seconds that a stream may send nothing
BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each attempt to connect again
NETWORK = {"rtsp_transport": "tcp"}  # UDP loses packets, and many networks block it


class TimedImage(NamedTuple):
    """A frame (H,W,3) uint8 RGB, upright; when it is shown, in seconds from the first one; and when it was there
    (`time.perf_counter`)."""

    image: np.ndarray
    time: float
    arrived: float


@dataclass(frozen=True)
class Opened:
    """A video that has been opened, and its frames, all of the first one's size (H,W). aspect: width of a pixel by its
    height. count: announced number of frames. live: it has no announced end."""

    frames: Iterator[TimedImage]
    fps: float
    size: tuple[int, int]
    count: int | None
    aspect: Fraction
    has_sound: bool
    live: bool
    origin: float  # the first frame's time in the source, seconds


def check_decodable(path: Path) -> None:
    """Raise UserError for a name that is not UTF-8, which FFmpeg requires."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{str(path)!a}: its name is not UTF-8; rename it") from error


def plausible_rate(rate: float) -> float:
    """The rate, or the usual one where it is a mistake in the file."""
    return rate if RATES[0] <= rate <= RATES[1] else USUAL_RATE


def open_stream(source: Path | str) -> Opened:
    """Open a video file, or a stream by its address. Raises UserError where it holds no video that can be decoded."""
    container, stream = _opened(source)
    frames = _decoded(container, stream)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{source}: no frame of the video can be read{_bytes(source)}")
    size = _upright(first).shape[:2]
    rate = plausible_rate(float(stream.average_rate or stream.guessed_rate or 0))
    seconds = _seconds(container, stream, first.time or 0.0)
    live = isinstance(source, str) and seconds is None
    count = stream.frames or (round(seconds * rate) if seconds else 0)
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    turned = round(first.rotation / 90) % 2
    reader = _Reader(source, container, stream, size, rate, seconds, live)
    return Opened(
        reader.frames(first, frames), rate, size, None if live else count or None, 1 / aspect if turned else aspect,
        bool(container.streams.audio), live, first.time or 0.0,
    )


def _opened(source: Path | str) -> tuple[Any, Any]:
    """Container and video stream. Raises UserError."""
    import av

    unreadable = UserError(f"{source}: cannot be read as a video{_bytes(source, 'damaged, or not a video')}")
    try:
        if isinstance(source, Path):
            # A protocol in front: FFmpeg takes the 12 of "12:30.mp4" for one.
            container = av.open(f"file:{source.absolute()}", metadata_errors="replace")
        else:
            container = av.open(source, options=NETWORK, timeout=TIMEOUT, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(source, Path):
            raise unreadable from error
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{source}: cannot be opened ({reason}); check the address, and that it sends") from error
    stream = next((x for x in container.streams.video if "attached_pic" not in str(x.disposition)), None)
    if stream is None or (stream.codec_context is not None and stream.codec_context.name == "ansi"):
        raise unreadable
    if stream.codec_context is None:
        raise UserError(
            f"{source}: its codec{_codec_of(container.name)} cannot be decoded; convert it: ffmpeg -i IN -c:v libx264 "
            "OUT.mp4"
        )
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


def _bytes(source: Path | str, why: str = "") -> str:
    size = [f"{source.stat().st_size} bytes"] if isinstance(source, Path) else []
    inside = "; ".join([*size, *([why] if why else [])])
    return f" ({inside})" if inside else ""


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """PyAV's frames, past those that are damaged. Ends where the source does, or fails."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError, OSError):
            return
        try:
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            continue


def _seconds(container: Any, stream: Any, origin: float) -> float | None:
    """The announced length of the pictures; sound may be longer."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska counts from 0, not from the first frame.
    if found := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3]) - origin
    return container.duration / 1e6 - origin if container.duration else None


def _upright(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """A frame as RGB (H,W,3) uint8, turned as its metadata says; scaled to `size` where it has another."""
    quarters = round(frame.rotation / 90) % 4
    shape = {} if size is None else dict(zip(("height", "width"), size[:: -1 if quarters % 2 else 1]))
    image = frame.to_ndarray(format="rgb24", **shape)
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


class _Reader:
    """Yields a source's frames; connects to a stream again where it breaks off."""

    def __init__(
        self, source: Path | str, container: Any, stream: Any, size: tuple[int, int], rate: float,
        seconds: float | None, live: bool,
    ):
        self.source, self.container, self.stream, self.size = source, container, stream, size
        self.rate, self.seconds, self.live = rate, seconds, live

    def frames(self, first: Any, others: Iterator[Any]) -> Iterator[TimedImage]:
        """`first` and the frames after it. Logs why a source ends early."""
        number, last, began, origin = 0, 0.0, time.perf_counter(), first.time
        frame: Any = first
        while frame is not None:
            arrived = time.perf_counter()
            at = arrived - began if self.live else self._time(frame, origin, last, number)
            yield TimedImage(_upright(frame, self.size), at, arrived)
            number, last = number + 1, at
            frame = next(others, None)
            if frame is None and self.live:
                others = self._again(number)
                frame = next(others, None)
        self.container.close()
        self._report(number, last)

    def _time(self, frame: Any, origin: float | None, last: float, number: int) -> float:
        """Seconds from the first frame; where the file tells none that is later than the last one's, by its rate."""
        at = None if frame.time is None or origin is None else frame.time - origin
        return at if at is not None and (at > last or number == 0) else last + bool(number) / self.rate

    def _again(self, number: int) -> Iterator[Any]:
        """The frames after a break, once the stream sends again; none where it does not."""
        self.container.close()
        for seconds in BACK_OFF:
            logger.info("%s: broke off after %d frames; connecting again in %g s", self.source, number, seconds)
            time.sleep(seconds)
            try:
                self.container, self.stream = _opened(self.source)
            except UserError:
                continue
            frames = _decoded(self.container, self.stream)
            if (frame := next(frames, None)) is not None:
                yield frame
                yield from frames
                return
            self.container.close()

    def _report(self, number: int, last: float) -> None:
        announced = self.stream.frames
        if self.live:
            logger.info("%s: stopped sending after %d frames", self.source, number)
        elif self.seconds is not None and last + 1.5 / self.rate < self.seconds - 1e-3:
            if announced > number:
                found = f"after {number} of the {announced} frames"
            else:
                found = f"after {number} frames, at {last:.1f} of the {self.seconds:.1f} seconds"
            logger.info("%s: ends %s that its header announces", self.source, found)
