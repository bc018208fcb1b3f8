"""Frames from a video file, pictures, a camera, or the street renderer."""
import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from config.errors import UserError
from config.folders import natural
from dataloaders.images import check_bits, read_upright
from inference.video_writer import RATES, check_decodable
from streets import StreetSettings, render_sequence
from utils.logging import logger

DEMO = "demo"
DEMO_STREET = StreetSettings(height=256, width=512, length=30)
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
USUAL_RATE = 30.0  # frames a second of sources without a rate
FIRST = 100  # pictures that are looked at before any work
LAST_CAMERA = 99  # in OpenCV, higher numbers have other meanings
WILDCARD = re.compile(r"[*?[]")
TEXT = cv2.VideoWriter.fourcc(*"ansi")  # FFmpeg renders text files as pictures of a terminal


@dataclass(frozen=True)
class Frames:
    """Frames to iterate over once: RGB (H,W,3) uint8 each.

    name: the source as the user calls it. fps: frames a second. size: (H,W) of the first frame. count: the number of
    frames, None if unknown, as for a camera. files: the source files. names: one for each frame, or none.
    """

    name: str
    images: Iterable[np.ndarray]
    fps: float
    size: tuple[int, int]
    count: int | None = None
    files: tuple[Path, ...] = ()
    names: Sequence[str] = ()

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.images)

    def title(self, number: int) -> str:
        """The name of frame `number`, without ending: the picture's, else frame_000000 and so on."""
        return self.names[number] if self.names else frame_title(number)


def frame_title(number: int) -> str:
    """The name of frame `number` where it has no other."""
    return f"frame_{number:06d}"


def open_frames(source: str, fps: float = 0.0, *, bits: int = 0, option: str = "--video") -> Frames:
    """The frames of `source`: a video file, a folder or glob of pictures in natural order, a camera's number, "demo".

    fps: their rate, 0 for the source's own (30 for pictures). bits: as of `read_image`. option: that named them, for
    messages. Raises UserError if there are none, and when iteration comes to a picture that cannot be read.
    """
    try:
        frames = _opened(source, bits, option)
    except OSError as error:
        raise UserError(f"{source}: cannot be opened ({error.strerror}); check {option} and its permissions") from error
    return replace(frames, fps=fps) if fps else frames


def _opened(source: str, bits: int, option: str) -> Frames:
    path = Path(source)
    if source == DEMO:
        images = (frame.image for frame in render_sequence(DEMO_STREET, DEMO, 0))
        return Frames(DEMO, images, USUAL_RATE, (DEMO_STREET.height, DEMO_STREET.width), DEMO_STREET.length)
    if re.fullmatch("[0-9]+", source):
        return _of_camera(int(source))
    if path.is_dir():
        return _of_pictures(source, path.iterdir(), path, bits)
    if path.is_file() and path.suffix.lower() in PICTURE_ENDINGS:
        return _of_pictures(source, [path], path.parent, bits)
    if path.is_file():
        return _of_file(path)
    if WILDCARD.search(source):
        root = Path(*itertools.takewhile(lambda part: not WILDCARD.search(part), path.parts))
        return _of_pictures(source, map(Path, glob.glob(source, recursive=True)), root, bits)
    found = "neither a file nor a folder" if path.exists() else "no such file"
    kinds = f"a video file, a folder or quoted glob of pictures, a camera's number, or {DEMO}"
    raise UserError(f"{source}: {found}; {option} takes {kinds}")


def _of_pictures(source: str, found: Iterable[Path], root: Path, bits: int) -> Frames:
    """The pictures among the paths `found`, which are below the folder `root`, as the frames of one video."""
    shown = (path for path in found if path.suffix.lower() in PICTURE_ENDINGS and path.name[0] != ".")
    paths = [path for path in shown if path.is_file()]
    paths.sort(key=lambda path: (natural(path.parent), natural(path)))
    for path in paths:
        check_decodable(path)
    if not paths:
        raise UserError(f"{source}: no pictures found ({', '.join(sorted(PICTURE_ENDINGS))})")
    check_bits(paths[:FIRST], bits, least=15)  # few pictures may well be dark; cameras have 14 bits or fewer
    read = partial(read_upright, bits=bits)
    first = read(paths[0])
    images = itertools.chain([first], map(read, paths[1:]))
    return Frames(source, images, USUAL_RATE, first.shape[:2], len(paths), tuple(paths), _names(source, paths, root))


def _names(source: str, paths: Sequence[Path], root: Path) -> Sequence[str]:
    """Unique names: the files' without ending if they differ, else with their folders below `root`."""
    for names in ([path.stem for path in paths], [str(path.relative_to(root).with_suffix("")) for path in paths]):
        if len(set(names)) == len(names):
            return names
    twice = next(i for i, name in enumerate(names) if name in names[:i])
    first = paths[names.index(names[twice])]
    raise UserError(f"{source}: {first} and {paths[twice]} differ in their endings only; remove or rename one")


def _of_file(path: Path) -> Frames:
    check_decodable(path)
    open(path, "rb").close()  # raises the reason, which OpenCV does not tell
    # An absolute path: FFmpeg takes the 12 of "12:30.mp4" for a protocol.
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    if not capture.isOpened() or capture.get(cv2.CAP_PROP_FOURCC) == TEXT:
        raise UserError(f"{path}: cannot be read as a video ({path.stat().st_size} bytes; damaged, or not a video)")
    good, first = capture.read()
    if not good:
        raise UserError(f"{path}: no frame of the video can be read ({path.stat().st_size} bytes)")
    announced = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    images = _captured(str(path), capture, first, announced)
    return Frames(str(path), images, _rate(capture), first.shape[:2], announced or None, (path,))


def _of_camera(number: int) -> Frames:
    name = f"camera {number}"
    if number > LAST_CAMERA:
        hint = f"cameras are numbered 0 to {LAST_CAMERA} (write ./{number} for a file of this name)"
        raise UserError(f"{name}: no such camera; {hint}")
    capture = cv2.VideoCapture(number)
    good, first = capture.read()
    if not good:
        hint = "check its number, which counts from 0, and that no other program uses it"
        raise UserError(f"{name}: does not open, or sends nothing; {hint}")
    return Frames(name, _captured(name, capture, first, None), _rate(capture), first.shape[:2])


def _captured(name: str, capture: cv2.VideoCapture, frame: np.ndarray, announced: int | None) -> Iterator[np.ndarray]:
    """Yield `frame`, BGR (H,W,3), and the frames after it, as RGB; log why a camera ends, or a video too early.

    announced: the number of frames in a video's header, 0 if unknown; None for a camera. That ends before a frame of
    another size, which would make a video fail and lose the frames before it.
    """
    number, good, size = 0, True, frame.shape[:2]
    while good:
        if announced is None and frame.shape[:2] != size:
            before, now = (f"{width} x {height}" for height, width in (size, frame.shape[:2]))
            logger.info("%s: stopped after %d frames of %s pixels; the next has %s", name, number, before, now)
            break
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        number += 1
        good, frame = capture.read()
    else:
        if announced is None:
            logger.info("%s: stopped sending after %d frames", name, number)
        elif number < announced:
            logger.info("%s: ends after %d of the %d frames that its header announces", name, number, announced)
    capture.release()


def _rate(capture: cv2.VideoCapture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if RATES[0] <= rate <= RATES[1] else USUAL_RATE  # any other is a mistake in the file
