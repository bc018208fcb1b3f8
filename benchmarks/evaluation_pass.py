"""--benchmark eval: all positions in one pass, compared with decoding and scoring each position on its own."""
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import networks_to_measure
from benchmarks.own_process import in_own_process
from benchmarks.published_way import PlainClips, plain_keyframe, plain_labels, plain_propagation
from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from config.schema import DatasetConfig
from dataloaders.clips import LabelledFrame, with_past
from dataloaders.eval_videos import VideoDataset, videos_of
from dataloaders.loaders import labelled_frames
from evaluation.evaluated_frames import evaluated_frames
from inference.calibration import pairs_of_videos
from inference.engines import Engine, build_engines
from models.gsvnet import GSVNet
from models.resize import size_of
from utils.text_table import Table

FRAMES = 4  # labelled frames; the first is a warm-up
OURS, PLAIN = "one pass", "each position on its own"


def benchmark_evaluation(options: Options, device: torch.device) -> dict:
    """Time labelled frames, including decoding, in one process; both ways take turns. A dry run times one frame.

    Returns `settings`, `seconds` (way -> one value per frame), `ratio`, `different_pixels` (of the last frame's
    scores), `table` (lines).
    """
    options = replace(options, method="gsv")
    dataset, positions = dataset_config(options.dataset, options.data_path), (0, *options.eval_multi_step)
    past, warm_up = max(positions), 0 if options.early_stop else 1
    frames = labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="val", past=past)
    frames = with_past(frames, past)[:: past + 1]  # none is in the past of another
    frames = frames[: 1 if options.early_stop else FRAMES]
    if len(frames) <= warm_up:
        raise UserError(
            f"{options.data_path}: fewer than {warm_up + 1} labelled val frames have {past} frames before them; choose "
            "a smaller --eval-multi-step"
        )
    net, weights = networks_to_measure(options)
    net = net.to(device).eval()
    engines = engines_to_measure(options, net, frames, device)
    ways: dict[str, Callable[[LabelledFrame], Tensor]] = {
        PLAIN: in_own_process(options, device, published_counts, options, device, positions, dataset),
        OURS: lambda frame: one_pass_counts(engines, frame, positions, dataset, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counts = {}
    for frame in frames:
        for name, way in ways.items():
            start = time.perf_counter()
            counts[name] = way(frame)
            seconds[name].append(time.perf_counter() - start)
    plain, ours = (statistics.median(times[warm_up:]) for times in seconds.values())
    differ = int((counts[OURS] - counts[PLAIN]).abs().sum()) // 2
    described = (
        f"{options.segnet}, {options.optical_flow_network} flow, {weights}, positions {' '.join(map(str, positions))}, "
        f"scale {options.scale:g}, --engine {engines['gsv'].name} --precision {options.precision}"
    )
    rows = [(name, f"{value:.2f}", f"{plain / value:.2f}") for name, value in zip(ways, (plain, ours))]
    table = Table("Evaluation", ("", "seconds per labelled frame", "ratio"), tuple(rows)).console()
    table.append(f"pixels of the last frame that the two score differently: {differ} of {int(counts[OURS].sum())}")
    return {
        "settings": described, "seconds": seconds, "ratio": plain / ours, "different_pixels": differ,
        "table": [described, *table],
    }


def engines_to_measure(
    options: Options, net: GSVNet, frames: Sequence[LabelledFrame], device: torch.device
) -> dict[str, Engine]:
    """The engine that the options name, PyTorch by default; int8 is set up on the videos of `frames`."""
    pairs = pairs_of_videos(videos_of(frames)) if options.precision == "int8" else []
    settings: dict[str, Any] = dict(precision=options.precision, calibration=pairs)
    engine = "eager" if options.engine == "auto" else options.engine
    return build_engines(net, ["gsv"], scale=options.scale, device=device, engine=engine, **settings)


def one_pass_counts(
    engines: Mapping[str, Engine], frame: LabelledFrame, positions: Sequence[int], dataset: DatasetConfig,
    device: torch.device,
) -> Tensor:
    """Confusion counts (P,C,C) int64 of all positions, in one pass over the frames."""
    videos = videos_of([frame])
    *_, labelled = evaluated_frames(
        engines, videos, VideoDataset(videos, dataset), positions=positions, device=device
    )
    return torch.stack([labelled.counts["gsv"][position] for position in positions])  # (P,C,C)


def published_counts(
    options: Options, device: torch.device, positions: Sequence[int], dataset: DatasetConfig
) -> Callable[[LabelledFrame], Tensor]:
    """`plain_counts`, as a function of the frame."""
    net = networks_to_measure(options)[0].to(device).eval()
    return lambda frame: plain_counts(net, frame, positions, dataset, options.scale, device)


@torch.no_grad()
def plain_counts(
    net: GSVNet, frame: LabelledFrame, positions: Sequence[int], dataset: DatasetConfig, scale: float,
    device: torch.device,
) -> Tensor:
    """As `one_pass_counts`, the published way: for each position, decode and normalise the clip, propagate, upsample
    all logits, count labelled pixels."""
    counts = []
    for position in positions:
        item = PlainClips([frame], position, dataset, net.segmenter.pixel_mean, net.segmenter.pixel_std)[0]
        clip, label = item["clip"][None].to(device), item["label"].to(device)
        logits = plain_propagation(net, clip, plain_keyframe(net, clip[:, 0], scale))
        prediction, known = plain_labels(logits, size_of(label))[0], label != dataset.ignore
        code = label[known] * dataset.num_classes + prediction[known]
        counts.append(torch.bincount(code, minlength=dataset.num_classes**2).view(dataset.num_classes, -1).cpu())
    return torch.stack(counts)  # (P,C,C)
