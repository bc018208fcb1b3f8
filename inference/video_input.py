"""Frames from a video file, a stream on the network, pictures, a camera, or the street renderer."""
import glob
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from config.errors import UserError
from config.folders import natural
from dataloaders.images import check_bits, read_upright
from inference.containers import USUAL_RATE, Frames, as_they_come, check_decodable, open_stream, plausible_rate
from streets import StreetSettings, render_sequence
from utils.logging import logger

DEMO = "demo"
DEMO_STREET = StreetSettings(height=256, width=512, length=30)
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
VIDEO_ENDINGS = {  # of files that are taken for videos in a folder of them
    ".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv",
    ".3gp", ".ogv", ".vob", ".mxf", ".y4m", ".ivf", ".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg", ".mjpg",
}
FIRST = 100  # pictures that are looked at before any work
LAST_CAMERA = 99  # in OpenCV, higher numbers have other meanings
LIST = ".txt"  # ending of a file that lists videos
WILDCARD = re.compile(r"[*?[]")
ESCAPED = re.compile(r"\[([*?[])\]")  # a wildcard's character that glob.escape has made an ordinary one
URL = re.compile(r"(rtsps?|rtmp|https?|udp|tcp|srt)://", re.IGNORECASE)
DEVICE = re.compile(r"/dev/video\d+")


def videos_in(source: str) -> list[str]:
    """The videos that `source` names, each as `open_frames` takes it: those in a folder or a glob, files and folders of
    pictures, or those that a text file lists, one of all these a line; else `source` itself. Raises UserError where
    there are both videos and pictures, and for folders that cannot be read."""
    path, found = Path(source), list[Path]()
    if path.suffix.lower() == LIST and os.path.isfile(path):
        return [*dict.fromkeys(video for line in listed(path) for video in videos_in(line))]
    if os.path.isdir(path) and not _is_special(source):
        try:
            found = [*path.iterdir()]
        except OSError as error:
            raise UserError(f"{source}: cannot be opened ({error.strerror}); check its permissions") from error
    elif WILDCARD.search(source) and not os.path.exists(path):
        found = [*map(Path, glob.glob(source, recursive=True))]
    shown = sorted((x for x in found if x.name[:1] != "."), key=natural)
    films = [x for x in shown if _is_film(x)]
    pictures = [x for x in shown if _is_picture(x)]
    if films and pictures:
        kinds = f"{len(films)} videos and {len(pictures)} pictures, {pictures[0].name} among them"
        raise UserError(f"{source}: holds {kinds}; name one kind with a quoted glob, as in '*{films[0].suffix}'")
    if pictures:
        return [source]
    return [as_source(x) for x in shown if _is_film(x) or _holds_pictures(x)] or [source]


def as_source(path: Path) -> str:
    """A path as `open_frames` takes it: a file or folder, also where its name alone would mean a camera or a street."""
    return f".{os.sep}{path}" if _is_special(str(path)) else str(path)


def _is_special(source: str) -> bool:
    """Whether it names a camera or the rendered street."""
    return source == DEMO or source.isdigit()


def _is_film(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_ENDINGS and path.is_file()


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_ENDINGS and path.name[0] != "." and path.is_file()


def _holds_pictures(path: Path) -> bool:
    """Whether it is a folder of pictures; or one that cannot be read, which is told when its turn comes."""
    try:
        return path.is_dir() and any(map(_is_picture, path.iterdir()))
    except OSError:
        return True


def listed(path: Path) -> list[str]:
    """The videos that a text file lists, a path relative to its folder or an address each line. Raises UserError."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of videos ({error}); write one path a line") from error
    found = [_of_line(path.parent, line) for line in lines if line and line[0] != "#"]
    if not found:
        raise UserError(f"{path}: lists no video; write one path a line")
    for place in found:
        if place.lower().endswith(LIST):
            raise UserError(f"{path}: lists {place}, another list; name its videos")
        if not (URL.match(place) or os.path.exists(place) or glob.glob(place, recursive=True)):
            raise UserError(f"{path}: lists {place}, which is not there; write one path a line, relative to the list")
    return found


def _of_line(folder: Path, line: str) -> str:
    """What a line of a list in `folder` names."""
    if URL.match(line):
        return line
    if WILDCARD.search(line) and not os.path.exists(folder / line):
        return str(Path(glob.escape(str(folder)), line))
    return as_source(folder / line)


def place_of(source: str) -> Path:
    """The file or folder that `source` names, absolute; of a glob, what remains without patterns at its end; of an
    address, host and path."""
    if URL.match(source):
        address = urlsplit(source)
        return Path(address.hostname or "", address.path.lstrip("/"))
    path = Path(os.path.abspath(source))
    for part in (path, *path.parents):
        plain = Path(ESCAPED.sub(r"\1", str(part)))
        if os.path.exists(plain) or not WILDCARD.search(part.name):
            break
    return plain


def title_of(source: str) -> str:
    """What the video `source` is called: as its folder or its address's host, or its file without the ending."""
    place = place_of(source)
    whole = os.path.isdir(place) or len(place.parts) == 1
    return (place.name if whole else place.stem) or "video"


def open_frames(
    source: str, fps: float = 0.0, *, bits: int = 0, option: str = "--video", start: float = 0.0,
    end: float | None = None, stride: int = 1,
) -> Frames:
    """The frames of `source`: a video file, a stream's address, a folder or glob of pictures in natural order, a
    camera's number or device, "demo".

    fps: their rate, 0 for the source's own (30 for pictures). bits: as of `read_image`. option: that named them, for
    messages. start, end, stride: see `Frames.part`. Raises UserError if there are none, and when iteration comes to a
    picture that cannot be read.
    """
    try:
        frames = _opened(source, bits, option)
    except OSError as error:
        raise UserError(f"{source}: cannot be opened ({error.strerror}); check {option} and its permissions") from error
    if not fps >= 0:
        raise UserError(f"fps must be above 0, or 0 for the source's, not {fps!r}")
    return (frames.at_rate(fps) if fps else frames).part(start, end, stride)


def _opened(source: str, bits: int, option: str) -> Frames:
    path = Path(source)
    if source == DEMO:
        images = (frame.image for frame in render_sequence(DEMO_STREET, DEMO, 0))
        size = DEMO_STREET.height, DEMO_STREET.width
        return Frames(DEMO, as_they_come(images), USUAL_RATE, size, DEMO_STREET.length).at_rate(USUAL_RATE)
    if re.fullmatch("[0-9]+", source) or DEVICE.fullmatch(source):
        return _of_camera(source)
    if URL.match(source):
        return open_stream(source)
    if path.is_dir():
        return _of_pictures(source, path.iterdir(), path, bits)
    if path.is_file() and path.suffix.lower() in PICTURE_ENDINGS:
        return _of_pictures(source, [path], path.parent, bits)
    if path.is_file():
        check_decodable(path)
        open(path, "rb").close()  # raises the reason, which FFmpeg does not tell
        return replace(open_stream(path), name=source)
    if WILDCARD.search(source):
        root = Path(*itertools.takewhile(lambda part: not WILDCARD.search(part), path.parts))
        return _of_pictures(source, map(Path, glob.glob(source, recursive=True)), root, bits)
    found = "neither a file nor a folder" if path.exists() else "no such file"
    stored = "a folder or quoted glob of pictures"
    kinds = f"a video file, an address, {stored}, a camera's number, or {DEMO}"
    if option not in ("--video", "source"):
        kinds = f"a video file, or {stored}"
    raise UserError(f"{source}: {found}; {option} takes {kinds}")


def _of_pictures(source: str, found: Iterable[Path], root: Path, bits: int) -> Frames:
    """The pictures among the paths `found`, which are below the folder `root`, as the frames of one video."""
    paths = sorted(filter(_is_picture, found), key=lambda path: (natural(path.parent), natural(path)))
    for path in paths:
        check_decodable(path)
    if not paths:
        kinds = ", ".join(sorted(PICTURE_ENDINGS))
        raise UserError(f"{source or 'no source'}: no pictures found ({kinds}), and no videos; name a file or folder")
    check_bits(paths[:FIRST], bits, least=15)  # few pictures may well be dark; cameras have 14 bits or fewer
    read = partial(read_upright, bits=bits)
    first = read(paths[0])
    timed, names = as_they_come(itertools.chain([first], map(read, paths[1:]))), _names(source, paths, root)
    frames = Frames(source, timed, USUAL_RATE, first.shape[:2], len(paths), tuple(paths), names)
    return frames.at_rate(USUAL_RATE)


def _names(source: str, paths: Sequence[Path], root: Path) -> Sequence[str]:
    """Unique names: the files' without ending if they differ, else with their folders below `root`."""
    for names in ([path.stem for path in paths], [str(path.relative_to(root).with_suffix("")) for path in paths]):
        if len(set(names)) == len(names):
            return names
    twice = next(i for i, name in enumerate(names) if name in names[:i])
    first = paths[names.index(names[twice])]
    raise UserError(f"{source}: {first} and {paths[twice]} differ in their endings only; remove or rename one")


def _of_camera(source: str) -> Frames:
    """A camera, through OpenCV: PyAV's packages have no capture devices."""
    name = f"camera {source}"
    if source.isdigit() and int(source) > LAST_CAMERA:
        hint = f"cameras are numbered 0 to {LAST_CAMERA} (write ./{source} for a file of this name)"
        raise UserError(f"{name}: no such camera; {hint}")
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    good, first = capture.read()
    if not good:
        device = Path(source if not source.isdigit() else f"/dev/video{source}")
        there = "" if device.exists() or sys.platform != "linux" else f"there is no {device}; "
        hint = f"{there}check its number, which counts from 0, and that no other program uses it"
        raise UserError(f"{name}: does not open, or sends nothing; {hint}")
    rate = plausible_rate(capture.get(cv2.CAP_PROP_FPS))
    return Frames(name, as_they_come(_captured(name, capture, first)), rate, first.shape[:2], live=True)


def _captured(name: str, capture: cv2.VideoCapture, frame: np.ndarray) -> Iterator[np.ndarray]:
    """Yield `frame`, BGR (H,W,3), and the frames after it, as RGB; log why the camera ends.

    It ends before a frame of another size, which would make a video fail and lose the frames before it.
    """
    number, good, size = 0, True, frame.shape[:2]
    while good and frame.shape[:2] == size:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        number += 1
        good, frame = capture.read()
    capture.release()
    if good:
        before, now = (f"{width} x {height}" for height, width in (size, frame.shape[:2]))
        logger.info("%s: stopped after %d frames of %s pixels; the next has %s", name, number, before, now)
    else:
        logger.info("%s: stopped sending after %d frames", name, number)
