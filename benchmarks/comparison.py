"""--benchmark table: the published comparison, regenerated: cost, speed and memory of every row that this code can run.

Accuracy comes from metrics.json files (`--results`); published figures stand beside as such.
"""
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.complexity import gmac, parameters, published_fusion_gmac
from benchmarks.measure import median_and_p95, memory_gib, milliseconds, peak_gib, reset_peak, turns, waiter
from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from evaluation.tables import percent
from inference.engines import Engine, build_engine
from models.build import build_gsvnet
from models.gsvnet import GSVNet
from models.resize import grid_size, scaled_size
from utils.charts import scatter_figure
from utils.logging import logger
from utils.metrics import scores
from utils.text_table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (1024, 2048)
REPEATS = {"cpu": 20, "cuda": 100}


@dataclass(frozen=True)
class Row:
    """A row of the published comparison. flow None: every frame segmented. `published`: figures of the paper, as it gives
    them (mIoU in per cent at interval 3, frames a second on a 1080 Ti, MB of parameters, GMAC a frame)."""

    segnet: str
    scale: float
    flow: str | None = None
    published: tuple[float | None, ...] = (None, None, None, None, None)

    @property
    def name(self) -> str:
        segmenter = {"swiftnet": "SwiftNet-R18", "bisenet": "BiSeNet-R18"}[self.segnet]
        return f"{segmenter} {self.scale:g}" if self.flow is None else f"GSVNet {segmenter} {self.scale:g}, {self.flow} flow"


PUBLISHED = ("avg. mIoU", "min. mIoU", "FPS on a 1080 Ti", "size in MB", "GMAC a frame")
ROWS = (
    Row("swiftnet", 0.75, "light", (72.5, 70.3, 125, 50.4, 21.3)),
    Row("bisenet", 0.75, "light", (72.0, 70.5, 123, None, None)),
    Row("swiftnet", 0.75, "flownet"),
    Row("bisenet", 0.75, "flownet"),
    Row("swiftnet", 1.0),
    Row("swiftnet", 0.75, None, (74.4, 74.4, 63, 47.2, 58.5)),
    Row("swiftnet", 0.5, None, (None, None, None, 47.2, 26.0)),
    Row("bisenet", 1.0),
    Row("bisenet", 0.75, None, (73.7, 73.7, 61, 49.0, 58.0)),
    Row("bisenet", 0.5),
)


def benchmark_table(options: Options, device: torch.device) -> dict:
    """Measure every row at 1024 x 2048, batch 1; write Markdown and a plot beside the JSON."""
    # The plainest engine where none is named: rows compare networks, not engines.
    options = replace(options, engine="eager") if options.engine == "auto" else options
    classes, results = dataset_config("cityscapes_2k", "").num_classes, [read_result(Path(path)) for path in options.results]
    rows = []
    for row in ROWS:
        found = {"name": row.name, **asdict(row), **complexity(row, classes, options.interval)}
        found |= speed(row, classes, options, device)
        found |= accuracy(row, results, options.interval)
        rows.append(found)
        logger.info("%s: %.1f frames/s, network only %.1f", row.name, found["end_to_end"]["fps"], found["network"]["fps"])
    settings = (
        f"{SIZE[1]} x {SIZE[0]}, batch 1, interval {options.interval}, engine {options.engine}, "
        f"{'float32' if options.amp == 'off' else options.amp}, BatchNorm folded, untrained weights; end to end: from the "
        "uint8 frame in memory to the full-size uint8 label map, argmax included; network: logits of a frame that has the "
        "segmenter's size already, normalisation included; memory: peak, less what was in use before the row's networks were made"
    )
    tables = [cost_table(rows), speed_table(rows), accuracy_table(rows)]
    return {
        "settings": settings, "interval": options.interval, "rows": rows,
        "table": [settings, *(line for table in tables for line in table.console())],
        "markdown": [settings, "", *(line for table in tables for line in table.markdown())], "figure": plot(rows),
    }


def complexity(row: Row, classes: int, interval: int) -> dict:
    """Parameters that inference needs, and GMAC of keyframe, propagated frame and the average over an interval.

    The guided convolution counts as published; this code's form of it saves `published_fusion_gmac`.
    """
    (h, w), (height, width) = grid_size(*SIZE), scaled_size(*SIZE, row.scale)
    net = build_gsvnet(segmenter=row.segnet, flow=row.flow or "none", classes=classes).eval().to("meta")
    key = gmac(net.segmenter, meta(1, 3, height, width))
    count = parameters(net.segmenter) - sum(parameters(part) for part in net.segmenter.training_only())
    propagated = key
    if row.flow is not None:
        count += parameters(net.flow) + parameters(net.guided)
        view = meta(1, 3, h, w)
        propagated = gmac(net.flow, view, view) + gmac(net.guided, meta(1, classes, h, w), view)
        propagated += published_fusion_gmac(classes, h, w)
    return {
        "parameters": count, "megabytes": count * 4 / 1e6,
        "gmac": {"keyframe": key, "propagated": propagated, "average": (key + (interval - 1) * propagated) / interval},
    }


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def speed(row: Row, classes: int, options: Options, device: torch.device) -> dict:
    """Latency of keyframes and propagated frames, apart and on average, and peak memory."""
    before = memory_gib(device)
    torch.manual_seed(options.seed)
    net = build_gsvnet(segmenter=row.segnet, flow=row.flow or "none", classes=classes).eval()
    engine = build_engine(options.engine, net, scale=row.scale, device=device, amp=options.amp)
    frame, smooth = sample_inputs(classes)
    image, logits = torch.from_numpy(frame)[None], smooth.to(device)
    reset_peak(device)
    works, wait = end_to_end_works(engine, row, image, logits), waiter(device)
    for work in works.values():
        work()
    wait()
    found: dict = {"peak_gib": peak_gib(device) - before}
    seconds = turns(network_works(engine, row, net, image, logits) | works, REPEATS[device.type], wait)
    for kind in ("network", "end_to_end"):
        key = median_and_p95(seconds[f"{kind} keyframe"])
        propagated = median_and_p95(seconds[f"{kind} propagated"]) if row.flow is not None else key
        mean = (key[0] + (options.interval - 1) * propagated[0]) / options.interval
        found[kind] = {
            "keyframe_ms": key, "propagated_ms": propagated if row.flow is not None else None, "average_ms": mean, "fps": 1e3 / mean
        }
    return found


def sample_inputs(classes: int) -> tuple[np.ndarray, Tensor]:
    """A frame (H,W,3) uint8, and logits (1,C,h,w) whose label map has regions as large as a street's: how long a label map
    takes depends on that, and untrained networks give none."""
    rng = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 256, (*SIZE, 3), generator=rng, dtype=torch.uint8).numpy()
    coarse = torch.randn(1, classes, 9, 17, generator=rng)
    return frame, 5 * nn.functional.interpolate(coarse, size=grid_size(*SIZE), mode="bicubic", align_corners=True)


def network_works(engine: Engine, row: Row, net: GSVNet, image: Tensor, logits: Tensor) -> dict[str, Callable]:
    """The networks alone: a frame that has the segmenter's size already, two views."""
    height, width = scaled_size(*SIZE, row.scale)
    scaled = image[:, :height, :width].contiguous().to(engine.device)
    segmenter = build_engine(engine.name, net, scale=1.0, device=engine.device, amp=engine.amp)
    view = engine.view(image)
    works = {"network keyframe": lambda: segmenter.keyframe(scaled)}
    if row.flow is not None:
        works["network propagated"] = lambda: engine.propagate(logits, view, view)
    return works


def end_to_end_works(engine: Engine, row: Row, image: Tensor, logits: Tensor) -> dict[str, Callable]:
    """From the frame's bytes to the label map's; the label map is that of `logits`, see `sample_inputs`."""
    previous = engine.view(image)

    def keyframe() -> None:
        if row.flow is not None:
            engine.view(image)  # the next frame's flow wants it
        engine.keyframe(image)
        engine.labels(logits, SIZE)

    def propagated() -> None:
        engine.propagate(logits, previous, engine.view(image))
        engine.labels(logits, SIZE)

    return {"end_to_end keyframe": keyframe} | ({"end_to_end propagated": propagated} if row.flow is not None else {})


def read_result(path: Path) -> dict:
    """A metrics.json. Raises UserError."""
    try:
        content = json.loads(path.read_text())
        missing = {"dataset", "segnet", "flow", "method", "scale", "positions"} - set(content)
        if missing:
            raise ValueError(f"no {', '.join(sorted(missing))} in it")
        return content
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a metrics.json ({error}); --results wants those that --evaluate 1 writes") from error


def accuracy(row: Row, results: Sequence[dict], interval: int) -> dict:
    """mIoU of the row from the user's results, if one is of it: over positions 0..interval-1 of the whole method."""
    method = "per-frame" if row.flow is None else "gsv"
    found = {"dataset": None, "frames": None, "avg_miou": None, "pooled_miou": None, "min_miou": None}
    for content in results:
        same = (content["method"], content["segnet"], content["scale"]) == (method, row.segnet, row.scale)
        whole = content.get("intra", True) and content.get("edge", True)
        positions = {x["position"]: x for x in content["positions"] if x["position"] < interval}
        if same and (row.flow is None or (content["flow"] == row.flow and whole)) and len(positions) == interval:
            miou = [x["miou"] for x in positions.values()]
            pooled = scores(torch.stack([torch.tensor(x["confusion"]) for x in positions.values()]).sum(dim=0))["miou"]
            found = {
                "dataset": content["dataset"], "frames": positions[0]["frames"], "avg_miou": sum(miou) / interval,
                "pooled_miou": pooled, "min_miou": min(miou),
            }
    return found


def cost_table(rows: Sequence[dict]) -> Table:
    cells = [
        (row["name"], f"{row['parameters']:,}", f"{row['megabytes']:.1f}", shown(row["published"][3]), *(
            f"{row['gmac'][kind]:.2f}" for kind in ("keyframe", "propagated", "average")
        ), shown(row["published"][4]))
        for row in rows
    ]
    head = ("model", "parameters", "MB", "published MB", "GMAC keyframe", "propagated", "average", "published average")
    return Table("Size and multiply-accumulates", head, tuple(cells))


def speed_table(rows: Sequence[dict]) -> Table:
    cells = []
    for row in rows:
        cell = [row["name"]]
        for kind in ("network", "end_to_end"):
            found = row[kind]
            cell += [milliseconds(found["keyframe_ms"]), milliseconds(found["propagated_ms"]), f"{found['fps']:.2f}"]
        cells.append((*cell, f"{row['peak_gib']:.2f}", shown(row["published"][2])))
    head = (
        "model", "network: keyframe ms (p95)", "propagated ms (p95)", "FPS", "end to end: keyframe ms (p95)",
        "propagated ms (p95)", "FPS", "peak GiB", "published FPS, 1080 Ti",
    )
    return Table("Latency (median) and throughput, batch 1", head, tuple(cells))


def accuracy_table(rows: Sequence[dict]) -> Table:
    cells = [
        (row["name"], *(percent(row[key]) for key in ("avg_miou", "pooled_miou", "min_miou")), row["dataset"] or "-",
         shown(row["frames"]), *map(shown, row["published"][:2]))
        for row in rows
    ]
    head = (
        "model", "mean mIoU", "pooled mIoU", "min. mIoU", "measured on", "frames", "published avg. (pooled, Cityscapes val)",
        "published min.",
    )
    return Table("Accuracy", head, tuple(cells))


def plot(rows: Sequence[dict]) -> "Figure":
    """mIoU against frames a second; the published mIoU where the user has none. Labels say which."""
    points = []
    for row in rows:
        measured = row["avg_miou"]
        value = 100 * measured if measured is not None else row["published"][0]
        if value is not None:
            source = row["dataset"] if measured is not None else "mIoU as published"
            points.append((f"{row['name']} ({source})", row["end_to_end"]["fps"], value))
    return scatter_figure(points, x_label="frames per second, end to end", y_label="average mIoU, per cent")


def shown(x: float | None) -> str:
    return "-" if x is None else f"{x:g}"
