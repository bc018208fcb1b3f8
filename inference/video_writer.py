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
from inference.containers import RATES, TIMEOUT, check_decodable, in_ffmpeg
from utils.files import SPACE, file_errors, written_whole
from utils.logging import logger

ENDINGS = {".mp4": "mp4", ".avi": "avi", ".mkv": "matroska"}  # FFmpeg's names
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {  # encoder, format of its pixels, options
    "h264": ("libx264", "yuv420p", {"preset": "ultrafast"}),
    "h265": ("libx265", "yuv420p", {"preset": "veryfast", "x265-params": "log-level=none"}),
    "mjpeg": ("mjpeg", "yuvj444p", {}),
    "lossless": ("ffv1", "bgr0", {}),
}
QUALITY = {"h264": 23, "h265": 24}  # constant rate factor; visually near the source
WORST = 51  # quality
EVEN = ("h264", "h265")  # take only even sides
H264_SIDE, JPEG_SIDE = 16384, 65500  # pixels, at most
TICKS = 90_000  # a second, of a frame's time, at least; AVI counts frames instead
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
LATE = 1.5  # frames that one may be shown late
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
        hint = "set another rate with --fps, or a smaller --stride"
        raise UserError(f"{path}: a video has {allowed}, not {fps:g}; {hint}")
    with file_errors(path):
        if video and path.is_dir():
            raise UserError(f"{path}: is a folder, not a video file; choose another name")
        above = [path.absolute(), *path.absolute().parents][video:]
        place = next(folder for folder in above if folder.is_symlink() or folder.exists())
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(bytes(BLOCK))


class VideoFile(contextlib.ExitStack):
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
        aspect: Fraction = Fraction(1), sound: Path | str | None = None, start: float = 0.0,
    ):
        super().__init__()
        if codec not in CODECS or not (quality is None or 0 <= quality <= WORST):
            raise UserError(
                f"{path}: no codec {codec!r} of quality {quality}; choose {', '.join(CODECS)}, quality 0 to {WORST}"
            )
        self.path, self.fps, self.frames = Path(path), fps, 0
        self.codec, self.quality, self.aspect, self.sound, self.start = codec, quality, aspect, sound, start
        self._size, self._tick, self._ends, self._late = (0, 0), -1, 0.0, 0.0
        self._sound: Iterator[tuple[float, Any]] = iter(())

    def write(self, frame: np.ndarray, name: str = "", time: float | None = None, duration: float = 0.0) -> None:
        """Append a frame, shown from `time` on, for `duration`, in seconds; without, at the rate. The next frame ends
        it earlier or later. Errors call it `name`."""
        import av

        size = frame.shape[:2]
        if not any(self._size):
            self._open(size)
        if size != self._size:
            raise UserError(
                f"{self.path}: {name or f'frame {self.frames}'} has {size[1]} x {size[0]} pixels, the frames before it "
                f"{self._size[1]} x {self._size[0]}; all frames of a video have one size (label maps may differ)"
            )
        if self.codec in EVEN and (size[0] % 2 or size[1] % 2):
            frame = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
        # It shares the array's memory, until `encode` has converted it.
        picture = av.VideoFrame.from_numpy_buffer(np.require(frame, requirements=("C", "W")), format="rgb24")
        at, duration = self.frames / self.fps if time is None else time, duration or 1 / self.fps
        picture.time_base, picture.duration = self._base, max(1, round(duration / self._base))
        self._tick = picture.pts = max(self._tick + 1, round(at / self._base))
        self._last, self._late = picture.duration, max(self._late, float(self._tick * self._base) - at)
        with self._errors():
            self._copy_sound(at)
            self._container.mux(self._stream.encode(picture))
        self.frames, self._ends = self.frames + 1, at + duration

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Complete the video, or after an error remove it. Raises UserError if the disk did not take all of it."""
        # Not with the caller's error: its OSError would be taken for the video's.
        super().__exit__(*((None, None, None) if kind is None else (GeneratorExit, GeneratorExit(), None)))

    def _complete(self, error: type | None, *_: object) -> None:
        """Write what is buffered. Raises UserError if the disk does not take it."""
        with self._errors() if error is None else contextlib.suppress(Exception):
            if error is None:
                rest = self._stream.encode(None)
                for packet in rest[-1:]:  # MP4 ends with the last one, which may be shown before another
                    packet.duration = self._last
                    packet.dts = packet.pts if self.frames == 1 else packet.dts  # x265 may not set a single frame's
                self._container.mux(rest)
                self._copy_sound(self._ends)
                if self._late > LATE / self.fps:
                    logger.warning(
                        "%s: some frames are shown up to %.2f s late, since %s files have one rate; .mp4 and .mkv keep "
                        "the times", self.path, self._late, self.path.suffix,
                    )
            self._container.close()

    def _open(self, size: tuple[int, int]) -> None:
        """Open the file for frames of this size, with streams for pictures and sound."""
        import av

        kind = self._checked(size)
        self._size = size
        if self.codec == "lossless" and kind != "mp4" and self.aspect != 1:  # FFV1 has no place for it, as others have
            logger.warning("%s: its pixels are square, unlike the source's; .mp4 keeps their shape", self.path)
        encoder, pixels, options = CODECS[self.codec]
        if self.codec in QUALITY:
            options = options | {"crf": str(QUALITY[self.codec] if self.quality is None else self.quality)}
        rate = Fraction(self.fps).limit_denominator(1001)
        # A whole number of ticks a frame, where the rate is a regular one.
        self._base = 1 / rate if kind == "avi" else 1 / Fraction(rate.numerator * -(-TICKS // rate.numerator))
        place = in_ffmpeg(Path(self.enter_context(written_whole(self.path, ending=self.path.suffix.lower())).name))
        with self._errors():
            container = av.open(place, "w", format=kind, options={"movflags": "faststart"} if kind == "mp4" else {})
            stream: Any = container.add_stream(encoder, rate=rate, options=options)
            context = stream.codec_context
            stream.height, stream.width = (side + side % 2 * (self.codec in EVEN) for side in size)
            stream.pix_fmt, stream.time_base, context.time_base = pixels, self._base, self._base
            stream.sample_aspect_ratio = self.aspect
            context.flags |= av.codec.context.Flags.frame_duration.value
            if kind == "avi" and self.codec in EVEN:
                context.max_b_frames = 0  # AVI has no order but that of showing
            if self.codec == "h265" and kind == "mp4":
                context.codec_tag = "hvc1"  # the tag that Apple's players know
            context.open()
            self._container, self._stream = container, stream
            if self.sound is not None:
                self._sound = sound_packets(self.sound, self.start, container, self.path)
            self._packet = next(self._sound, None)
        self.push(self._complete)

    def _checked(self, size: tuple[int, int]) -> str:
        """FFmpeg's name of the container, in which such frames can be written with the codec. Raises UserError."""
        kind = ENDINGS.get(self.path.suffix.lower())
        if kind is None:
            raise UserError(f"{self.path}: is not the name of a video; use one that ends in {', '.join(ENDINGS)}")
        if max(size) > JPEG_SIDE:
            given = f"{size[1]} x {size[0]}"
            raise UserError(f"{self.path}: a video has at most {JPEG_SIDE} pixels a side, not {given}; scale it down")
        if self.codec == "h265" and kind == "avi":
            raise UserError(f"{self.path}: .avi files do not take --codec h265; use .mp4 or .mkv, or another codec")
        if self.codec == "h264" and max(size) > H264_SIDE:
            self.codec = "mjpeg"
        check_output(self.path, self.fps)
        return kind

    def _copy_sound(self, until: float) -> None:
        """Copy what is heard before the second `until` of the video."""
        while self._packet is not None and self._packet[0] < until:
            self._container.mux(self._packet[1])
            self._packet = next(self._sound, None)

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


def sound_packets(source: Path | str, start: float, container: Any, path: Path) -> Iterator[tuple[float, Any]]:
    """The packets of the first sound of `source`, a file or an address, from its second `start` on, and the seconds of
    the video at which they are heard; for `container`, which gets a stream for them and is written to `path`."""
    import av

    name = in_ffmpeg(source) if isinstance(source, Path) else source
    sounds = av.open(name, metadata_errors="replace", timeout=TIMEOUT)
    found = sounds.streams.audio[0]
    codec = found.codec_context.name if found.codec_context is not None else "unknown"
    avi, origin = container.format.name == "avi", sounds.format.name
    headless = codec == "aac" and not found.codec_context.extradata  # as MPEG-TS has it
    mistimed = codec == "ac3" and origin == "avi"  # FFmpeg would copy it with all times 0
    if codec not in container.supported_codecs or (avi and (headless or mistimed)):
        kind = f"{codec} of {origin}" if avi else codec
        logger.info("%s: without its sound (%s), which %s files do not take", path, kind, path.suffix)
        return
    stream = container.add_stream_from_template(found)
    with contextlib.suppress(av.error.FFmpegError, OSError):  # it is copied as far as it can be read
        for packet in sounds.demux(found):
            if packet.pts is None or packet.dts is None:
                continue
            shift = round(start / packet.time_base)
            # AVI tells no time for its first packet, which is heard at 0: the nearest one.
            early = (packet.duration or 0) // 2 if avi else 0
            if packet.pts + early >= shift:
                packet.pts, packet.dts, packet.stream = max(0, packet.pts - shift), max(0, packet.dts - shift), stream
                yield float(packet.pts * packet.time_base), packet
