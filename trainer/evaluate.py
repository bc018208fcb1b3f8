"""Evaluation per frame position (paper section 4): each labelled frame as keyframe, first propagated frame, and so on."""
from pathlib import Path
from typing import Callable, Iterable, Optional, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from config.datasets import DATASETS
from config.errors import UserError
from config.options import Options
from dataloaders.build import evaluation_loader, labelled_frames
from dataloaders.clips import LabelledFrame, PastDataset, with_past
from dataloaders.images import id_table
from dataloaders.transforms import normalise
from models.gsvnet import GSVNet, State, grid_view
from models.resize import align
from utils.distributed import Ranks, add_over_ranks
from utils.logging import logger
from utils.metrics import ConfusionMatrix, summary
from utils.visualize import grid, overlay, with_caption, write_picture

DRY_RUN_FRAMES = 10
OnFrame = Callable[[LabelledFrame, Tensor, Tensor, dict[int, Tensor]], None]


@torch.inference_mode()
def position_logits(net: GSVNet, clip: Tensor, positions: Sequence[int], *, method: str, scale: float) -> dict[int, Tensor]:
    """Logits (1,C,h,w) of the clip's last frame for every position: the group starts that many frames before it.

    clip: (T,3,H,W) uint8 RGB on the networks' device, T > max(positions). All groups run through the clip together:
    frames are normalised, keyframes segmented, flow and intra features computed once, whatever the number of positions.
    """
    last = len(clip) - 1
    frames = clip[last - max(positions) :]
    last = len(frames) - 1
    segmenter = net.segmenter

    def keyframe(t: int) -> State:
        return net.keyframe(normalise(frames[t : t + 1], segmenter.pixel_mean, segmenter.pixel_std), scale)

    if method == "per-frame":
        logits = keyframe(last).logits
        return {position: logits for position in positions}
    starts = {last - position: keyframe(last - position).logits for position in positions}
    if method == "copy":
        return {last - start: logits for start, logits in starts.items()}

    running: list[int] = []  # starts of the groups under way, in the order of `logits`
    logits: Optional[Tensor] = None
    view: Optional[Tensor] = None
    for t in range(last + 1):
        previous = view
        view = normalise(grid_view(frames[t : t + 1].float()), segmenter.pixel_mean[::-1], segmenter.pixel_std[::-1])
        if running:
            warped = net.warp(State(logits, previous), view)
            logits = warped if method == "warp" else net.guided(warped, view)  # (M,C,h,w)
        if t in starts:
            logits = starts[t] if logits is None else torch.cat([logits, starts[t]])  # (M+1,C,h,w)
            running.append(t)
    return {last - start: logits[i : i + 1] for i, start in enumerate(running)}


def label_map(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (1,C,h,w) -> class indices (H,W) int64 at `size`: one align-upsampling, then the largest."""
    return align(logits, tuple(size)).max(dim=1).indices[0]


def evaluate(
    net: GSVNet, loader: Iterable[dict], positions: Sequence[int], *, classes: int, method: str, scale: float,
    device: torch.device, ranks: Ranks = Ranks(), on_frame: Optional[OnFrame] = None,
) -> dict[int, ConfusionMatrix]:
    """Confusion matrices per position over `loader` (batches of one sample of PastDataset), summed over the ranks.

    A frame counts at every position for which it has enough frames before it. on_frame(name, clip, label, predictions)
    is called for each frame, with predictions (H,W) int64 by position.
    """
    net.eval()
    matrices = {position: ConfusionMatrix(classes) for position in positions}
    for sample in tqdm(loader, desc=f"evaluate {method}", unit="frame", disable=not ranks.first, leave=False):
        clip, label = sample["clip"][0].to(device, non_blocking=True), sample["label"][0].to(device)
        possible = [position for position in positions if position < len(clip)]
        if not possible:
            continue
        predictions: dict[int, Tensor] = {}
        for position, logits in position_logits(net, clip, possible, method=method, scale=scale).items():
            predictions[position] = label_map(logits, label.shape)
            matrices[position].add(label, predictions[position])
        if on_frame is not None:
            on_frame(sample["name"][0], clip, label, predictions)
    for matrix in matrices.values():
        frames = torch.tensor([matrix.frames])
        matrix.counts, frames = add_over_ranks([matrix.counts, frames], device)
        matrix.frames = int(frames)
    return matrices


class Evaluation:
    """Evaluation on the validation split, as the options describe it; prepared once, run as often as needed."""

    def __init__(self, options: Options, device: torch.device, ranks: Ranks):
        self.options, self.device, self.ranks = options, device, ranks
        self.dataset = DATASETS[options.dataset]
        self.picture: Optional[np.ndarray] = None  # of the last run's first frame
        self.positions = sorted({0} if options.eval_single else set()) + sorted(set(options.eval_multi_step))
        past = max(self.positions)
        frames = labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="val", past=past)
        for position in list(self.positions):
            enough = len(with_past(frames, position))
            if enough < len(frames):
                logger.info("val: %d of %d labelled frames have %d frames before them", enough, len(frames), position)
            if enough == 0:
                self.positions.remove(position)
        if not self.positions:
            raise UserError(f"{options.data_path}: no labelled val frame has the {past} frames before it that were asked for")
        self.frames = {frame.name: frame for frame in frames}
        limit = DRY_RUN_FRAMES if options.early_stop else None
        self.loader = evaluation_loader(
            PastDataset(frames, past, self.dataset), workers=options.num_worker, rank=ranks.rank, ranks=ranks.count,
            limit=limit,
        )

    def run(self, net: GSVNet, *, method: str, on_frame: Optional[OnFrame] = None) -> dict:
        """Evaluate `net`; returns the content of metrics.json."""
        options = self.options
        self.picture = None

        def see(name: str, clip: Tensor, label: Tensor, predictions: dict[int, Tensor]) -> None:
            if self.picture is None:
                self.picture = self.panel(clip, label, predictions)
            if on_frame is not None:
                on_frame(name, clip, label, predictions)

        matrices = evaluate(
            net, self.loader, self.positions, classes=self.dataset.num_classes, method=method, scale=options.scale,
            device=self.device, ranks=self.ranks, on_frame=see,
        )
        return {
            "dataset": options.dataset,
            "segnet": options.segnet,
            "flow": options.optical_flow_network,
            "method": method,
            "scale": options.scale,
            "classes": list(self.dataset.classes),
            **summary(matrices, self.dataset.classes),
        }

    def panel(self, clip: Tensor, label: Tensor, predictions: dict[int, Tensor]) -> np.ndarray:
        """Label and predictions by position, each over its frame, side by side: RGB (H,W,3) uint8."""
        height, width = label.shape
        image = cv2.resize(clip[-1].permute(1, 2, 0).cpu().numpy(), (width, height))
        maps = {"label": label} | {f"position {k}": predictions[k] for k in sorted(predictions)}
        return grid([[
            with_caption(overlay(image, each.cpu().numpy().astype(np.uint8), self.dataset.colours), caption)
            for caption, each in maps.items()
        ]])

    def writer_of_predictions(self, folder: Path) -> OnFrame:
        """An `on_frame` that writes FOLDER/position_K/NAME with the data set's label ids, at the label's size."""
        table = id_table(self.dataset)

        def write(name: str, clip: Tensor, label: Tensor, predictions: dict[int, Tensor]) -> None:
            for position, prediction in predictions.items():
                ids = table[prediction.cpu().numpy().astype(np.uint8)]
                write_picture(folder / f"position_{position}" / self.frames[name].prediction, ids)

        return write


def table_lines(metrics: dict) -> list[str]:
    """metrics.json's content -> a console table."""
    lines = [f"{'position':>8} {'frames':>7} {'mIoU':>7} {'pixel acc.':>11} {'class acc.':>11} {'fw IoU':>7}"]
    for row in metrics["positions"]:
        values = [row[key] for key in ("miou", "pixel_accuracy", "mean_class_accuracy", "frequency_weighted_iou")]
        cells = [f"{100 * x:.2f}" if x is not None else "-" for x in values]
        lines.append(f"{row['position']:>8} {row['frames']:>7} {cells[0]:>7} {cells[1]:>11} {cells[2]:>11} {cells[3]:>7}")
    for key, text in (("avg_miou", "average over positions"), ("pooled_miou", "pooled over positions"), ("min_miou", "minimum")):
        value = metrics[key]
        lines.append(f"mIoU, {text}: {100 * value:.2f}" if value is not None else f"mIoU, {text}: -")
    return lines
