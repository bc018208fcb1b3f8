"""Writing videos and folders of label maps: whole, or not at all."""
import contextlib
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from config.errors import UserError

ENDINGS = (".mp4", ".avi", ".mkv")


def is_video(path: Path) -> bool:
    """Whether a file of this name is written as a video."""
    return path.suffix.lower() in ENDINGS


def silence_codecs() -> None:
    """Let OpenCV and FFmpeg say nothing of their own on standard error: what matters of it, this program says."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when FFmpeg is first used
    set_level = cv2.utils.logging.setLogLevel if hasattr(cv2.utils, "logging") else cv2.setLogLevel  # OpenCV 5, 4
    set_level(0)


class VideoFile:
    """A video being written frame by frame: RGB (H,W,3) uint8 frames of one size, `fps` of them a second.

    with VideoFile(path, fps) as video:
        video.write(frame)

    It is written beside `path` and takes its name when the block is left; an error leaves what was there before, and
    without a frame there is no file. MPEG-4; frames of odd height or width, whose last row or column OpenCV's encoders cut
    off, are Motion JPEG. Raises UserError for what the user can mend, a full disk among it.
    """

    def __init__(self, path: Path, fps: float):
        self.path, self.fps, self.frames = Path(path), fps, 0
        self._size, self._pictures = (0, 0), False
        self._temporary = self.path
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray, name: str = "") -> None:
        """The next frame; `name` is for the error that one of another size is."""
        size = frame.shape[:2]
        if self._writer is None:
            self._open(size)
        if size != self._size:
            raise UserError(
                f"{self.path}: {name or f'frame {self.frames}'} has {size[1]} x {size[0]} pixels, the frames before it "
                f"{self._size[1]} x {self._size[0]}; a video has one size (a folder of label maps may have several)"
            )
        picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if self._pictures:
            picture = cv2.imencode(".jpg", picture)[1].reshape(1, -1)  # a row: OpenCV 4 takes its width for its length
        self._writer.write(picture)
        self.frames += 1

    def close(self) -> None:
        """Complete the video. Raises UserError where the disk did not take all of it."""
        if self._writer is None:
            return
        try:
            self._writer.release()
            self._writer = None
            if not _holds(self._temporary, self.frames):  # OpenCV's writer does not say so
                free = shutil.disk_usage(self._temporary.parent).free / 2**20
                raise UserError(
                    f"{self.path}: the disk did not take the whole video ({free:.0f} MiB are free there); make room, or "
                    "choose another folder"
                )
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
        finally:
            self._remove()

    def discard(self) -> None:
        """Give the video up, and leave nothing of it."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self._remove()

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _open(self, size: tuple[int, int]) -> None:
        ending = self.path.suffix.lower()
        if not is_video(self.path):
            raise UserError(f"{self.path}: videos are written as {', '.join(ENDINGS)}")
        self._size, self._pictures = size, bool(size[0] % 2 or size[1] % 2)
        code, settings = "mp4v", []
        if self._pictures:
            code, settings = "MJPG", [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1]
            if ending == ".mp4":
                code, ending = "jpeg", ".mov"  # its elder twin, for which FFmpeg has a name for JPEG
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.tmp{ending}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise UserError(f"{self.path}: is a folder, where a video is to be written; choose another name")
            self._temporary.touch()  # OpenCV does not say why it cannot
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
        shape = (size[1], size[0])
        # MPEG-4 counts time in at most 65535 parts a second: a high rate has room for fewer decimals.
        rate = self.fps if self.fps < 65 else round(self.fps, 2 if self.fps < 655 else 1)
        writer = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), rate, shape, settings)
        if not writer.isOpened():
            self._remove()
            raise UserError(f"{self.path}: no video of {shape[0]} x {shape[1]} pixels at {self.fps:g} frames a second can be written; --fps sets another rate")
        self._writer = writer

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._temporary.unlink()


def _holds(path: Path, frames: int) -> bool:
    """Whether the video at `path` opens, has this many frames, and shows the last of them."""
    reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if reader.get(cv2.CAP_PROP_FRAME_COUNT) != frames:
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
        path = self.file(name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        _, encoded = cv2.imencode(".png", ids)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(encoded)
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
