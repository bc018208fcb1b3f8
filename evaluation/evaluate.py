"""Evaluation by frame position (paper section 4): each labelled frame as keyframe, first propagated frame, ..."""
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from dataloaders.cache import picture_cache
from dataloaders.clips import LabelledFrame, with_past
from dataloaders.eval_videos import VideoDataset, share, videos_of
from dataloaders.label_check import check_frames, check_labels
from dataloaders.loaders import DRY_RUN_FRAMES, labelled_frames, video_loader
from dataloaders.reader import Reader
from evaluation.evaluated_frames import EvaluatedFrame, evaluated_frames
from evaluation.metrics_json import Metrics
from evaluation.optical_flow import TORCH_WEIGHTS, FlowBetween
from evaluation.temporal import TemporalMeasures, flow_source
from inference.engines import build_engines
from models.gsvnet import GSVNet
from utils.distributed import Ranks, add_over_ranks
from utils.logging import logger
from utils.metrics import ConfusionMatrix

TEMPORAL_PAST = 12  # frames before a labelled one that measures over time look at; a multiple of 2, 3 and 4


class Tally:
    """Sums over the frames added: confusion matrices by method and position, and measures over time, if any."""

    def __init__(
        self, classes: int, *, methods: Sequence[str], positions: Sequence[int],
        temporal: TemporalMeasures | None = None,
    ):
        self.matrices = {method: {k: ConfusionMatrix(classes) for k in positions} for method in methods}
        self.temporal = temporal

    def add(self, frame: EvaluatedFrame) -> None:
        for method, by_position in frame.counts.items():
            for position, counts in by_position.items():
                self.matrices[method][position].add_counts(counts)
        if self.temporal is not None:
            self.temporal.add(frame)


class Evaluation:
    """Evaluation on val, or the split that --split names, as the options describe it. Prepared once, run as often as
    needed:

        tally = evaluation.tally(methods)
        for frame in evaluation.frames(net, methods):
            tally.add(frame)
        metrics = evaluation.metrics(tally)

    temporal: measure consistency over time too, for every keyframe interval whose positions are all evaluated.
    """

    def __init__(self, options: Options, device: torch.device, ranks: Ranks, *, temporal: bool = False):
        self.options, self.device, self.ranks = options, device, ranks
        self.dataset = dataset_config(options.dataset, options.data_path)
        self.split = options.split[0] if options.split else "val"
        self.positions = sorted({0} if options.eval_single else set()) + sorted(set(options.eval_multi_step))
        frames = self._labelled_frames(temporal)
        self.videos = share(frames, rank=ranks.rank, ranks=ranks.count, whole_videos=temporal)
        # Intervals n of which all positions 0..n-1 are evaluated.
        intervals = [n for n in range(1, max(self.positions) + 2) if set(range(n)) <= set(self.positions)]
        self.intervals = intervals if temporal else []
        if temporal and not self.intervals:
            logger.info("no table by keyframe interval and no consistency over time: position 0 is not evaluated")
        self.flow_name: str | None = None
        self.flow: FlowBetween | None = None
        if self.intervals:
            folders = [Path(options.weights_dir), TORCH_WEIGHTS]
            self.flow_name, self.flow = flow_source(videos_of(frames), folders, device)
        with_flow = bool(self.intervals) and self.flow is None
        items = VideoDataset(self.videos, self.dataset, picture_cache(options.cache_dir), with_flow=with_flow)
        self.loader = video_loader(items, workers=options.num_worker)

    def _labelled_frames(self, temporal: bool) -> list[LabelledFrame]:
        """Labelled frames with their past; drops positions that none of them reaches. Raises UserError."""
        options, past = self.options, max(self.positions)
        # Where only some frames are labelled, consistency over time requires more past than the positions: enough
        # keyframes of every interval, however many positions are evaluated.
        loaded = max(past, TEMPORAL_PAST, 2 * (past + 1)) if temporal else past
        root, split = Path(options.data_path), self.split
        frames = labelled_frames(dataset=options.dataset, root=root, split=split, past=loaded)
        reader = Reader(self.dataset, labels=[frame.label for frame in frames])
        check_labels(frames, reader, split)
        check_frames(frames, reader)
        for position in list(self.positions):
            enough = len(with_past(frames, position))
            if enough < len(frames):
                counts = enough, len(frames), position
                logger.info("%s: %d of %d labelled frames have %d frames before them", split, *counts)
            if enough == 0:
                self.positions.remove(position)
        if not self.positions:
            raise UserError(
                f"{options.data_path}: no labelled {split} frame has {past} frames before it; choose a smaller "
                "--eval-multi-step, or --eval-single 1"
            )
        return frames[:DRY_RUN_FRAMES] if options.early_stop else frames

    def frames(self, net: GSVNet, methods: Sequence[str]) -> Iterator[EvaluatedFrame]:
        """This rank's frames in order, as `net` segments them by each of the methods, with a progress bar."""
        engines = build_engines(net, methods, scale=self.options.scale, carry=self.options.carry, device=self.device)
        return evaluated_frames(
            engines, self.videos, self.loader, positions=self.positions, device=self.device, intervals=self.intervals,
            show=self.ranks.first,
        )

    def tally(self, methods: Sequence[str]) -> Tally:
        """An empty tally for what `frames` yields."""
        classes, temporal = self.dataset.num_classes, None
        if self.intervals:
            temporal = TemporalMeasures(classes, methods=methods, intervals=self.intervals, flow=self.flow)
        return Tally(classes, methods=methods, positions=self.positions, temporal=temporal)

    def metrics(self, tally: Tally) -> dict[str, Metrics]:
        """Metrics by method over all ranks; called once for a tally, by every rank."""
        for matrix in (matrix for by_position in tally.matrices.values() for matrix in by_position.values()):
            matrix.counts, frames = add_over_ranks([matrix.counts, torch.tensor([matrix.frames])], self.device)
            matrix.frames = int(frames)
        options, temporal = self.options, tally.temporal.results(self.device) if tally.temporal is not None else {}
        return {
            method: Metrics.from_matrices(
                by_position, classes=self.dataset.classes, temporal=temporal.get(method), temporal_flow=self.flow_name,
                dataset=self.dataset.name, segnet=options.segnet, flow=options.optical_flow_network, method=method,
                intra=options.intra, edge=options.edge, scale=options.scale, split=self.split,
            )
            for method, by_position in tally.matrices.items()
        }
