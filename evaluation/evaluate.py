"""Evaluation per frame position (paper section 4): each labelled frame as keyframe, first propagated frame, and so on."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from dataloaders.cache import PictureCache
from dataloaders.clips import LabelledFrame, with_past
from dataloaders.eval_videos import Video, VideoDataset, share, videos_of
from dataloaders.images import id_table
from dataloaders.label_check import check_label_kind
from dataloaders.loaders import labelled_frames, video_loader
from evaluation.keyframe_groups import VideoPropagation, plan_video
from evaluation.optical_flow import FlowBetween
from evaluation.temporal import TemporalMeasures, flow_source
from models.gsvnet import GSVNet
from models.label_map import label_map
from models.steps import KeyframeStep, ViewStep
from utils.distributed import Ranks, add_over_ranks
from utils.logging import SizedIterable, logger, watched
from utils.metrics import ConfusionMatrix, by_interval, summary
from utils.visualize import write_picture

DRY_RUN_FRAMES = 10
TORCH_WEIGHTS = Path(torch.hub.get_dir()) / "checkpoints"  # where torchvision's own downloads lie
TEMPORAL_PAST = 12  # frames before a labelled one that measures over time look at; a multiple of 2, 3 and 4
Matrices = dict[str, dict[int, ConfusionMatrix]]  # by method and position


@dataclass(frozen=True)
class Seen:
    """What evaluation saw of one labelled frame.

    image: (H,W,3) uint8 RGB; label: (H',W') uint8 class indices; predictions and counts by method and position: class
    indices (H',W') uint8, and the frame's own confusion counts (C,C) int64 on the CPU.
    """

    frame: LabelledFrame
    image: Tensor
    label: Tensor
    predictions: dict[str, dict[int, Tensor]]
    counts: dict[str, dict[int, Tensor]]


OnFrame = Callable[[Seen], None]


class Maps:
    """Label maps of one frame, made when first asked for: (method, keyframe, size) -> (H,W) uint8."""

    def __init__(self, logits: Mapping[str, Mapping[int, Tensor]]):
        self.logits = logits
        self.made: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def __call__(self, method: str, keyframe: int, size: Sequence[int]) -> Tensor:
        logits = self.logits[method][keyframe]  # (1,C,h,w), which methods and keyframes may share
        key = (id(logits), tuple(size))
        if key not in self.made:
            self.made[key] = label_map(logits, size)
        return self.made[key]


@torch.inference_mode()
def evaluate(
    net: GSVNet, videos: Sequence[Video], frames: SizedIterable[Mapping[str, Tensor]], positions: Sequence[int], *, classes: int,
    methods: Sequence[str], scale: float, device: torch.device, ranks: Ranks = Ranks(),
    measures: TemporalMeasures | None = None, on_frame: OnFrame | None = None, quiet: bool = False,
) -> Matrices:
    """Go once through `videos`, whose frames (items of VideoDataset, one after the other) are `frames`.

    Returns confusion matrices per method and position, over all ranks. A labelled frame counts at every position for which
    it has enough frames before it. `measures` sees every frame, on_frame every labelled one.
    """
    net.eval()
    segment, see = KeyframeStep(net, scale).to(device), ViewStep(net).to(device)
    matrices: Matrices = {method: {position: ConfusionMatrix(classes) for position in positions} for method in methods}
    items = iter(watched(frames, description=f"evaluate {', '.join(methods)}", unit="frame", show=ranks.first and not quiet))
    for video in videos:
        labelled = [frame.labelled is not None for frame in video]
        plan = plan_video(labelled, positions, measures.intervals if measures is not None else ())
        propagation, size = VideoPropagation(net, segment, see, plan, methods=methods), None
        if measures is not None:
            measures.begin()
        for t, frame in enumerate(video):
            item = {name: x.to(device, non_blocking=True) for name, x in next(items).items()}
            size = size or item["image"].shape
            _refuse_other_size(item["image"].shape, size, frame.path, video[0].path)
            maps = Maps(propagation.advance(item["image"]))
            if frame.labelled is not None:
                seen = score(frame.labelled, item, maps, t, matrices)
                if on_frame is not None:
                    on_frame(seen)
            if measures is not None:
                measures.add(item, maps)
    next(items, None)  # ends the progress bar
    for matrix in (matrix for by_position in matrices.values() for matrix in by_position.values()):
        matrix.counts, counted = add_over_ranks([matrix.counts, torch.tensor([matrix.frames])], device)
        matrix.frames = int(counted)
    return matrices


def _refuse_other_size(size: Sequence[int], first: Sequence[int], path: Path, first_path: Path) -> None:
    if size != first:
        raise UserError(
            f"{path}: {size[1]} x {size[0]} pixels, but {first_path} of the same video has {first[1]} x {first[0]}"
        )


def score(frame: LabelledFrame, item: Mapping[str, Tensor], maps: Maps, t: int, matrices: Matrices) -> Seen:
    """Add frame t of a video to the matrices, at every position that the video reaches back to."""
    predictions: dict[str, dict[int, Tensor]] = {}
    counts: dict[str, dict[int, Tensor]] = {}
    for method, by_position in matrices.items():
        possible = [position for position in by_position if position <= t]
        predictions[method] = {k: maps(method, t - k, item["label"].shape) for k in possible}
        counts[method] = {k: by_position[k].add(item["label"], predictions[method][k]) for k in possible}
    return Seen(frame, item["image"], item["label"], predictions, counts)


def picture_cache(options: Options) -> PictureCache | None:
    """The cache of decoded frames that `--cache-dir` asks for, if it does."""
    return PictureCache(Path(options.cache_dir)) if options.cache_dir else None


class Evaluation:
    """Evaluation on the validation split, as the options describe it; prepared once, run as often as needed.

    temporal: measure consistency over time too, for every keyframe interval whose positions are all evaluated.
    """

    def __init__(self, options: Options, device: torch.device, ranks: Ranks, *, temporal: bool = False):
        self.options, self.device, self.ranks = options, device, ranks
        self.dataset = dataset_config(options.dataset, options.data_path)
        self.first: Seen | None = None  # frame of the last run
        self.positions = sorted({0} if options.eval_single else set()) + sorted(set(options.eval_multi_step))
        past = max(self.positions)
        # Where only some frames are labelled, consistency over time wants more past than the positions: enough keyframes of
        # every interval, however many positions are evaluated.
        seen = max(past, TEMPORAL_PAST, 2 * (past + 1)) if temporal else past
        frames = labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="val", past=seen)
        check_label_kind(frames, self.dataset)
        for position in list(self.positions):
            enough = len(with_past(frames, position))
            if enough < len(frames):
                logger.info("val: %d of %d labelled frames have %d frames before them", enough, len(frames), position)
            if enough == 0:
                self.positions.remove(position)
        if not self.positions:
            raise UserError(f"{options.data_path}: no labelled val frame has the {past} frames before it that were asked for")
        if options.early_stop:
            frames = frames[:DRY_RUN_FRAMES]
        self.videos = share(frames, rank=ranks.rank, ranks=ranks.count, whole_videos=temporal)
        # Intervals n of which all positions 0..n-1 are evaluated.
        self.intervals = [n for n in range(1, max(self.positions) + 2) if set(range(n)) <= set(self.positions)] if temporal else []
        if temporal and not self.intervals:
            logger.info("no table by keyframe interval, and no consistency over time: position 0 is not evaluated")
        self.flow_name: str | None = None
        self.flow: FlowBetween | None = None
        if self.intervals:
            self.flow_name, self.flow = flow_source(videos_of(frames), [Path(options.weights_dir), TORCH_WEIGHTS], device)
        self.loader = video_loader(
            VideoDataset(self.videos, self.dataset, picture_cache(options), with_flow=bool(self.intervals) and self.flow is None),
            workers=options.num_worker,
        )

    def run(self, net: GSVNet, *, methods: Sequence[str], on_frame: OnFrame | None = None) -> dict[str, dict]:
        """Evaluate `net`; returns the content of metrics.json by method."""
        options, classes = self.options, self.dataset.num_classes
        measures = None
        if self.intervals:
            measures = TemporalMeasures(classes, methods=methods, intervals=self.intervals, flow=self.flow)
        self.first = None

        def see(seen: Seen) -> None:
            self.first = self.first or seen
            if on_frame is not None:
                on_frame(seen)

        matrices = evaluate(
            net, self.videos, self.loader, self.positions, classes=classes, methods=methods, scale=options.scale,
            device=self.device, ranks=self.ranks, measures=measures, on_frame=see,
        )
        over_time = measures.results(self.device) if measures is not None else {}
        metrics = {}
        for method, by_position in matrices.items():
            content = {
                "dataset": self.dataset.name, "segnet": options.segnet, "flow": options.optical_flow_network,
                "intra": options.intra, "edge": options.edge, "method": method, "scale": options.scale,
                "classes": list(self.dataset.classes),
                **summary(by_position, self.dataset.classes),
            }
            content["intervals"] = by_interval(content["positions"], by_position)
            for row in content["intervals"]:
                row.update(over_time.get(method, {}).get(row["interval"], {}))
            if measures is not None:
                content["temporal_flow"] = self.flow_name
            metrics[method] = content
        return metrics


def writer_of_predictions(folder: Path, evaluation: Evaluation) -> OnFrame:
    """An `on_frame` that writes FOLDER/position_K/NAME with the data set's label ids, at the label's size."""
    table = id_table(evaluation.dataset)

    def write(seen: Seen) -> None:
        (by_position,) = seen.predictions.values()
        for position, prediction in by_position.items():
            write_picture(folder / f"position_{position}" / seen.frame.prediction, table[prediction.cpu().numpy()])

    return write
