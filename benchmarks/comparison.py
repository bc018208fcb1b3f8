"""--benchmark table: the published comparison, measured again: size, cost, speed and memory of every row.

Accuracy comes from metrics.json files (`--results`). Published figures have columns of their own.
"""
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks import measure
from benchmarks.complexity import parameters, stream_gmac
from config.datasets import dataset_config
from config.options import Options
from config.segmenters import VIDEO_NETWORKS
from evaluation.metrics_json import Metrics, over_interval, read_metrics
from evaluation.tables import percent
from inference.engines import Engine, build_engine
from models.accel import Accel
from models.build import build_gsvnet
from models.flow_none import NoFlow
from models.gsvnet import GSVNet, State
from models.methods.base import SeenFrame, with_labels
from models.resize import GRID_STRIDE, grid_size, scaled_size
from utils.charts import scatter_figure
from utils.device import synchronise
from utils.logging import logger
from utils.text_table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDS = {"cpu": 20, "cuda": 100}
STEADY = 4  # frames of a stream after which every further one costs the same


@dataclass(frozen=True)
class Row:
    """A row of the published comparison, or one of our own. flow: None if nothing is carried along one. published: see
    `ROWS`. interval: if it is not that of the options."""

    segnet: str
    scale: float
    flow: str | None = None
    published: tuple[float | None, ...] = (None,) * 5
    method: str = "per-frame"
    carry: str = "logits"
    interval: int | None = None

    @property
    def propagates(self) -> bool:
        return self.method != "per-frame"

    @property
    def own(self) -> bool:
        """Whether the network is a method for video itself."""
        return self.segnet in VIDEO_NETWORKS

    def mean(self, key: float, propagated: float, interval: int) -> float:
        """The mean over a stream of something that keyframes and other frames have different amounts of."""
        if self.method == "tdnet":
            return propagated  # of all frames but the first three
        interval = self.interval or interval
        return (key + (interval - 1) * propagated) / interval

    @property
    def name(self) -> str:
        """The model's name in the tables."""
        network = f"{NAMES[self.segnet]} {self.scale:g}"
        if self.method == "warp":
            return f"{network}, {self.carry} moved along {self.flow}"
        return f"GSVNet {network}, {self.flow} flow" if self.method == "gsv" else network


NAMES = {"swiftnet": "SwiftNet-R18", "bisenet": "BiSeNet-R18", "bisenet-xception39": "BiSeNet-Xception39",
         "td4-bise18": "TDNet-BN-R18 (TD4-Bise18)", "accel18": "Accel-DL-R101-18, interval 5,"}
# Of the paper: mIoU in per cent at interval 3, frames per second on a 1080 Ti, MB of parameters, GMAC per frame.
ROWS = (
    Row("swiftnet", 0.75, "light", (72.5, 70.3, 125, 50.4, 21.3), "gsv"),
    Row("bisenet", 0.75, "light", (72.0, 70.5, 123, None, None), "gsv"),
    Row("swiftnet", 0.75, "flownet", method="gsv"),
    Row("bisenet", 0.75, "flownet", method="gsv"),
    Row("swiftnet", 0.75, "dis", method="gsv"),
    *(Row(name, 0.75, "dis", method="warp", carry=x) for name in ("swiftnet", "bisenet") for x in ("logits", "labels")),
    Row("swiftnet", 1.0),
    Row("swiftnet", 0.75, None, (74.4, 74.4, 63, 47.2, 58.5)),
    Row("swiftnet", 0.5, None, (None, None, None, 47.2, 26.0)),
    Row("bisenet", 1.0),
    Row("bisenet", 0.75, None, (73.7, 73.7, 61, 49.0, 58.0)),
    Row("bisenet", 0.5),
    Row("bisenet-xception39", 0.75, None, (69.0, 69.0, 105, None, None)),
    Row("td4-bise18", 0.75, None, (75.0, 75.0, 61, None, None), "tdnet"),
    Row("accel18", 1.0, None, (72.1, None, 2.2, None, None), "accel", interval=5),
)


def benchmark_table(options: Options, device: torch.device) -> dict:
    """Measure every row at 1024 x 2048, batch 1; in a dry run on small frames, once.

    Returns `settings`, `interval`, `rows` (dicts of `Row`'s fields, `name`, and the keys of `complexity`, `speed` and
    `accuracy`), `table` and `markdown` (lines), `figure`.
    """
    # Eager unless an engine is named: rows compare networks, not engines.
    options = replace(options, engine="eager") if options.engine == "auto" else options
    classes, size = dataset_config("cityscapes_2k", "").num_classes, measure.frame_size(options)
    results = [read_metrics(Path(path)) for path in options.results]
    rows = []
    for row in ROWS:
        found = {"name": row.name, **asdict(row), **complexity(row, classes, options.interval)}
        found |= speed(row, classes, options, device) | accuracy(row, results, options)
        rows.append(found)
        logger.info("%s: %.1f frames/s end to end", row.name, found["end_to_end"]["fps"])
    settings = (
        f"{size[1]} x {size[0]}, batch 1, interval {options.interval}, engine {options.engine}, {options.precision}, "
        "BatchNorm folded, untrained weights; GMAC at 2048 x 1024; end to end: from the uint8 frame in memory to the "
        "full-size uint8 label map, including argmax; network: logits of a frame that already has the segmenter's "
        "size, including normalisation; memory: peak minus what was in use before the row's networks were built"
    )
    tables = [cost_table(rows), speed_table(rows), accuracy_table(rows)]
    return {
        "settings": settings, "interval": options.interval, "rows": rows,
        "table": [settings, *(line for table in tables for line in table.console())],
        "markdown": [settings, "", *(line for table in tables for line in table.markdown())], "figure": plot(rows),
    }


def complexity(row: Row, classes: int, interval: int) -> dict:
    """`parameters` of inference, `megabytes` in float32, `gmac` (keyframe, propagated, average over an interval).

    The guided convolution is counted in its published form; this program's form saves `published_fusion_gmac`. So is
    Accel's fusion, at full size.
    """
    with torch.device("meta"):  # allocates and initialises nothing
        net = build_gsvnet(segmenter=row.segnet, flow=row.flow or "none", classes=classes).eval()
    if isinstance(net.segmenter, Accel):
        net.segmenter.one_kernel = False
    key, propagated = stream_gmac(net, *measure.SIZE, row.scale, row.method, STEADY)
    count = parameters(net.segmenter) - sum(map(parameters, net.segmenter.training_only())) + parameters(net.flow)
    count += parameters(net.guided) if row.method == "gsv" else 0
    return {
        "parameters": count, "megabytes": count * 4 / 1e6,
        "gmac": {"keyframe": key, "propagated": propagated, "average": row.mean(key, propagated, interval)},
    }


def speed(row: Row, classes: int, options: Options, device: torch.device) -> dict:
    """`peak_gib` and, for "network" and "end_to_end", a dict of `keyframe_ms` and `propagated_ms` (median and 95th
    percentile; None if every frame is segmented), `average_ms` over an interval, `fps`."""
    before = measure.memory_gib(device)
    torch.manual_seed(options.seed)
    net = build_gsvnet(segmenter=row.segnet, flow=row.flow or "none", classes=classes).eval()
    counted = max(1, ROUNDS[device.type] // (4 if row.own else 1))  # the large networks take seconds on a CPU
    settings: dict[str, Any] = dict(device=device, precision=options.precision, method=row.method, carry=row.carry)
    engine = build_engine(options.engine, net, scale=row.scale, **settings)
    image, logits = sample_inputs(classes, measure.frame_size(options))
    logits = logits.to(device)
    measure.reset_peak(device)
    works, wait = end_to_end_works(engine, row, image, logits), partial(synchronise, device)
    for name in works if row.propagates else ("end_to_end keyframe",):
        works[name]()
    wait()
    found: dict = {"peak_gib": measure.peak_gib(device) - before}
    works |= network_works(engine, row, net, image, logits)
    if not row.propagates:
        works = {name: work for name, work in works.items() if name.endswith("keyframe")}
    seconds = measure.turns(works, measure.Rounds.of(options, counted), wait)
    for kind in ("network", "end_to_end"):
        key = measure.median_and_p95(seconds[f"{kind} keyframe"])
        propagated = measure.median_and_p95(seconds[f"{kind} propagated"]) if row.propagates else None
        mean = row.mean(key[0], (propagated or key)[0], options.interval)
        found[kind] = {"keyframe_ms": key, "propagated_ms": propagated, "average_ms": mean, "fps": 1e3 / mean}
    return found


def sample_inputs(classes: int, size: tuple[int, int], grid: int = GRID_STRIDE) -> tuple[Tensor, Tensor]:
    """A frame (1,H,W,3) uint8, and logits (1,C,h,w) whose regions are as large as a street's.

    The time of a label map depends on its regions, and those of untrained networks are not like a street's.
    """
    rng = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 256, (1, *size, 3), generator=rng, dtype=torch.uint8)
    coarse = torch.randn(1, classes, 9, 17, generator=rng)
    logits = nn.functional.interpolate(coarse, size=grid_size(*size, grid), mode="bicubic", align_corners=True)
    return frame, 5 * logits  # (1,C,h,w)


def network_works(engine: Engine, row: Row, net: GSVNet, image: Tensor, logits: Tensor) -> dict[str, Callable]:
    """The networks alone: a frame that already has the segmenter's size; two views."""
    height, width = scaled_size(image.shape[1], image.shape[2], row.scale)
    method, alone = row.method, net
    if not row.own:  # an engine copies its networks, and FlowNet2-S is large
        method, alone = "per-frame", GSVNet(net.segmenter, NoFlow(), net.guided)
    settings: dict[str, Any] = dict(precision=engine.precision, method=method)
    segmenter = build_engine(engine.name, alone, scale=1.0, device=engine.device, **settings)
    frame = segmenter.see(image[:, :height, :width].contiguous().to(engine.device))
    if row.own:
        engine, before, following = segmenter, steady(segmenter, frame), frame
    else:
        seen = engine.see(image)
        before, following = State(logits, seen.view), engine.see(image, seen)
    return {
        "network keyframe": lambda: segmenter.first(frame), "network propagated": lambda: engine.next(before, following)
    }


def end_to_end_works(engine: Engine, row: Row, image: Tensor, logits: Tensor) -> dict[str, Callable]:
    """From the frame's bytes to the label map's; the label map is that of `logits`, see `sample_inputs`."""
    seen = engine.see(image)
    state = before = State(logits, seen.view)
    if row.own:
        before = steady(engine, seen)
        state = before if before.labels is not None else state  # full-size labels need no label map
    elif row.carry == "labels":
        state = before = with_labels(logits, seen.view, seen.size)

    def keyframe() -> None:
        engine.first(engine.see(image) if row.propagates else seen)  # every frame segmented: no view of its own
        engine.labels(state, seen.size)

    def propagated() -> None:
        after = engine.next(before, engine.see(image, seen))
        engine.labels(after if row.carry == "labels" else state, seen.size)

    return {"end_to_end keyframe": keyframe, "end_to_end propagated": propagated}


def steady(engine: Engine, seen: SeenFrame) -> State:
    """The state after STEADY - 1 frames."""
    state = engine.first(seen)
    for _ in range(STEADY - 2):
        state = engine.next(state, seen)
    return state


def accuracy(row: Row, results: Sequence[Metrics], options: Options) -> dict:
    """`dataset`, `frames`, `avg_miou`, `pooled_miou`, `min_miou` over positions 0..interval-1, from the last
    result of this row in the options' precision that is no ablation; None without one."""
    keys = ("dataset", "frames", "avg_miou", "pooled_miou", "min_miou")
    found: dict = dict.fromkeys(keys)
    for metrics in results:
        same = (metrics.method, metrics.segnet, metrics.scale) == (row.method, row.segnet, row.scale)
        same &= metrics.reference == "labels" and metrics.schedule is None and metrics.carry == row.carry
        same &= metrics.precision == options.precision
        same &= row.flow is None or (metrics.flow == row.flow and metrics.intra and metrics.edge)
        scores = over_interval(metrics.positions, row.interval or options.interval) if same else None
        if same and metrics.steady is not None:
            scores = metrics.intervals[0]
        if scores is not None:
            values = scores.mean_miou, scores.pooled_miou, scores.min_miou
            found = dict(zip(keys, (metrics.dataset, metrics.positions[0].frames, *values)))
    return found


def cost_table(rows: Sequence[dict]) -> Table:
    """Parameters and multiply-accumulates."""
    cells = [
        (row["name"], f"{row['parameters']:,}", f"{row['megabytes']:.1f}", shown(row["published"][3]),
         *(f"{x:.2f}" for x in row["gmac"].values()), shown(row["published"][4]))
        for row in rows
    ]
    head = ("model", "parameters", "MB", "published MB", "GMAC keyframe", "propagated", "average", "published average")
    return Table("Size and multiply-accumulates", head, tuple(cells))


def speed_table(rows: Sequence[dict]) -> Table:
    """Latency, throughput and memory."""
    cells = []
    for row in rows:
        cell = [row["name"]]
        for found in (row["network"], row["end_to_end"]):
            cell += [measure.milliseconds(found["keyframe_ms"]), measure.milliseconds(found["propagated_ms"])]
            cell.append(f"{found['fps']:.2f}")
        cells.append((*cell, f"{row['peak_gib']:.2f}", shown(row["published"][2])))
    head = (
        "model", "network: keyframe ms (p95)", "propagated ms (p95)", "FPS", "end to end: keyframe ms (p95)",
        "propagated ms (p95)", "FPS", "peak GiB", "published FPS, 1080 Ti",
    )
    return Table("Latency (median) and throughput, batch 1", head, tuple(cells))


def accuracy_table(rows: Sequence[dict]) -> Table:
    """mIoU from the user's results, and as published."""
    cells = [
        (row["name"], *(percent(row[key]) for key in ("avg_miou", "pooled_miou", "min_miou")), row["dataset"] or "-",
         shown(row["frames"]), *map(shown, row["published"][:2]))
        for row in rows
    ]
    head = (
        "model", "mean mIoU", "pooled mIoU", "min. mIoU", "measured on", "frames",
        "published avg. (pooled, Cityscapes val)", "published min.",
    )
    return Table("Accuracy", head, tuple(cells))


def plot(rows: Sequence[dict]) -> "Figure":
    """mIoU against frames per second: of the user's results, or without any as published. Labels name the source."""
    points, any_result = [], any(row["avg_miou"] is not None for row in rows)
    for row in rows:
        value = row["avg_miou"] if any_result else row["published"][0]
        if value is not None:
            source = row["dataset"] if any_result else "mIoU as published"
            points.append((f"{row['name']} ({source})", row["end_to_end"]["fps"], 100 * value if any_result else value))
    return scatter_figure(points, x_label="frames per second, end to end", y_label="average mIoU, per cent")


def shown(x: float | None) -> str:
    """A figure as text; "-" for None."""
    return "-" if x is None else f"{x:g}"
