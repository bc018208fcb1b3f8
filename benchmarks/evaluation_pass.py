"""--benchmark eval: all positions in one pass, beside each position decoded, normalised and scored by itself."""
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import networks_to_measure
from benchmarks.published_way import PlainClips, plain_propagation
from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from config.schema import DatasetConfig
from dataloaders.clips import LabelledFrame, with_past
from dataloaders.eval_videos import VideoDataset, videos_of
from dataloaders.loaders import labelled_frames
from evaluation.evaluate import evaluate
from models.gsvnet import GSVNet
from models.resize import align, size_of

FRAMES = 4  # labelled frames, the first of which warms up


def benchmark_evaluation(options: Options, device: torch.device) -> dict:
    """Seconds a labelled frame, decoding included, in one process; both ways take turns, frame by frame."""
    options = replace(options, method="gsv")
    dataset, positions = dataset_config(options.dataset, options.data_path), (0, *options.eval_multi_step)
    past = max(positions)
    frames = with_past(labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="val", past=past), past)
    frames = frames[:: past + 1][:FRAMES]  # none in the past of another
    if len(frames) < 2:
        raise UserError(f"{options.data_path}: too few labelled val frames with {past} frames before them to measure with")
    net, weights = networks_to_measure(options)
    net = net.to(device).eval()
    seconds: dict[str, list[float]] = {"each position on its own": [], "ours, one pass": []}
    counts = {}
    for frame in frames:
        for name in seconds:
            start = time.perf_counter()
            if name == "ours, one pass":
                videos = videos_of([frame])
                found = evaluate(
                    net, videos, VideoDataset(videos, dataset), positions, classes=dataset.num_classes, methods=["gsv"],
                    scale=options.scale, device=device, quiet=True,
                )["gsv"]
                counts[name] = torch.stack([found[position].counts for position in positions])
            else:
                counts[name] = torch.stack([plain_position(net, frame, k, dataset, options.scale, device) for k in positions])
            seconds[name].append(time.perf_counter() - start)
    plain, ours = (statistics.median(times[1:]) for times in seconds.values())
    differ = int((counts["ours, one pass"] - counts["each position on its own"]).abs().sum()) // 2
    settings = (
        f"{options.segnet}, {options.optical_flow_network} flow, {weights}, positions {' '.join(map(str, positions))}, "
        f"scale {options.scale:g}"
    )
    table = [settings, f"{'seconds a labelled frame':<28}{'':>8}{'ratio':>8}"]
    table += [f"{name:<28}{value:>8.2f}{plain / value:>8.2f}" for name, value in zip(seconds, (plain, ours))]
    table.append(f"pixels of the last frame that the two score differently: {differ} of {int(counts['ours, one pass'].sum())}")
    return {"settings": settings, "seconds": seconds, "ratio": plain / ours, "different_pixels": differ, "table": table}


@torch.no_grad()
def plain_position(net: GSVNet, frame: LabelledFrame, position: int, dataset: DatasetConfig, scale: float, device: torch.device) -> Tensor:
    """Confusion counts (C,C) of one position, computed as the published program does: decode and normalise the clip, go
    through it, upsample all logits, and count labelled pixels."""
    clips = PlainClips([frame], position, dataset, net.segmenter.pixel_mean, net.segmenter.pixel_std)
    item = clips[0]
    clip, label = item["clip"][None].to(device), item["label"].to(device)
    logits = plain_propagation(net, clip, net.keyframe(clip[:, 0], scale).logits)
    prediction = align(logits, size_of(label)).argmax(dim=1)[0]
    known = label != dataset.ignore
    code = label[known] * dataset.num_classes + prediction[known]
    return torch.bincount(code, minlength=dataset.num_classes**2).view(dataset.num_classes, -1).cpu()
