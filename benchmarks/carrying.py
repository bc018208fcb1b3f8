"""--benchmark carry: how well a segmentation fits later frames when it is copied or warped, as logits or as labels."""
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from config.datasets import UNLABELLED
from config.errors import UserError
from config.options import Options
from evaluation.evaluate import Evaluation, Tally
from evaluation.evaluated_frames import EvaluatedFrame, evaluated_frames
from evaluation.example_frames import captioned_overlays
from evaluation.report import error_map
from evaluation.tables import percent
from inference.engines import Engine, build_engines
from inference.keyframe_schedule import FixedInterval
from inference.stream import VideoSegmenter
from models.flow_dis import DISFlow
from models.gsvnet import GSVNet
from models.load import networks_for_inference
from models.load_segmenter import classes_of
from utils.distributed import Ranks
from utils.logging import logger
from utils.metrics import scores
from utils.text_table import Table
from utils.visualize import grid, with_caption, write_picture

PAST = 12  # frames before those that are counted, so that all positions count the same ones
LAST = 0.2  # share of a video without labels that has a row of its own
TIMED = 12  # frames
TITLES = {
    "copy": "copied", "warp learned": "warped, flow network", "gsv": "GSVNet", "warp": "warped, DIS",
    "copy labels": "labels copied", "warp labels": "labels moved, DIS",
    "per-frame": "the segmenter itself, through the grid",
}
SHOWN = 0.9  # where in a video the frame of the picture is


def benchmark_carry(options: Options, device: torch.device) -> dict:
    """Carry the segmentation of every frame to the frames after it in each way: mIoU by position, or without labels the
    share of pixels that agree with the segmenter's own full-size labels.

    Returns `settings`, `rows` (part of the video -> way -> a value by position), `milliseconds` (way -> a frame, from
    the frame to its label map), `table` (lines).
    """
    net = networks_for_inference(options).to(device)
    evaluation = Evaluation(options, device, Ranks(), dataset=classes_of(options, net.segmenter))
    engines = engines_of(net, options, device)
    agreement, positions = options.dataset == UNLABELLED, evaluation.positions
    parts = {"all frames": 0.0} | ({f"last {LAST:.0%}": 1 - LAST} if agreement else {})
    tallies = {part: Tally(evaluation.dataset.num_classes, methods=[*engines], positions=positions) for part in parts}
    lengths = [len(video) for video in evaluation.videos for _ in video]
    past = PAST if max(lengths) > PAST and not options.early_stop else max(positions)
    if max(lengths) <= past:
        raise UserError(f"{options.data_path}: no frame has {past} before it; choose a smaller --eval-multi-step")
    items = resized(evaluation.loader, options.frame_size if "frame_size" in options.given else None)
    frames = evaluated_frames(
        engines, evaluation.videos, items, positions=positions, device=device, reference=agreement, show=True
    )
    first: list[np.ndarray] = []
    shown: EvaluatedFrame | None = None
    for length, frame in zip(lengths, frames):
        if frame.time >= SHOWN * length and positions[-1] in frame.positions:
            shown = shown or frame
        first += [frame.image.cpu().numpy()] if len(first) < TIMED else []
        for part, begin in parts.items():
            if frame.positions and frame.time >= max(past, begin * length):
                tallies[part].add(frame)
    rows = {part: values_of(tally, agreement) for part, tally in tallies.items()}
    size, times = first[0].shape, {name: milliseconds(engine, net, first) for name, engine in engines.items()}
    if shown is not None:
        path = Path(options.log_folder) / "benchmark_carry.png"
        dataset = evaluation.dataset
        write_picture(path, picture(shown, positions[-1], dataset.colours, dataset.num_classes))
        logger.info("%s, %d frames after the keyframe: %s", shown.source.path, positions[-1], path)
    settings = (
        f"{options.dataset}, {options.segnet}, {size[1]} x {size[0]}, grid 1/{options.grid}, DIS {options.dis_preset} "
        f"with side {options.dis_side}; "
        + ("pixels that agree with the segmenter's own labels" if agreement else "mIoU")
    )
    table = [line for part, found in rows.items() for line in carry_table(part, found, times, positions).console()]
    return {"settings": settings, "rows": rows, "milliseconds": times, "table": [settings, *table]}


def engines_of(net: GSVNet, options: Options, device: torch.device) -> dict[str, Engine]:
    """Engines of the ways in TITLES: along DIS, along a flow network if the options name one, and the propagation."""
    settings: dict[str, Any] = dict(scale=options.scale, device=device)
    classical = GSVNet(net.segmenter, DISFlow(options.dis_side, options.dis_preset), net.guided, net.grid)
    found = build_engines(classical, ["copy", "warp", "per-frame"], **settings)
    labels = build_engines(classical, ["copy", "warp"], carry="labels", **settings)
    found |= {f"{name} labels": engine for name, engine in labels.items()}
    own = ([] if isinstance(net.flow, DISFlow) else ["warp"]) + (["gsv"] if options.method == "gsv" else [])
    found |= {{"warp": "warp learned"}.get(x, x): engine for x, engine in build_engines(net, own, **settings).items()}
    return {name: found[name] for name in TITLES if name in found}


def picture(frame: EvaluatedFrame, position: int, colours: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """What each way makes of a frame at a position, over the frame, and next to it where that differs from the label:
    RGB (H,W,3) uint8."""
    image, label = frame.image.cpu().numpy(), frame.label.cpu().numpy()
    maps = {"label": label} | {TITLES[name]: x[position].cpu().numpy() for name, x in frame.predictions.items()}
    rows = []
    for (title, found), shown in zip(maps.items(), captioned_overlays(image, maps, colours)):
        wrong = with_caption(error_map(cv2.resize(image, label.shape[::-1]), label, found, classes), f"{title}: errors")
        rows.append([shown, wrong])
    return grid(rows)


def resized(items: Iterable[Mapping[str, Tensor]], size: Sequence[int] | None) -> Iterator[Mapping[str, Tensor]]:
    """The items with images brought to `size` (H,W), bilinear; labels keep theirs."""
    for item in items:
        if size is not None:
            image = Image.fromarray(item["image"].numpy()).resize((size[1], size[0]), Image.Resampling.BILINEAR)
            item = {**item, "image": torch.from_numpy(np.array(image))}
        yield item


def values_of(tally: Tally, agreement: bool) -> dict[str, list[float | None]]:
    """Way -> mIoU, or share of agreeing pixels, by position."""
    found = {name: [scores(x.counts) for _, x in sorted(by.items())] for name, by in tally.matrices.items()}
    return {name: [x.pixel_accuracy if agreement else x.miou for x in by] for name, by in found.items()}


def milliseconds(engine: Engine, net: GSVNet, frames: Sequence[np.ndarray]) -> float:
    """Milliseconds of a carried frame, from the frame to its label map: the median."""
    segmenter, times = VideoSegmenter(net, engine=engine, schedule=FixedInterval(len(frames) + 1)), []
    for frame in frames:
        began = time.perf_counter()
        segmenter(frame)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[2:] or times)


def carry_table(part: str, rows: Mapping, times: Mapping[str, float], positions: Sequence[int]) -> Table:
    """A row for each way."""
    cells = [(TITLES[name], *map(percent, found), f"{times[name]:.1f}") for name, found in rows.items()]
    return Table(part, ("frames since the keyframe", *map(str, positions), "ms"), tuple(cells))
