"""--benchmark schedule: keyframes at scene cuts, and where warping fails, compared with a fixed interval, at no more
keyframes."""
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from dataloaders.eval_videos import Video, VideoDataset, VideoFrame, videos_of
from dataloaders.loaders import labelled_frames
from evaluation.tables import percent
from inference.keyframe_schedule import FixedInterval, Residual, SceneCut, Schedule, change
from inference.stream import VideoSegmenter
from models.load import networks_for_inference
from utils.logging import watched
from utils.metrics import ConfusionMatrix, scores
from utils.text_table import Table

SHOTS = (4, 9)  # shortest and longest shot, frames
FRAMES, DRY_RUN_FRAMES = 240, 20
THRESHOLDS = (5.0, 7.0, 10.0, 14.0, 20.0, 30.0)  # of the residual schedule


def benchmark_schedule(options: Options, device: torch.device) -> dict:
    """Segment pieces of the val videos, joined by cuts: at a fixed interval, with keyframes at cuts, and where warping
    has failed.

    Returns `frames`, `cuts` (numbers), `rows` (see `measure`; the others have at most the first one's keyframes, if one
    of their settings does), `most_within`, `least_across` (see `changes`), `table` (lines).
    """
    dataset = dataset_config(options.dataset, options.data_path)
    frames = labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="val", past=1)
    videos = [video for video in videos_of(frames) if all(frame.labelled for frame in video)]
    if len(videos) < 2:
        raise UserError(
            f"{options.data_path}: at least two val videos must have labels for all frames; use --dataset synthetic"
        )
    count = DRY_RUN_FRAMES if options.early_stop else FRAMES
    cut, cuts = cut_together(videos, count, np.random.default_rng(options.seed))
    items, classes = VideoDataset([cut], dataset), dataset.num_classes
    settings: dict[str, Any] = dict(scale=options.scale, method=options.method, carry=options.carry)
    segmenter = VideoSegmenter(networks_for_inference(options), device=device, **settings)
    fixed = measure(segmenter, FixedInterval(options.interval), items, classes, f"every {options.interval} frames")
    # Of each, the first setting that takes no more keyframes, if one does.
    intervals = range(options.interval, max(options.interval, SHOTS[1] + 1) + 1)
    tried: tuple[dict[str, Schedule], ...] = (
        {f"at cuts, and every {n} frames": SceneCut(n, options.cut_threshold) for n in intervals},
        {f"residual, threshold {x:g}": Residual(x) for x in THRESHOLDS},
    )
    rows = [fixed]
    for schedules in tried:
        for title, schedule in schedules.items():
            row = measure(segmenter, schedule, items, classes, title)
            if row["keyframes"] <= fixed["keyframes"]:
                break
        rows.append(row)
    within, across = changes(segmenter, items, cut)
    cells = [(x["name"], str(x["keyframes"]), percent(x["miou"]), percent(x["pixel_accuracy"])) for x in rows]
    title = f"{len(cut)} frames, {cuts} cuts; a change above {options.cut_threshold:g} is a cut"
    table = Table(title, ("keyframes", "number", "mIoU", "pixel acc."), tuple(cells)).console()
    table.append(f"change from frame to frame: at most {within:.3f} within a shot, at least {across:.3f} at a cut")
    found = {"frames": len(cut), "cuts": cuts, "rows": rows, "most_within": within, "least_across": across}
    return {**found, "table": table}


def changes(segmenter: VideoSegmenter, items: VideoDataset, cut: Video) -> tuple[float, float]:
    """Largest change between neighbours within a shot, smallest at a cut: a threshold must lie between them."""
    views = [segmenter.engine.see(items[i]["image"][None]).view for i in range(len(items))]
    follows = [b.labelled is not None and b.labelled.frames[-2:-1] == (a.path,) for a, b in pairwise(cut)]
    found = [(change(a, b), same) for (a, b), same in zip(pairwise(views), follows)]
    return max(x for x, same in found if same), min(x for x, same in found if not same)


def cut_together(videos: list[Video], count: int, rng: np.random.Generator) -> tuple[Video, int]:
    """Join pieces of the videos, neighbours from different ones, to `count` frames or more; and the number of cuts."""
    frames: list[VideoFrame] = []
    shots, last = 0, -1
    while len(frames) < count:
        which = int(rng.choice([i for i in range(len(videos)) if i != last]))
        length = min(int(rng.integers(SHOTS[0], SHOTS[1] + 1)), len(videos[which]))
        start = int(rng.integers(len(videos[which]) - length + 1))
        frames += videos[which][start : start + length]
        shots, last = shots + 1, which
    return tuple(frames), shots - 1


def measure(
    segmenter: VideoSegmenter, schedule: Schedule, items: VideoDataset, classes: int, name: str
) -> dict[str, Any]:
    """Segment all items as one stream. Returns `name`, `keyframes` (number), `miou`, `pixel_accuracy` (0..1)."""
    segmenter.schedule, matrix, keyframes = schedule, ConfusionMatrix(classes), 0
    segmenter.reset()
    for item in watched([items[i] for i in range(len(items))], description=name, unit="frame"):
        prediction = segmenter(item["image"].numpy(), tuple(item["label"].shape))
        keyframes += segmenter.was_keyframe
        matrix.add(item["label"], torch.from_numpy(prediction))
    found = scores(matrix.counts)
    return {"name": name, "keyframes": keyframes, "miou": found.miou, "pixel_accuracy": found.pixel_accuracy}
