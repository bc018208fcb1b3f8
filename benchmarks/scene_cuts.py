"""--benchmark schedule: what re-keying at scene cuts gains over a fixed interval, at no more keyframes."""
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from dataloaders.eval_videos import Video, VideoDataset, VideoFrame, videos_of
from dataloaders.loaders import labelled_frames
from inference.keyframe_schedule import FixedInterval, SceneCut, Schedule, change
from inference.stream import VideoSegmenter
from models.load import networks_for_inference
from utils.logging import watched
from utils.metrics import ConfusionMatrix, scores

SHOTS = (4, 9)  # shortest and longest shot, frames
FRAMES = 240


def benchmark_schedule(options: Options, device: torch.device) -> dict:
    """mIoU of a video cut together from pieces of the val split's videos, every frame of which is labelled."""
    dataset = dataset_config(options.dataset, options.data_path)
    frames = labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="val", past=1)
    videos = [video for video in videos_of(frames) if all(frame.labelled for frame in video)]
    if len(videos) < 2:
        raise UserError(f"{options.data_path}: wants two val videos or more whose frames are all labelled; --dataset synthetic has them")
    cut, cuts = cut_together(videos, np.random.default_rng(options.seed))
    items = VideoDataset([cut], dataset)
    segmenter = VideoSegmenter(networks_for_inference(options), scale=options.scale, device=device)
    fixed = measure(segmenter, FixedInterval(options.interval), items, dataset.num_classes, f"every {options.interval} frames")
    rows = [fixed]
    for interval in range(options.interval, SHOTS[1] + 2):  # the shortest interval that takes no more keyframes
        name = f"at cuts, and every {interval} frames"
        row = measure(segmenter, SceneCut(interval, options.cut_threshold), items, dataset.num_classes, name)
        if row["keyframes"] <= fixed["keyframes"]:
            break
    rows.append(row)
    within, across = changes(segmenter, items, cut)
    table = [f"{len(cut)} frames, {cuts} cuts, change above {options.cut_threshold:g} is a cut"]
    table.append(f"{'keyframes':<28}{'number':>8}{'mIoU':>8}{'pixel acc.':>12}")
    table += [f"{row['name']:<28}{row['keyframes']:>8}{100 * row['miou']:>8.2f}{100 * row['pixel_accuracy']:>12.2f}" for row in rows]
    table.append(f"change from frame to frame: at most {within:.3f} within a shot, at least {across:.3f} at a cut")
    return {"frames": len(cut), "cuts": cuts, "rows": rows, "most_within": within, "least_across": across, "table": table}


def changes(segmenter: VideoSegmenter, items: VideoDataset, cut: Video) -> tuple[float, float]:
    """Largest change between neighbours within a shot, smallest at a cut: what a threshold has to lie between."""
    views = [segmenter.engine.view(items[i]["image"][None]) for i in range(len(items))]
    follows = [b.labelled is not None and b.labelled.frames[-2:-1] == (a.path,) for a, b in pairwise(cut)]
    found = [(change(a, b), same) for (a, b), same in zip(pairwise(views), follows)]
    return max(x for x, same in found if same), min(x for x, same in found if not same)


def cut_together(videos: list[Video], rng: np.random.Generator) -> tuple[Video, int]:
    """Pieces of the videos, one after the other, no two neighbours of the same; and the number of cuts."""
    frames: list[VideoFrame] = []
    shots, last = 0, -1
    while len(frames) < FRAMES:
        which = int(rng.choice([i for i in range(len(videos)) if i != last]))
        length = min(int(rng.integers(SHOTS[0], SHOTS[1] + 1)), len(videos[which]))
        start = int(rng.integers(len(videos[which]) - length + 1))
        frames += videos[which][start : start + length]
        shots, last = shots + 1, which
    return tuple(frames), shots - 1


def measure(segmenter: VideoSegmenter, schedule: Schedule, items: VideoDataset, classes: int, name: str) -> dict:
    """Segment all items as one stream."""
    segmenter.schedule, matrix, keyframes = schedule, ConfusionMatrix(classes), 0
    segmenter.reset()
    for item in watched([items[i] for i in range(len(items))], description=name, unit="frame"):
        prediction = segmenter(item["image"].numpy(), tuple(item["label"].shape))
        keyframes += segmenter.was_keyframe
        matrix.add(item["label"], torch.from_numpy(prediction))
    found = scores(matrix.counts)
    return {"name": name, "keyframes": keyframes, "miou": found["miou"], "pixel_accuracy": found["pixel_accuracy"]}
