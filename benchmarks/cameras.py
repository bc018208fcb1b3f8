"""--benchmark cameras: several streams at once, by one process with all cores or by a process for each core."""
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache, partial

import numpy as np
import torch

from benchmarks.measure import Rounds, frame_size, networks_to_measure, turns
from benchmarks.video_stream import GROUPS, calibration, street, way_of
from config.options import Options
from inference.engines import Engine, build_engine
from inference.stream import CameraGroup
from utils.device import synchronise
from utils.machine import set_up_torch
from utils.text_table import Table

CAMERAS = {"cpu": (1, 2, 4), "cuda": (1, 24)}  # by kind of device; of 24, 8 have a keyframe in each call
IN_TURN, BATCHED, PINNED = "one process, in turn", "one process, as batches", "a process for each core"


def benchmark_cameras(options: Options, device: torch.device) -> dict:
    """Time keyframe groups of all cameras together, from uint8 frames in memory to uint8 label maps, all ways in turn.

    Returns `settings`, `cores`, `rows` (number of cameras -> way -> `fps` of all cameras together, and that `per_core`
    and `per_camera`), `table` (lines). A process for each core is for CPUs alone. Raises UserError.
    """
    size = options.frame_size if "frame_size" in options.given else frame_size(options)
    cores = sorted(os.sched_getaffinity(0)) if device.type == "cpu" and hasattr(os, "sched_getaffinity") else []
    engine, weights = _engine(options, device, size)
    counts, frames = CAMERAS[device.type][: 2 if options.early_stop else None], street(size, options.interval)
    works: dict[tuple[int, str], Callable[[], object]] = {}
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pools = [stack.enter_context(ProcessPoolExecutor(1, spawn, _pin, (core,))) for core in cores]
        for count in counts:
            for way in (IN_TURN, BATCHED) if engine.batched else (IN_TURN,):
                works[count, way] = partial(_run_groups, engine, way == BATCHED, count, frames)
            if pools:
                works[count, PINNED] = partial(_run_pinned, pools, options, size, count)
        seconds = turns(works, Rounds.of(options, *GROUPS), partial(synchronise, device))
    rows: dict[int, dict[str, dict[str, float]]] = {count: {} for count in counts}
    for (count, way), times in seconds.items():
        fps = count * options.interval / statistics.median(times)
        rows[count][way] = {"fps": fps, "per_core": fps / max(len(cores), 1), "per_camera": fps / count}
    settings = (
        f"{size[1]} x {size[0]}, {options.segnet}, {way_of(options)}, {weights}, scale {options.scale:g}, interval "
        f"{options.interval}, --engine {engine.name} --precision {options.precision}, {len(cores)} cores"
    )
    alone = rows[1][IN_TURN]["fps"]
    cells = [
        (str(count), way, *(f"{x:.2f}" for x in row.values()), f"{row['fps'] / alone:.2f}")
        for count, ways in rows.items() for way, row in ways.items()
    ]
    head = ("cameras", "", "frames/s", "of each core", "of each camera", "x one camera")
    table = Table("Several cameras, median", head, tuple(cells))
    return {"settings": settings, "cores": len(cores), "rows": rows, "table": [settings, *table.console()]}


@cache
def _engine(options: Options, device: torch.device, size: tuple[int, int]) -> tuple[Engine, str]:
    """The options' engine, for frames of that size, eager for auto; and its weights in words. Raises UserError."""
    torch.manual_seed(options.seed)
    net, weights = networks_to_measure(options)
    pairs = calibration(options, street(size, 1)) if options.precision == "int8" else ()
    engine = build_engine(
        Engine.name if options.engine == "auto" else options.engine, net.eval(), scale=options.scale, device=device,
        method=options.method, carry=options.carry, precision=options.precision, calibration=pairs,
    )
    return engine, weights


@cache
def _cameras(engine: Engine, batched: bool, count: int, interval: int) -> CameraGroup:
    return CameraGroup(engine, count, interval, batched=batched)


def _run_groups(engine: Engine, batched: bool, count: int, frames: Sequence[np.ndarray]) -> None:
    """A keyframe group of every camera; all see the same frames."""
    cameras = _cameras(engine, batched, count, len(frames))
    for frame in frames:
        cameras([frame] * count)


def _pin(core: int) -> None:
    """Keep this process on one processor, with one thread; memory as `main` keeps it."""
    set_up_torch()
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)


def _run_pinned(pools: Sequence[Executor], options: Options, size: tuple[int, int], count: int) -> None:
    """As `_run_groups`, of cameras that the processes share."""
    shares = [len(range(first, count, len(pools))) for first in range(min(len(pools), count))]
    for done in [pool.submit(_run_share, options, size, share) for pool, share in zip(pools, shares)]:
        done.result()


def _run_share(options: Options, size: tuple[int, int], count: int) -> None:
    engine, _ = _engine(options, torch.device("cpu"), size)
    _run_groups(engine, False, count, _street(size, options.interval))


_street = cache(street)
