"""Where the teacher's logits are kept: a folder for each video, named by digests, and its files, written by rows."""
import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from config.errors import UserError
from config.options import Options
from dataloaders.taught_clips import UNKNOWN, TaughtVideo
from evaluation.unlabelled import VideoPart
from models.gsvnet import GSVNet
from models.identity import described, digest_of
from models.resize import grid_size
from utils.files import SPACE, file_errors, write_json, written_whole
from utils.logging import logger

BATCH = 16  # rows that are written before they are noted as done


@dataclass(frozen=True)
class Pass:
    """The chosen frames of one video, and where they are kept. numbers: of the frames in the part, ascending. shapes:
    of a row of each array; without any, pictures are kept."""

    part: VideoPart
    numbers: Sequence[int]
    video: TaughtVideo
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def bytes(self) -> int:
        """The space that all rows take; of pictures, at most."""
        each = sum(2 * math.prod(shape) for shape in self.shapes.values())
        return len(self.numbers) * (each or 4 * math.prod(self.video.size))

    @property
    def bytes_left(self) -> int:
        """The space of the rows that are not there yet: files are as large as all, but take no space before."""
        return self.bytes * int((self.states() == UNKNOWN).sum()) // max(len(self.numbers), 1)

    def states(self) -> np.ndarray:
        """The state of each row; UNKNOWN where the pass has not begun."""
        path = self.video.folder / "state.npy"
        return np.array(self.video.array("state")) if path.is_file() else np.zeros(len(self.numbers), np.uint8)


def teacher_folder(options: Options) -> Path:
    """Where the teacher's logits are kept."""
    return Path(options.cache_dir) if options.cache_dir else Path(options.log_folder) / "teacher"


def plan(
    net: GSVNet, parts: Sequence[VideoPart], options: Options, folder: Path, pictures: bool
) -> list[Pass]:
    """What is to be in the cache: a folder for each video, named by the digests of segmenter and frames."""
    teacher = {
        "segmenter": digest_of(net.segmenter), "described": described(net.segmenter), "scale": options.scale,
        "grid": net.grid, "dis": [options.dis_side, options.dis_preset], "amp": options.amp, "pictures": pictures,
    }
    runs = max(options.multi_step) + 1
    chosen = chosen_frames([part.count for part in parts], options.frames, runs)
    passes = []
    for part, numbers in zip(parts, chosen):
        digest, size = frames_digest(part, folder)
        key = json.dumps(teacher | {"frames": digest, "first": part.first, "numbers": numbers}, sort_keys=True)
        names = [part.title(number) for number in numbers]
        place = folder / f"{part.name.replace(os.sep, '_')}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        grid, classes = grid_size(*size, net.grid), len(net.segmenter.names)
        shapes = {"logits": (classes, *grid), "view": (3, *grid), "flow": (2, *grid)}
        passes.append(Pass(part, numbers, TaughtVideo(place, size, names), {} if pictures else shapes))
    return passes


def chosen_frames(lengths: Sequence[int], wanted: int, run: int) -> list[list[int]]:
    """Which frames of videos of these lengths are trained on: all, or about `wanted` in runs of `run` frames that are
    spread evenly over all videos."""
    total, count = sum(lengths), math.ceil(wanted / run)
    if not wanted or count * run >= total:
        return [[*range(length)] for length in lengths]
    starts = {total * number // count for number in range(count)}
    found, begin = [], 0
    for length in lengths:
        firsts = (min(start - begin, max(0, length - run)) for start in starts if begin <= start < begin + length)
        found.append(sorted({i for first in firsts for i in range(first, min(first + run, length))}))
        begin += length
    return found


def frames_digest(part: VideoPart, folder: Path) -> tuple[str, tuple[int, int]]:
    """SHA-256 of the bytes of the part's frames, and their size (H,W); remembered in `folder` by the names, sizes and
    times of the files. Raises UserError where the frames differ in size."""
    source = Path(part.source)
    files = sorted(source.iterdir()) if source.is_dir() else [source] if source.is_file() else []
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
    known = folder / "frames" / f"{_sha(json.dumps([stats, part.source, part.first, part.count]).encode())}.json"
    if files and known.is_file():
        try:
            found = json.loads(known.read_text())
            return str(found["digest"]), (int(found["height"]), int(found["width"]))
        except (ValueError, LookupError, TypeError, OSError):
            pass  # damaged: made again
    digest, size = hashlib.sha256(), (0, 0)
    for number, image in enumerate(part.images()):
        here = (image.shape[0], image.shape[1])
        if number and here != size:
            raise UserError(
                f"{part.source}: {part.title(number)} has {here[1]} x {here[0]} pixels, but {part.title(0)} of the "
                f"same video {size[1]} x {size[0]}; all frames of a video must have one size"
            )
        size = here
        digest.update(image.numpy().tobytes())
    write_json(known, {"digest": digest.hexdigest(), "height": size[0], "width": size[1]})
    return digest.hexdigest(), size


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def prepare(passes: Sequence[Pass], folder: Path) -> None:
    """Announce the space that is needed, and make the files. Raises UserError where the disk has less."""
    missing = [each for each in passes if not (each.video.folder / "state.npy").is_file()]
    every, needed = (sum(x) for x in zip(*((each.bytes, each.bytes_left) for each in passes)))
    with file_errors(folder, "change --cache-dir"):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    logger.info(
        "teacher: %d frames of %d videos, %.2f GiB in %s, of which %.2f GiB are to be added; %.2f GiB free",
        sum(len(each.numbers) for each in passes), len(passes), every / 2**30, folder, needed / 2**30, free / 2**30,
    )
    if needed > free:
        raise UserError(
            f"{folder}: too little space for the teacher's logits; change --cache-dir, sample with --frames N, or use "
            "--teacher-cache 0"
        )
    for each in missing:
        place, rows = each.video.folder, len(each.numbers)
        for name, shape in each.shapes.items():
            _allocate(place / f"{name}.npy", (rows, *shape))
        write_json(place / "frames.json", {"source": each.part.source, "frames": list(each.video.names)})
        with written_whole(place / "state.npy") as file:  # last: the others are complete
            np.save(file, np.zeros(rows, np.uint8))


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Make a .npy file of float16 zeros, which takes no space on the disk yet."""
    with file_errors(path, SPACE):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
            file.truncate(file.tell() + 2 * math.prod(shape))


class RowFiles:
    """Writes rows of a video's arrays: in files, not through memory, where a full disk would kill the process."""

    def __init__(self, each: Pass):
        self.folder, self.pending = each.video.folder, dict[int, int]()
        self.files: dict[str, tuple[BinaryIO, int, int]] = {}  # file, place of the first row, bytes of each
        for name in (*each.shapes, "state"):
            array = each.video.array(name)
            self.files[name] = open(self.folder / f"{name}.npy", "r+b"), array.offset, array[0].nbytes

    def write(self, row: int, state: int, arrays: dict[str, Tensor]) -> None:
        """Write a row; it counts as done after the next `note`."""
        for name, x in arrays.items():
            self._put(name, row, x.half().cpu().contiguous().numpy().tobytes())
        self.pending[row] = state
        if len(self.pending) >= BATCH:
            self.note()

    def note(self) -> None:
        """Note as done what has been written, when it is on the disk."""
        with file_errors(self.folder, SPACE):
            for file, *_ in self.files.values():
                file.flush()
                os.fsync(file.fileno())
        for row, state in self.pending.items():
            self._put("state", row, bytes([state]))
        self.pending.clear()
        with file_errors(self.folder / "state.npy", SPACE):
            self.files["state"][0].flush()

    def _put(self, name: str, row: int, content: bytes) -> None:
        file, offset, each = self.files[name]
        with file_errors(self.folder / f"{name}.npy", SPACE):
            file.seek(offset + row * each)
            file.write(content)

    def __enter__(self) -> "RowFiles":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is not UserError:  # that of a full disk
                self.note()
        finally:
            for entry in self.files.values():
                with contextlib.suppress(OSError):  # after a full disk, which tries once more what could not be written
                    entry[0].close()


def pictures_of(each: Pass, row: int) -> tuple[Path, Path]:
    """The files of a row's frame and its label map."""
    folder, file = each.video.folder, each.part.files[each.part.first + each.numbers[row]] if each.part.files else None
    return file or folder / "frames" / f"{row:06d}.png", folder / "labels" / f"{row:06d}.png"
