"""Evaluation per frame position (paper section 4): each labelled frame as keyframe, first propagated frame, and so on."""
from pathlib import Path
from typing import Callable, Optional, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from config.datasets import DATASETS
from config.errors import UserError
from config.options import Options
from dataloaders.build import evaluation_loader, labelled_frames
from dataloaders.cache import PictureCache
from dataloaders.clips import PastDataset, with_past
from dataloaders.images import id_table
from dataloaders.transforms import channels_first, normalise
from models.gsvnet import GSVNet, State, grid_view
from models.resize import align
from utils.distributed import Ranks, add_over_ranks
from utils.logging import logger, watched
from utils.metrics import ConfusionMatrix, summary
from utils.visualize import grid, overlay, with_caption, write_picture

DRY_RUN_FRAMES = 10
Predictions = dict[str, dict[int, Tensor]]  # method, position -> (H,W)
OnFrame = Callable[[str, Tensor, Tensor, Predictions], None]


@torch.inference_mode()
def position_logits(
    net: GSVNet, clip: Tensor, positions: Sequence[int], *, methods: Sequence[str], scale: float
) -> dict[str, dict[int, Tensor]]:
    """Logits (1,C,h,w) of the clip's last frame, by method and position: the group starts that many frames before it.

    clip: (T,3,H,W) uint8 RGB on the networks' device, T > max(positions). Keyframes are segmented once for all methods.
    """
    mean, std = net.segmenter.pixel_mean, net.segmenter.pixel_std
    frames = clip[len(clip) - 1 - max(positions) :]
    last = len(frames) - 1

    def keyframe(t: int) -> Tensor:
        return net.keyframe(normalise(frames[t : t + 1], mean, std), scale).logits

    starts = {} if set(methods) == {"per-frame"} else {last - position: keyframe(last - position) for position in positions}
    views = [normalise(grid_view(frame[None].float()), mean[::-1], std[::-1]) for frame in frames]  # BGR, (1,3,h,w)
    found = {}
    for method in methods:
        if method == "per-frame":
            logits = starts[last] if last in starts else keyframe(last)
            found[method] = {position: logits for position in positions}
        elif method == "copy":
            found[method] = {last - start: logits for start, logits in starts.items()}
        else:
            found[method] = _carry(net, views, starts, guided=method == "gsv")
    return found


def _carry(net: GSVNet, views: Sequence[Tensor], starts: dict[int, Tensor], *, guided: bool) -> dict[int, Tensor]:
    """Propagate the groups that start at frames `starts` (with their keyframe logits) to the last frame.

    They go through the clip together, so that flow and intra features are computed once a frame for all of them.
    Without `guided` the logits are only warped. Returns logits (1,C,h,w) by position.
    """
    under_way: list[int] = []  # starts of the groups whose logits are in `state`, in that order
    state: Optional[State] = None
    for t, view in enumerate(views):
        if state is not None:
            logits = net.warp(state, view)  # (M,C,h,w)
            state = State(net.guided(logits, view) if guided else logits, view)
        if t in starts:
            joined = starts[t] if state is None else torch.cat([state.logits, starts[t]])  # (M+1,C,h,w)
            state = State(joined, view)
            under_way.append(t)
    last = len(views) - 1
    return {last - start: state.logits[i : i + 1] for i, start in enumerate(under_way)}


def label_map(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (1,C,h,w) -> class indices (H,W) int64 at `size`: one align-upsampling, then the largest."""
    return align(logits, tuple(size)).max(dim=1).indices[0]


def evaluate(
    net: GSVNet, loader: DataLoader, positions: Sequence[int], *, classes: int, methods: Sequence[str], scale: float,
    device: torch.device, ranks: Ranks = Ranks(), on_frame: Optional[OnFrame] = None,
) -> dict[str, dict[int, ConfusionMatrix]]:
    """Confusion matrices per method and position over `loader` (batches of one sample of PastDataset), over all ranks.

    A frame counts at every position for which it has enough frames before it. on_frame(name, clip, label, predictions)
    is called for each frame; predictions[method][position] is (H,W) int64.
    """
    net.eval()
    matrices = {method: {position: ConfusionMatrix(classes) for position in positions} for method in methods}
    for sample in watched(loader, description=f"evaluate {', '.join(methods)}", unit="frame", show=ranks.first):
        clip = channels_first(sample["clip"][0].to(device, non_blocking=True))  # (T,3,H,W)
        label = sample["label"][0].to(device)
        possible = [position for position in positions if position < len(clip)]
        if not possible:
            continue
        found = position_logits(net, clip, possible, methods=methods, scale=scale)
        predictions = {
            method: {position: label_map(logits, label.shape) for position, logits in by_position.items()}
            for method, by_position in found.items()
        }
        for method, by_position in predictions.items():
            for position, prediction in by_position.items():
                matrices[method][position].add(label, prediction)
        if on_frame is not None:
            on_frame(sample["name"][0], clip, label, predictions)
    for matrix in (matrix for by_position in matrices.values() for matrix in by_position.values()):
        matrix.counts, frames = add_over_ranks([matrix.counts, torch.tensor([matrix.frames])], device)
        matrix.frames = int(frames)
    return matrices


def picture_cache(options: Options) -> Optional[PictureCache]:
    """The cache of decoded frames that `--cache-dir` asks for, if it does."""
    return PictureCache(Path(options.cache_dir)) if options.cache_dir else None


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
            PastDataset(frames, past, self.dataset, picture_cache(options)), workers=options.num_worker, rank=ranks.rank, ranks=ranks.count,
            limit=limit,
        )

    def run(self, net: GSVNet, *, methods: Sequence[str], on_frame: Optional[OnFrame] = None) -> dict[str, dict]:
        """Evaluate `net`; returns the content of metrics.json by method."""
        options = self.options
        self.picture = None

        def see(name: str, clip: Tensor, label: Tensor, predictions: Predictions) -> None:
            if self.picture is None:
                self.picture = self.panel(clip, label, predictions[methods[-1]])
            if on_frame is not None:
                on_frame(name, clip, label, predictions)

        matrices = evaluate(
            net, self.loader, self.positions, classes=self.dataset.num_classes, methods=methods, scale=options.scale,
            device=self.device, ranks=self.ranks, on_frame=see,
        )
        return {
            method: {
                "dataset": options.dataset,
                "segnet": options.segnet,
                "flow": options.optical_flow_network,
                "method": method,
                "scale": options.scale,
                "classes": list(self.dataset.classes),
                **summary(by_position, self.dataset.classes),
            }
            for method, by_position in matrices.items()
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

        def write(name: str, clip: Tensor, label: Tensor, predictions: Predictions) -> None:
            (by_position,) = predictions.values()
            for position, prediction in by_position.items():
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
