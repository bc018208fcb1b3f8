"""Writing videos and folders of label maps: whole, or not at all."""
import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from config.errors import UserError
from inference.containers import RATES, check_decodable
from utils.files import SPACE, file_errors, written_whole
from utils.logging import logger
from utils.visualize import write_picture

ENDINGS = {".mp4": "mp4", ".avi": "avi", ".mkv": "matroska"}  # FFmpeg's names
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {  # encoder, format of its pixels, options
    "h264": ("libx264", "yuv420p", {"preset": "veryfast"}),
    "h265": ("libx265", "yuv420p", {"preset": "veryfast", "x265-params": "log-level=none"}),
    "mjpeg": ("mjpeg", "yuvj444p", {}),
    "lossless": ("ffv1", "bgr0", {}),
}
QUALITY = {"h264": 21, "h265": 24}  # constant rate factor; visually near the source
EVEN = ("h264", "h265")  # take only even sides
H264_SIDE, JPEG_SIDE = 16384, 65500  # pixels, at most
TICKS = 90_000  # a second, of a frame's time, at least; AVI counts frames instead
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
BLOCK = 4096  # bytes that even a small file takes


def is_video(path: Path) -> bool:
    """Whether a file of this name is written as a video."""
    return path.suffix.lower() in ENDINGS


def silence_codecs() -> None:
    """Stop OpenCV and FFmpeg from writing to standard error; this program reports what matters."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when FFmpeg is first used
    # OpenCV 5, or 4.
    set_level = cv2.utils.logging.setLogLevel if hasattr(cv2.utils, "logging") else vars(cv2)["setLogLevel"]
    set_level(0)


def check_output(path: Path, fps: float) -> None:
    """Check before the work that `path`, a video or a folder of label maps, can be written. Creates nothing.

    Raises UserError.
    """
    check_decodable(path)
    video = is_video(path)
    if video and not RATES[0] <= fps <= RATES[1]:
        allowed = f"{RATES[0]:g} to {RATES[1]:g} frames a second"
        raise UserError(f"{path}: a video has {allowed}, not {fps:g}; set another rate with --fps")
    with file_errors(path):
        if video and path.is_dir():
            raise UserError(f"{path}: is a folder, not a video file; choose another name")
        above = [path.absolute(), *path.absolute().parents][video:]
        place = next(folder for folder in above if folder.is_symlink() or folder.exists())
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(bytes(BLOCK))


class VideoFile:
    """A video being written frame by frame: RGB (H,W,3) uint8 frames of one size.

    with VideoFile(path, fps) as video:
        video.write(frame)

    fps: frames a second, on average. codec: of CODECS. quality: constant rate factor of H.264 and H.265, from 0, the
    best, to 51. aspect: width of a pixel by its height. sound: a file whose sound is copied, from its second `start`.

    It is written next to `path` and renamed when the block ends; an error keeps the file that was there, and without a
    frame there is no file. Frames of odd height or width get one more row or column, since H.264 and H.265 have only
    even ones; frames that are too large for H.264 become Motion JPEG. Raises UserError for what the user can fix.
    """

    def __init__(
        self, path: Path, fps: float, *, codec: str = "h264", quality: int | None = None,
        aspect: Fraction = Fraction(1), sound: Path | None = None, start: float = 0.0,
    ):
        self.path, self.fps, self.frames = Path(path), fps, 0
        self.codec, self.quality, self.aspect, self.sound, self.start = codec, quality, aspect, sound, start
        self._size, self._tick = (0, 0), -1
        self._container: Any = None
        self._track: SoundTrack | None = None
        self._closing = contextlib.ExitStack()

    def write(self, frame: np.ndarray, name: str = "", time: float | None = None) -> None:
        """Append a frame, shown from `time` on, in seconds; without, at the rate. Errors call it `name`."""
        import av

        size = frame.shape[:2]
        if self._container is None:
            self._open(size)
        if size != self._size:
            raise UserError(
                f"{self.path}: {name or f'frame {self.frames}'} has {size[1]} x {size[0]} pixels, the frames before it "
                f"{self._size[1]} x {self._size[0]}; all frames of a video have one size (label maps may differ)"
            )
        if self.codec in EVEN and (size[0] % 2 or size[1] % 2):
            frame = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        at = self.frames / self.fps if time is None else time
        picture.time_base = self._base
        self._tick = picture.pts = max(self._tick + 1, round(at / self._base))
        with self._errors():
            if self._track is not None:
                self._track.copy(at)
            self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Complete the video, or after an error remove it. Raises UserError if the disk did not take all of it."""
        # Not with the caller's error: its OSError would be taken for the video's.
        error = (None, None, None) if kind is None else (GeneratorExit, GeneratorExit(), None)
        self._closing.__exit__(*error)

    def _complete(self, error: type | None, *_: object) -> None:
        """Write what is buffered. Raises UserError if the disk does not take it."""
        with self._errors() if error is None else contextlib.suppress(Exception):
            if error is None:
                self._container.mux(self._stream.encode(None))
                if self._track is not None:
                    self._track.copy(float(self._tick * self._base) + 1 / self.fps)
            self._container.close()

    def _open(self, size: tuple[int, int]) -> None:
        ending = self.path.suffix.lower()
        if not is_video(self.path):
            raise UserError(f"{self.path}: is not the name of a video; use one that ends in {', '.join(ENDINGS)}")
        if max(size) > JPEG_SIDE:
            given = f"{size[1]} x {size[0]}"
            raise UserError(f"{self.path}: a video has at most {JPEG_SIDE} pixels a side, not {given}; scale it down")
        if self.codec == "h265" and ending == ".avi":
            raise UserError(f"{self.path}: .avi files do not take --codec h265; use .mp4 or .mkv, or another codec")
        if self.codec == "h264" and max(size) > H264_SIDE:
            self.codec = "mjpeg"
        check_output(self.path, self.fps)
        self._size = size
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(written_whole(self.path, ending=ending))
            self._start(os.path.abspath(file.name), ENDINGS[ending])
            stack.push(self._complete)
            self._closing = stack.pop_all()

    def _start(self, place: str, kind: str) -> None:
        """Open the file `place` of FFmpeg's format `kind`, with streams for pictures and sound."""
        import av

        encoder, pixels, options = CODECS[self.codec]
        if self.codec in QUALITY:
            options = options | {"crf": str(QUALITY[self.codec] if self.quality is None else self.quality)}
        rate = Fraction(self.fps).limit_denominator(1001)
        # A whole number of ticks a frame, where the rate is a regular one.
        self._base = 1 / rate if kind == "avi" else 1 / Fraction(rate.numerator * -(-TICKS // rate.numerator))
        with self._errors():
            # A protocol in front: FFmpeg takes the 12 of "12:30.mp4" for one.
            self._container = av.open(
                f"file:{place}", "w", format=kind, options={"movflags": "faststart"} if kind == "mp4" else {}
            )
            stream = self._stream = self._container.add_stream(encoder, rate=rate, options=options)
            stream.height, stream.width = (side + side % 2 * (self.codec in EVEN) for side in self._size)
            stream.pix_fmt, stream.time_base, stream.codec_context.time_base = pixels, self._base, self._base
            stream.sample_aspect_ratio = self.aspect
            if kind == "avi" and self.codec in EVEN:
                stream.codec_context.max_b_frames = 0  # AVI has no order but that of showing
            if self.codec == "h265" and kind == "mp4":
                stream.codec_context.codec_tag = "hvc1"  # the tag that Apple's players know
            stream.codec_context.open()
            if self.sound is not None:
                self._track = SoundTrack(self.sound, self._container, self.start, self.path)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """FFmpeg's errors as UserError."""
        import av

        try:
            yield
        except av.error.FFmpegError as error:
            if isinstance(error, OSError) and error.errno in FULL:
                free = shutil.disk_usage(self.path.parent).free / 2**20
                reason = f"the video could not be written completely ({free:.0f} MiB free on the disk)"
                raise UserError(f"{self.path}: {reason}; {SPACE}") from error
            if isinstance(error, OSError):
                with file_errors(self.path):
                    raise
            height, width = self._size
            raise UserError(
                f"{self.path}: FFmpeg cannot write {width} x {height} pixels at {self.fps:g} frames a second with "
                f"--codec {self.codec} ({error.strerror}); choose another codec, or set another rate with --fps"
            ) from error


class SoundTrack:
    """Copies the first sound of the file `source`, from its second `start` on, into a container that is being written
    to `path`, as far as the pictures have come."""

    def __init__(self, source: Path, container: Any, start: float, path: Path):
        import av

        self.container, self.start = container, start
        self.input = av.open(f"file:{source.absolute()}", metadata_errors="replace")
        found = self.input.streams.audio[0]
        self.packets: Iterator[Any] = self.input.demux(found)
        self.next: Any = None
        codec = found.codec_context.name if found.codec_context is not None else "unknown"
        if codec in container.supported_codecs:
            self.stream = container.add_stream_from_template(found)
        else:
            logger.info("%s: without its sound (%s), which %s files do not take", path, codec, path.suffix)
            self.packets = iter(())

    def copy(self, until: float) -> None:
        """Copy what is heard before the second `until` of the video."""
        while (packet := self.next or next(self.packets, None)) is not None:
            self.next = None
            if packet.pts is None or packet.dts is None:
                continue
            at = float(packet.pts * packet.time_base) - self.start
            if at >= until:
                self.next = packet
                return
            if at < 0:
                continue
            shift = round(self.start / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, self.stream
            self.container.mux(packet)


class LabelFolder:
    """A folder of label maps: PNGs of one 8-bit channel, or of pictures of them; each written whole or not at all."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def file(self, name: str) -> Path:
        return self.path / f"{name}.png"

    def write(self, name: str, ids: np.ndarray) -> None:
        """Write ids (H,W) uint8, or a picture (H,W,3) uint8 RGB. Raises UserError if that fails."""
        write_picture(self.file(name), ids)
