"""--benchmark video: a stream by every engine, compared with the published way and with segmenting every frame.

`python -m benchmarks.video_stream RUN.json ...` prints the figures of several runs as Markdown, with their ranges.
"""
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import Scores, accuracy
from benchmarks.break_even import break_even, break_even_table, verdict
from benchmarks.measure import Rounds, frame_size, median_and_p95, milliseconds, networks_to_measure, turns
from benchmarks.own_process import in_own_process
from benchmarks.published_way import PlainStream, published_networks
from config.errors import UserError
from config.options import Options
from evaluation.tables import percent
from inference.calibration import PLACES, Pair, calibration_pairs
from inference.engine_choice import agreement_of
from inference.engines import Candidate, CompiledEngine, Engine, build_engine, candidates, shown
from inference.keyframe_schedule import FixedInterval
from inference.stream import VideoSegmenter
from models.gsvnet import GSVNet
from streets import StreetSettings, render_sequence
from utils.device import synchronise
from utils.logging import logger
from utils.text_table import Table

GROUPS = 10, 2  # keyframe groups that are timed, and that come before them to warm up
FEW_GROUPS, SLOW = (3, 1), 5.0  # instead, where a keyframe takes more seconds than this
STAGES = ("view", "keyframe", "propagate", "labels")
TIMES = ("keyframe_ms", "propagated_ms", "group_ms")
INTERVALS = (1, 3, 5)  # of --engine all
STREETS = (1, 2, 3)  # on which its labels are compared too
Works = dict[str, Callable[[], object]]


def benchmark_video(options: Options, device: torch.device) -> dict:
    """Time frames, from the uint8 frame in memory to the uint8 label map of its size, and their stages, all in turn.

    Returns `settings`, `rows` (name -> `figures`, with --results also `miou`; "plain" is the published way),
    `agreement` (engine -> share of pixels with the published way's label, for its own method), `break_even` (that of
    the fastest engine), `table` (lines). With --engine all, `rows` and `agreement` (with the labels of eager's float32)
    are by keyframe interval.
    """
    net, weights = networks_to_measure(options)
    size, every = options.frame_size if "frame_size" in options.given else frame_size(options), options.engine == "all"
    interval = max(INTERVALS) if every else options.interval
    frames = street(size, interval)
    tried = tried_engines(options, device)
    scores, dataset = accuracy(options, net, tried, INTERVALS if every else [interval])
    engines = usable_engines(options, tried, net.eval(), device, frames)
    plain = in_own_process(options, device, published_stream, options, device, size, interval)
    works: Works = {f"plain {t}": partial(plain, t) for t in range(interval)}
    for name, engine in engines.items():
        works |= engine_works(name, engine, net, frames)
    began = time.perf_counter()
    plain(0)
    rounds = Rounds.of(options, *(FEW_GROUPS if time.perf_counter() - began > SLOW else GROUPS))
    seconds = turns(works, rounds, partial(synchronise, device))
    settings = (
        f"{size[1]} x {size[0]}, batch 1, {options.segnet}, {way_of(options)}, {weights}, scale {options.scale:g}, "
        f"interval {'of each row' if every else interval}, {'' if every else options.precision + ', '}synthetic street"
        f"{dataset and f'; mean mIoU: {dataset} val'}"
    )
    if every:
        found = by_interval(net, engines, seconds, frames, scores)
        return found | {"settings": settings, "table": [settings, *found["table"]]}
    rows = rows_of(engines, seconds, interval, scores[interval])
    agree, published = {}, options.method == "gsv" and options.optical_flow_network != "dis"
    for name, engine in engines.items() if published else ():
        stream = VideoSegmenter(net, engine=engine, schedule=FixedInterval(interval))
        agree[name] = float(np.mean([stream(frame) == plain(t, True) for t, frame in enumerate(frames)]))
    table = [settings, *times_table(rows, agree).console(), *stages_table(rows).console()]
    found = {"settings": settings, "rows": rows, "agreement": agree, "table": table}
    if interval > 1:
        best = min(engines, key=lambda name: rows[name]["group_ms"][0])
        found["break_even"] = worth = break_even(net, size, options.scale, rows[best], options.method)
        table += [*break_even_table(best, worth).console(), verdict(worth, rows[best])]
    return found


def published_stream(
    options: Options, device: torch.device, size: tuple[int, int], count: int
) -> Callable[..., np.ndarray | None]:
    """The published way of the same stream: a function of a frame's number, and of whether its labels (H,W) are
    wanted."""
    net, frames = networks_to_measure(options)[0].eval(), street(size, count)
    plain = PlainStream(published_networks(net), options.scale, device)

    def segmented(t: int, wanted: bool = False) -> np.ndarray | None:
        labels = plain(t, frames[t])
        return labels.numpy() if wanted else None

    return segmented


def street(size: tuple[int, int], count: int, split: str = "val", number: int = 0) -> list[np.ndarray]:
    """The first frames of a synthetic street."""
    return [x.image for x in render_sequence(StreetSettings(*size, length=count), split, number)]


def rows_of(
    engines: dict[str, Engine], seconds: dict[str, list[float]], interval: int, scores: dict[str, float]
) -> dict[str, dict]:
    """`figures` of the published way and of the engines, and what is known of their accuracy."""
    rows = {name: figures(name, seconds, interval) for name in ("plain", *engines)}
    return {name: row | ({"miou": scores[name]} if name in scores else {}) for name, row in rows.items()}


def by_interval(
    net: GSVNet, engines: dict[str, Engine], seconds: dict[str, list[float]], frames: Sequence[np.ndarray],
    scores: Scores,
) -> dict[str, Any]:
    """`rows`, `agreement` and `table` of --engine all, by keyframe interval."""
    tests = [frames, *(street(frames[0].shape[:2], len(frames), number=number) for number in STREETS)]
    labels = {}
    for name, engine in engines.items():
        stream = VideoSegmenter(net, engine=engine, schedule=FixedInterval(len(frames)))
        labels[name] = [np.stack([*stream.stream(test)]) for test in tests]  # (T,H,W) each
    rows = {n: rows_of(engines, seconds, n, scores[n]) for n in INTERVALS}
    expected = labels[Engine.name]
    agree = {
        n: {name: agreement_of([x[:n] for x in found], [x[:n] for x in expected]) for name, found in labels.items()}
        for n in INTERVALS
    }
    tables = [times_table(rows[n], agree[n], f"Keyframe interval {n}, end to end, ms") for n in INTERVALS]
    return {"rows": rows, "agreement": agree, "table": [line for table in tables for line in table.console()]}


def way_of(options: Options) -> str:
    """Method, flow and what is carried, in words."""
    carried = f", {options.carry} carried" if options.method in ("warp", "copy") else ""
    return f"{options.method}, {options.optical_flow_network} flow{carried}"


def tried_engines(options: Options, device: torch.device) -> list[Candidate]:
    """The engine that --engine names, with auto all, with all in all their precisions."""
    if options.engine not in ("auto", "all"):
        return [(options.engine, options.precision)]
    return candidates(options.engine, "auto" if options.engine == "all" else options.precision, device)


def usable_engines(
    options: Options, tried: Sequence[Candidate], net: GSVNet, device: torch.device, frames: Sequence[np.ndarray]
) -> dict[str, Engine]:
    """Those of `tried` that work here; each has seen two frames. Raises UserError if one that --engine names does not.

    A dry run with auto skips the compiled engine, which takes minutes to compile.
    """
    named = options.engine not in ("auto", "all")
    pairs = cache(lambda: calibration(options, frames))
    found = {}
    for name, precision in tried:
        if options.early_stop and name == CompiledEngine.name and not named:
            continue
        try:
            settings: dict[str, Any] = dict(method=options.method, carry=options.carry, precision=precision)
            settings["calibration"] = pairs() if precision == "int8" else ()
            engine = build_engine(name, net, scale=options.scale, device=device, **settings)
            list(VideoSegmenter(net, engine=engine).stream(frames[:2]))
            found[shown((name, precision))] = engine
        except UserError as error:
            if named:
                raise
            logger.info("engine %s skipped: %s", shown((name, precision)), error)
    return found


def calibration(options: Options, frames: Sequence[np.ndarray]) -> list[Pair]:
    """Frames for int8: of --calibrate, or of streets that are not measured."""
    if options.calibrate:
        return calibration_pairs(options.calibrate, seed=options.seed)
    streets = [street(frames[0].shape[:2], 2, "train", number) for number in range(PLACES)]
    return [(first, second) for first, second in streets]


def engine_works(name: str, engine: Engine, net: GSVNet, frames: Sequence[np.ndarray]) -> Works:
    """What is timed of an engine: "NAME t" (frame t of a stream), "NAME alone" (a keyframe), "NAME STAGE", of the
    networks with their frames on the device."""
    stream, alone = (VideoSegmenter(net, engine=engine, schedule=FixedInterval(n)) for n in (len(frames), 1))
    first, second = (torch.from_numpy(frames[t])[None] for t in (0, len(frames) > 1))
    seen = engine.see(first)
    following, state = engine.see(second, seen), engine.first(seen)
    seen, following = (replace(x, image=x.image.to(engine.device)) for x in (seen, following))
    return {
        **{f"{name} {t}": partial(stream, frame) for t, frame in enumerate(frames)},
        f"{name} alone": partial(alone, frames[-1]),
        f"{name} view": partial(engine.see, second, seen), f"{name} keyframe": partial(engine.first, seen),
        f"{name} propagate": partial(engine.next, state, following),
        f"{name} labels": partial(engine.labels, state, seen.size),
    }


def figures(name: str, seconds: dict[str, list[float]], interval: int) -> dict[str, Any]:
    """The figures of an engine, or of the published way ("plain").

    `keyframe_ms`, `propagated_ms` (None at interval 1), `group_ms`: [median, 95th percentile] of a frame or a group of
    `interval` frames; `fps`. Of an engine also `speedup` over the published way, by groups; `per_frame_ms`,
    `per_frame_fps` and `per_frame_speedup` for the same engine segmenting every frame; `stages_ms` (stage -> median);
    `network_fps`, from the stages keyframe and propagate alone.
    """
    groups, plain = (
        median_and_p95([sum(times) for times in zip(*(seconds[f"{row} {t}"] for t in range(interval)))])
        for row in (name, "plain")
    )
    propagated = [x for t in range(1, interval) for x in seconds[f"{name} {t}"]]
    found: dict[str, Any] = {
        "keyframe_ms": median_and_p95(seconds[f"{name} 0"]),
        "propagated_ms": median_and_p95(propagated) if propagated else None, "group_ms": groups,
        "fps": 1e3 * interval / groups[0],
    }
    if name != "plain":
        alone = median_and_p95(seconds[f"{name} alone"])
        stages = {stage: median_and_p95(seconds[f"{name} {stage}"])[0] for stage in STAGES}
        network = stages["keyframe"] + (interval - 1) * stages["propagate"]
        found |= {
            "speedup": plain[0] / groups[0], "per_frame_ms": alone, "per_frame_fps": 1e3 / alone[0],
            "per_frame_speedup": interval * alone[0] / groups[0], "stages_ms": stages,
            "network_fps": 1e3 * interval / network,
        }
    return found


def times_table(rows: dict[str, dict], agree: dict[str, float], title: str = "End to end, ms") -> Table:
    """End-to-end times, speed-ups and agreement."""
    cells, scored = [], any("miou" in row for row in rows.values())
    for name, row in rows.items():
        cell = [*(milliseconds(row[key]) for key in TIMES), f"{row['fps']:.2f}"]
        if name == "plain":
            cell += ["1.00", "", "", ""]
        else:
            cell += [f"{row['speedup']:.2f}", milliseconds(row["per_frame_ms"]), f"{row['per_frame_speedup']:.2f}"]
            cell.append(f"{100 * agree[name]:.2f} %" if name in agree else "-")
        mean = [percent(row.get("miou"))] if scored else []
        cells.append(("published way" if name == "plain" else name, *cell, *mean))
    head = (
        "", "keyframe", "propagated", "group", "FPS", "x published", "every frame segmented", "x that", "same labels",
        *(["mean mIoU"] if scored else []),
    )
    return Table(f"{title}: median (95th percentile)", head, tuple(cells))


def stages_table(rows: dict[str, dict]) -> Table:
    """The stages of an engine's frames, and the rate of its networks alone."""
    cells = [
        (name, *(f"{row['stages_ms'][stage]:.1f}" for stage in STAGES), f"{row['network_fps']:.2f}")
        for name, row in rows.items() if name != "plain"
    ]
    return Table("Stages, ms: median", ("", *STAGES, "network FPS"), tuple(cells))


def runs_table(runs: Sequence[dict[str, dict]]) -> Table:
    """`rows` of several runs of `benchmark_video`: median of the runs, their range in brackets."""
    def ranged(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    cells = []
    for name in runs[0]:
        rows = [run[name] for run in runs]
        times = [ranged([row[key][0] for row in rows]) if rows[0][key] else "" for key in TIMES]
        keys = ("fps", *(() if name == "plain" else ("speedup", "per_frame_speedup")))
        cell = (*times, *(ranged([row[key] for row in rows]) for key in keys))
        cells.append(("published way", *cell, "", "") if name == "plain" else (name, *cell))
    head = ("", "keyframe, ms", "propagated, ms", "group, ms", "FPS", "x published", "x every frame segmented")
    return Table(f"{len(runs)} runs: median (range) of their medians", head, tuple(cells))


if __name__ == "__main__":
    found = [json.loads(Path(word).read_text())["rows"] for word in sys.argv[1:]]
    for n in [""] if "plain" in found[0] else found[0]:  # with --engine all, rows by interval
        table = runs_table([run[n] if n else run for run in found])
        print(f"keyframe interval {n}" if n else table.title, *table.markdown(), "", sep="\n")
