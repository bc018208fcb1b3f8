"""Render sequences and write them as a data set in the Cityscapes folder layout."""
import contextlib
import glob
import json
import multiprocessing
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from config.errors import UserError
from config.folders import advice
from streets.render import Buffers, draw, expose, flow_between
from streets.scene import sample_world
from utils.folder_lock import alone_in
from utils.interrupts import end_with_parent, starting_processes
from utils.logging import progress_bar

VERSION = 2  # increase it with every change of the pixels
CITY = "streets"
FLOW_ZERO, FLOW_SCALE = 2**15, 64.0


@dataclass(frozen=True)
class StreetSettings:
    """What to generate: picture size in pixels, number of train and val sequences, frames of each, random seed."""

    height: int = 256
    width: int = 512
    train: int = 80
    val: int = 20
    length: int = 10
    seed: int = 1


class StreetFrame(NamedTuple):
    """One frame: image (H,W,3) uint8 RGB, label (H,W) uint8 Cityscapes labelIds, and the true motion.

    flow (H,W,2) float32 in pixels, x first: the surface point seen at p was at p + flow(p) one frame earlier; visible
    (H,W) bool: it can be seen there. ahead, ahead_visible: the reverse, from the pixels of the previous frame to this
    one. All are None for the first frame.
    """

    image: np.ndarray
    label: np.ndarray
    flow: np.ndarray | None = None
    visible: np.ndarray | None = None
    ahead: np.ndarray | None = None
    ahead_visible: np.ndarray | None = None


def render_sequence(settings: StreetSettings, split: str, index: int) -> Iterator[StreetFrame]:
    """Render the frames of one sequence; its pixels depend only on the settings' seed and size, `split` and `index`."""
    sequence = np.random.SeedSequence([settings.seed, zlib.crc32(split.encode()), index])
    # The sensor noise has its own generator, so that the world does not depend on the picture size.
    world_seed, noise_seed = sequence.spawn(2)
    world, noise_rng = sample_world(np.random.default_rng(world_seed)), np.random.default_rng(noise_seed)
    before: Buffers | None = None
    for frame in range(settings.length):
        now = draw(world, frame, settings.height, settings.width)
        image = expose(world, frame, now, noise_rng)
        flows = (*flow_between(now, before), *flow_between(before, now)) if before is not None else ()
        yield StreetFrame(image, now.label, *flows)
        before = now


def write_flow(path: Path, flow: np.ndarray, valid: np.ndarray) -> None:
    """Write a flow (H,W,2), pixels, x first, as a KITTI 16-bit PNG: to 1/64 pixel within +-512, `valid` (H,W) bool."""
    steps = np.rint(flow * FLOW_SCALE) + FLOW_ZERO
    valid = valid & ((steps >= 0) & (steps < 2**16)).all(axis=-1)
    # OpenCV writes channels in reverse order: valid, y, x in memory is x, y, valid in the file.
    planes = np.dstack([valid, np.clip(steps[..., ::-1], 0, 2**16 - 1)]).astype(np.uint16)
    _write(path, planes)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # cv2.imwrite does not report why it fails, and not always that it does.
    path.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes())


def _write_sequence(root: Path, settings: StreetSettings, split: str, index: int) -> None:
    cv2.setNumThreads(1)
    for number, frame in enumerate(render_sequence(settings, split, index)):
        stem = f"{CITY}_{index:06d}_{number:06d}"
        picture = root / "leftImg8bit_sequence" / split / CITY / f"{stem}_leftImg8bit.png"
        _write(picture, np.ascontiguousarray(frame.image[..., ::-1]))
        _write(root / "gtFine" / split / CITY / f"{stem}_gtFine_labelIds.png", frame.label)
        if frame.flow is not None and frame.visible is not None:
            write_flow(root / "flow" / split / CITY / f"{stem}_flow.png", frame.flow, frame.visible)
        if frame.ahead is not None and frame.ahead_visible is not None and split == "val":
            # Only evaluation needs it: temporal consistency warps the next frame's labels back.
            stem = f"{CITY}_{index:06d}_{number - 1:06d}"
            write_flow(root / "flow_ahead" / split / CITY / f"{stem}_flow.png", frame.ahead, frame.ahead_visible)


def _record(settings: StreetSettings) -> dict[str, int]:
    return {"version": VERSION, **asdict(settings)}


def _reusable(root: Path, settings: StreetSettings) -> bool:
    """Return whether root holds exactly this data set, False if it is empty. Raises UserError for other data."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    with contextlib.suppress(OSError, ValueError, RecursionError):  # not a finished data set of this program
        if json.loads((root / "synthetic.json").read_text()) == _record(settings):
            return True
    if not root.is_dir():
        raise UserError(f"{root}: a file, not a folder; choose another --data-path")
    # A folder that looks like somebody's data set should not be removed.
    advised = advice(root, ["synthetic"]) or "; remove the folder or choose another --data-path"
    raise UserError(f"{root}: holds other data than the requested synthetic streets{advised}")


def ensure_streets(root: Path, settings: StreetSettings, workers: int | None = None) -> Path:
    """Generate the data set of these settings in root unless it is there: once, also for several processes.

    workers: number of processes, None for one a core; it does not change the pixels. Returns root. Raises UserError if
    root holds other data or cannot be written.
    """
    root = Path(root)
    if _reusable(root, settings):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        with alone_in(root.parent) as alone:
            if not _reusable(root, settings):  # another process may have finished it meanwhile
                _generate(root, settings, workers, alone)
    except OSError as error:
        raise UserError(
            f"{root}: the synthetic streets cannot be written ({error.strerror or error}); free some space, or choose "
            "another --data-path"
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            f"{root}: a process that rendered the synthetic streets was killed, usually for lack of memory; free "
            "some memory and try again"
        ) from error
    return root


def _generate(root: Path, settings: StreetSettings, workers: int | None, alone: bool) -> None:
    prefix = f".{root.name}.unfinished."
    if alone:
        for left in root.parent.glob(f"{glob.escape(prefix)}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=prefix, dir=root.parent))
    try:
        building.chmod(0o755)  # mkdtemp makes it private, but it becomes the data set
        _build(building, settings, workers)
        try:
            building.rename(root)
        except OSError:
            if not _reusable(root, settings):  # another process finished it first, or the disk failed
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _build(root: Path, settings: StreetSettings, workers: int | None) -> None:
    jobs = [("train", index) for index in range(settings.train)] + [("val", index) for index in range(settings.val)]
    workers = workers or len(os.sched_getaffinity(0))
    with progress_bar(total=len(jobs), description="synthetic streets", unit="sequence") as bar:
        if workers == 1:
            for split, index in jobs:
                _write_sequence(root, settings, split, index)
                bar.update()
        else:
            context = multiprocessing.get_context("spawn")  # safe with any threads of the caller
            with ProcessPoolExecutor(min(workers, max(1, len(jobs))), context, end_with_parent) as pool:
                try:
                    with starting_processes():
                        futures = [pool.submit(_write_sequence, root, settings, split, index) for split, index in jobs]
                    for future in as_completed(futures):
                        future.result()
                        bar.update()
                except BaseException:
                    for process in multiprocessing.active_children():  # otherwise the pool would finish all jobs first
                        process.kill()
                    raise
    (root / "synthetic.json").write_text(json.dumps(_record(settings), indent=2) + "\n")
