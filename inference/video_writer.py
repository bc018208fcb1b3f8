"""Writing videos and folders of label maps: whole, or not at all."""
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from config.errors import UserError
from utils.files import SPACE, file_errors, written_whole
from utils.visualize import write_picture

ENDINGS = (".mp4", ".avi", ".mkv")
RATES = 0.01, 1000.0  # frames a second that a video may have: far below, FFmpeg crashes or writes without end
MPEG4_SIDE, JPEG_SIDE = 8191, 65500  # pixels, at most
CHECK_EVERY = 100  # frames between checks of the free space
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


def check_decodable(path: Path) -> None:
    """Raise UserError for a name that is not UTF-8, over which OpenCV would end the whole process."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{str(path)!a}: its name is not UTF-8; rename it") from error


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
    """A video being written frame by frame: RGB (H,W,3) uint8 frames of one size, `fps` of them a second.

    with VideoFile(path, fps) as video:
        video.write(frame)

    It is written next to `path` and renamed when the block ends; an error keeps the file that was there, and without a
    frame there is no file. The codec is MPEG-4, or Motion JPEG for frames that are too large for it or of odd height or
    width, whose last row or column OpenCV's encoders cut off. Raises UserError for what the user can fix.
    """

    def __init__(self, path: Path, fps: float):
        self.path, self.fps, self.frames = Path(path), fps, 0
        self._size, self._is_jpeg = (0, 0), False
        self._writer: cv2.VideoWriter | None = None
        self._temporary = ""
        self._closing = contextlib.ExitStack()

    def write(self, frame: np.ndarray, name: str = "") -> None:
        """Append a frame. An error about its size calls it `name`."""
        size = frame.shape[:2]
        writer = self._writer or self._open(size)
        if size != self._size:
            raise UserError(
                f"{self.path}: {name or f'frame {self.frames}'} has {size[1]} x {size[0]} pixels, the frames before it "
                f"{self._size[1]} x {self._size[0]}; all frames of a video have one size (label maps may differ)"
            )
        picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if self._is_jpeg:
            picture = cv2.imencode(".jpg", picture)[1].reshape(1, -1)  # (1,bytes), for OpenCV 4
        writer.write(picture)
        self.frames += 1
        if self.frames % CHECK_EVERY == 0 and _is_full(self.path.parent):
            raise self._incomplete()

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Complete the video, or after an error remove it. Raises UserError if the disk did not take all of it."""
        # Not with the caller's error: its OSError would be taken for the video's.
        error = (None, None, None) if kind is None else (GeneratorExit, GeneratorExit(), None)
        self._closing.__exit__(*error)

    def _complete(self, error: type | None, *_: object) -> None:
        """Write what is buffered. Raises UserError if the file lacks frames, which OpenCV does not report."""
        assert self._writer is not None
        self._writer.release()
        if error is None and not _holds(self._temporary, self.frames, self.fps):
            raise self._incomplete()

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        ending = self.path.suffix.lower()
        if not is_video(self.path):
            raise UserError(f"{self.path}: is not the name of a video; use one that ends in {', '.join(ENDINGS)}")
        if max(size) > JPEG_SIDE:
            given = f"{size[1]} x {size[0]}"
            raise UserError(f"{self.path}: a video has at most {JPEG_SIDE} pixels a side, not {given}; scale it down")
        check_output(self.path, self.fps)
        self._size, self._is_jpeg = size, bool(size[0] % 2 or size[1] % 2 or max(size) > MPEG4_SIDE)
        code, settings = "mp4v", []
        if self._is_jpeg:
            code, settings = "MJPG", [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1]
            if ending == ".mp4":
                code, ending = "jpeg", ".mov"  # the older container, for which FFmpeg has a name for JPEG
        # MPEG-4 counts time in at most 65535 parts a second: a high rate has room for fewer decimals.
        rate = self.fps if self.fps < 65 else round(self.fps, 2 if self.fps < 655 else 1)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(written_whole(self.path, ending=ending))
            self._temporary = os.path.abspath(file.name)  # FFmpeg takes the 12 of "12:30.mp4" for a protocol
            fourcc, shape = cv2.VideoWriter.fourcc(*code), (size[1], size[0])
            self._writer = cv2.VideoWriter(self._temporary, cv2.CAP_FFMPEG, fourcc, rate, shape, settings)
            if not self._writer.isOpened():
                raise UserError(
                    f"{self.path}: OpenCV cannot write a video of {shape[0]} x {shape[1]} pixels at {self.fps:g} "
                    "frames a second; free some space, or set another rate with --fps"
                )
            stack.push(self._complete)
            self._closing = stack.pop_all()
        return self._writer

    def _incomplete(self) -> UserError:
        free = shutil.disk_usage(self.path.parent).free / 2**20
        reason = f"the video could not be written completely ({free:.0f} MiB free on the disk)"
        return UserError(f"{self.path}: {reason}; {SPACE}")


def _is_full(folder: Path) -> bool:
    """Whether this user has no space left there; some file systems do not tell."""
    with contextlib.suppress(OSError):
        room = os.statvfs(folder)
        return room.f_blocks > 0 and (room.f_bavail if os.geteuid() else room.f_bfree) == 0
    return False


def _holds(path: str, frames: int, fps: float) -> bool:
    """Whether the video at `path` opens, has this many frames, and shows the last of them."""
    reader = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    rounding = fps / 500 if path.endswith(".mkv") else 0  # Matroska rounds times and durations to milliseconds
    if abs(reader.get(cv2.CAP_PROP_FRAME_COUNT) - frames) > rounding:
        return False
    reader.set(cv2.CAP_PROP_POS_FRAMES, frames - 1)
    return reader.read()[0]


class LabelFolder:
    """A folder of label maps: PNGs of one 8-bit channel, or of pictures of them; each written whole or not at all."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def file(self, name: str) -> Path:
        return self.path / f"{name}.png"

    def write(self, name: str, ids: np.ndarray) -> None:
        """Write ids (H,W) uint8, or a picture (H,W,3) uint8 RGB. Raises UserError if that fails."""
        write_picture(self.file(name), ids)
