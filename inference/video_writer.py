"""Writing videos and folders of label maps: whole, or not at all."""
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from config.errors import UserError
from utils.files import write_bytes, writing

ENDINGS = (".mp4", ".avi", ".mkv")
RATES = 0.01, 1000.0  # frames a second that a video may have: far below, FFmpeg crashes or writes without end
MPEG4_SIDE, JPEG_SIDE = 8191, 65500  # pixels, at most
LOOK_EVERY = 100  # frames between looks at the room on the disk
BLOCK = 4096  # bytes that even a small file takes


def is_video(path: Path) -> bool:
    """Whether a file of this name is written as a video."""
    return path.suffix.lower() in ENDINGS


def silence_codecs() -> None:
    """Let OpenCV and FFmpeg say nothing of their own on standard error: what matters of it, this program says."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when FFmpeg is first used
    set_level = cv2.utils.logging.setLogLevel if hasattr(cv2.utils, "logging") else vars(cv2)["setLogLevel"]  # OpenCV 5, 4
    set_level(0)


def refuse_undecodable(path: Path) -> None:
    """Raise UserError for a name that is not UTF-8: OpenCV would end the whole process over it."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{str(path)!a}: a name that is not UTF-8; rename it") from error


def check_output(path: Path, fps: float) -> None:
    """Find out before the work what keeps `path`, a video or a folder of label maps, from being written, and leave nothing.

    Raises UserError.
    """
    refuse_undecodable(path)
    video = is_video(path)
    if video and not RATES[0] <= fps <= RATES[1]:
        raise UserError(f"{path}: a video has {RATES[0]:g} to {RATES[1]:g} frames a second, not {fps:g}; --fps sets another rate")
    with writing(path):
        if video and path.is_dir():
            raise UserError(f"{path}: is a folder, where a video is to be written; choose another name")
        above = [path.absolute(), *path.absolute().parents][video:]
        place = next(folder for folder in above if folder.is_symlink() or folder.exists())
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(bytes(BLOCK))


class VideoFile:
    """A video being written frame by frame: RGB (H,W,3) uint8 frames of one size, `fps` of them a second.

    with VideoFile(path, fps) as video:
        video.write(frame)

    It is written beside `path` and takes its name when the block is left; an error leaves what was there before, and
    without a frame there is no file. MPEG-4; frames that are larger than it knows, or of odd height or width, whose last row
    or column OpenCV's encoders cut off, are Motion JPEG. Raises UserError for what the user can mend, a full disk among it.
    """

    def __init__(self, path: Path, fps: float):
        self.path, self.fps, self.frames = Path(path), fps, 0
        self._size, self._pictures = (0, 0), False
        self._temporary = self.path
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray, name: str = "") -> None:
        """The next frame; `name` is for the error that one of another size is."""
        size = frame.shape[:2]
        writer = self._writer or self._open(size)
        if size != self._size:
            raise UserError(
                f"{self.path}: {name or f'frame {self.frames}'} has {size[1]} x {size[0]} pixels, the frames before it "
                f"{self._size[1]} x {self._size[0]}; a video has one size (a folder of label maps may have several)"
            )
        picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if self._pictures:
            picture = cv2.imencode(".jpg", picture)[1].reshape(1, -1)  # a row: OpenCV 4 takes its width for its length
        writer.write(picture)
        self.frames += 1
        if self.frames % LOOK_EVERY == 0 and _is_full(self._temporary.parent):
            raise self._refused()

    def close(self) -> None:
        """Complete the video. Raises UserError where the disk did not take all of it."""
        if self._writer is None:
            return
        try:
            self._writer.release()
            self._writer = None
            with writing(self.path):
                if not _holds(self._temporary, self.frames, self.fps):  # OpenCV's writer does not say so
                    raise self._refused()
                with open(self._temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self._temporary, self.path)
        finally:
            self._remove()

    def discard(self) -> None:
        """Give up a video that is not complete, and leave nothing of it."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self._remove()

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:  # also of an interrupt
            self.discard()

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        ending = self.path.suffix.lower()
        if not is_video(self.path):
            raise UserError(f"{self.path}: videos are written as {', '.join(ENDINGS)}")
        if max(size) > JPEG_SIDE:
            raise UserError(f"{self.path}: a video has at most {JPEG_SIDE} pixels a side, not {size[1]} x {size[0]}; scale its frames down")
        check_output(self.path, self.fps)
        self._size, self._pictures = size, bool(size[0] % 2 or size[1] % 2 or max(size) > MPEG4_SIDE)
        code, settings = "mp4v", []
        if self._pictures:
            code, settings = "MJPG", [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1]
            if ending == ".mp4":
                code, ending = "jpeg", ".mov"  # its elder twin, for which FFmpeg has a name for JPEG
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.tmp{ending}")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch()  # OpenCV does not say why it cannot
        shape = (size[1], size[0])
        # MPEG-4 counts time in at most 65535 parts a second: a high rate has room for fewer decimals.
        rate = self.fps if self.fps < 65 else round(self.fps, 2 if self.fps < 655 else 1)
        place = os.path.abspath(self._temporary)  # to FFmpeg, "12:30.mp4" is a protocol of the name 12
        writer = cv2.VideoWriter(place, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), rate, shape, settings)
        if not writer.isOpened():
            self._remove()
            raise UserError(
                f"{self.path}: no video of {shape[0]} x {shape[1]} pixels at {self.fps:g} frames a second can be written; "
                "make room, or set another rate with --fps"
            )
        self._writer = writer
        return writer

    def _refused(self) -> UserError:
        free = shutil.disk_usage(self._temporary.parent).free / 2**20
        return UserError(
            f"{self.path}: the disk did not take the whole video ({free:.0f} MiB are free there); make room, or choose another "
            "folder"
        )

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._temporary.unlink()


def _is_full(folder: Path) -> bool:
    """Whether this user has no room left there; some file systems do not say how much there is."""
    with contextlib.suppress(OSError):
        room = os.statvfs(folder)
        return room.f_blocks > 0 and (room.f_bavail if os.geteuid() else room.f_bfree) == 0
    return False


def _holds(path: Path, frames: int, fps: float) -> bool:
    """Whether the video at `path` opens, has this many frames, and shows the last of them."""
    reader = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    rounding = fps / 500 if path.suffix == ".mkv" else 0  # Matroska rounds times and durations to milliseconds
    if abs(reader.get(cv2.CAP_PROP_FRAME_COUNT) - frames) > rounding:
        return False
    reader.set(cv2.CAP_PROP_POS_FRAMES, frames - 1)
    return reader.read()[0]


class LabelFolder:
    """A folder of label maps: PNGs of one 8-bit channel, each written whole or not at all."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def file(self, name: str) -> Path:
        return self.path / f"{name}.png"

    def write(self, name: str, ids: np.ndarray) -> None:
        """ids: (H,W) uint8. Raises UserError where the disk refuses."""
        write_bytes(self.file(name), cv2.imencode(".png", ids)[1].tobytes())
