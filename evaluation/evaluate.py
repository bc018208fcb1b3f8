"""Evaluation by frame position (paper section 4): each labelled frame as keyframe, first propagated frame, ..."""
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.datasets import UNLABELLED, dataset_config
from config.errors import UserError
from config.options import Options, tasks
from config.schema import DatasetConfig
from dataloaders.cache import picture_cache
from dataloaders.clips import LabelledFrame, with_past
from dataloaders.eval_videos import (
    Video,
    VideoDataset,
    share,
    videos_of,
    whole_videos_of,
    with_own_label,
)
from dataloaders.label_check import check_frames, check_labels
from dataloaders.loaders import DRY_RUN_FRAMES, labelled_frames, video_loader
from dataloaders.reader import Reader
from evaluation.evaluated_frames import EvaluatedFrame, evaluated_frames
from evaluation.metrics_json import Metrics, ScheduleUse
from evaluation.optical_flow import TORCH_WEIGHTS
from evaluation.temporal import REFERENCE, TemporalMeasures, flow_source
from evaluation.unlabelled import StreamedFrames, video_parts
from inference.calibration import calibration_pairs, pairs_of_videos
from inference.engines import Engine, build_engines, check_precision
from inference.keyframe_schedule import NEVER, build_schedule
from inference.video_input import videos_in
from models.gsvnet import GSVNet
from models.methods.tdnet import MEMORY
from utils.distributed import Ranks, add_over_ranks, from_all_ranks
from utils.logging import logger
from utils.metrics import ConfusionMatrix

Read = Callable[[bool], Iterable[Mapping[str, Tensor]]]  # whether with the true flow -> items of `VideoDataset`
STREAM_PAST = 60  # frames before a labelled one that a stream with a keyframe schedule begins at, if there are so many
TEMPORAL_PAST = 12  # frames before a labelled one that measures over time look at; a multiple of 2, 3 and 4


class Tally:
    """Sums over the frames added: confusion matrices by method and position, numbers of frames and keyframes, and
    measures over time, if any."""

    def __init__(
        self, classes: int, *, methods: Sequence[str], positions: Sequence[int],
        temporal: TemporalMeasures | None = None,
    ):
        self.classes, self.temporal = classes, temporal
        self.matrices = {method: {k: ConfusionMatrix(classes) for k in positions} for method in methods}
        self.frames = self.keyframes = 0

    def add(self, frame: EvaluatedFrame) -> None:
        self.frames += 1
        self.keyframes += any(frame.time in states for states in frame.states.values())
        for method, by_position in frame.counts.items():
            for position, counts in by_position.items():
                self.matrices[method].setdefault(position, ConfusionMatrix(self.classes)).add_counts(counts)
        if self.temporal is not None:
            self.temporal.add(frame)

    def use_of(self, name: str) -> ScheduleUse:
        """What metrics.json says of the schedule `name`."""
        return ScheduleUse(name=name, frames=self.frames, keyframes=self.keyframes)

    def sum_over_ranks(self, device: torch.device) -> None:
        """Add what the other ranks have found; called once, by every rank."""
        positions = sorted({k for found in from_all_ranks({*next(iter(self.matrices.values()))}) for k in found})
        for method, by_position in self.matrices.items():
            matrices = {k: by_position.get(k) or ConfusionMatrix(self.classes) for k in positions}
            for matrix in matrices.values():
                matrix.counts, frames = add_over_ranks([matrix.counts, torch.tensor([matrix.frames])], device)
                matrix.frames = int(frames)
            self.matrices[method] = matrices
        (sums,) = add_over_ranks([torch.tensor([self.frames, self.keyframes])], device)
        self.frames, self.keyframes = sums.tolist()


class Evaluation:
    """Evaluation on val, or the split that --split names, as the options describe it. Prepared once, run as often as
    needed:

        tally = evaluation.tally(methods)
        for frame in evaluation.frames(evaluation.engines(net, methods)):
            tally.add(frame)
        metrics = evaluation.metrics(tally)

    temporal: measure consistency over time too, for every keyframe interval whose positions are all evaluated.
    """

    def __init__(
        self, options: Options, device: torch.device, ranks: Ranks, *, temporal: bool = False,
        dataset: DatasetConfig | None = None,
    ):
        """dataset: the classes, where they are not those of the options' data set. Raises UserError."""
        self.options, self.device, self.ranks = options, device, ranks
        self.dataset = dataset or dataset_config(options.dataset, options.data_path)
        # Frames of a video without labels may all be looked at, unless a run has been trained on some of them.
        unseen = options.dataset != UNLABELLED or options.resume not in ("0", "1") or not tasks(options)
        unseen |= bool(options.val_path)
        self.split = options.split[0] if options.split else "val" if unseen else "all"
        self.positions = sorted({0} if options.eval_single else set()) + sorted(set(options.eval_multi_step))
        self.reference = options.reference == "segmenter" or options.dataset == UNLABELLED
        self.schedule = None if options.schedule == "fixed" else build_schedule(options)  # of one stream a video
        temporal &= self.schedule is None
        # Without keyframes, averages are those of frames with a whole memory.
        self.steady = MEMORY if options.method == "tdnet" and self.schedule is None else None
        self.loader: Iterable[Mapping[str, Tensor]]
        self.flow_name, self.flow = "", None
        videos, read = (self._unlabelled if options.dataset == UNLABELLED else self._labelled)(temporal)
        # Intervals n of which all positions 0..n-1 are evaluated.
        intervals = [n for n in range(1, max(self.positions) + 2) if set(range(n)) <= set(self.positions)]
        if self.steady is not None:
            intervals = [NEVER]  # one stream, which begins with the video
        self.intervals = intervals if temporal else []
        if temporal and not self.intervals:
            logger.info("no table by keyframe interval and no consistency over time: position 0 is not evaluated")
        if self.intervals:
            self.flow_name, self.flow = flow_source(videos, [Path(options.weights_dir), TORCH_WEIGHTS], device)
        self.loader = read(bool(self.intervals) and self.flow is None)

    def _unlabelled(self, temporal: bool) -> tuple[list[Video], Read]:
        """The videos without labels, and how to read this rank's."""
        parts = video_parts(self.options, self.split)
        logger.info("%s: %d frames of %d videos", self.split, sum(part.count for part in parts), len(parts))
        if self.options.early_stop:
            parts = [replace(parts[0], count=min(parts[0].count, DRY_RUN_FRAMES))]
        videos = [part.video() for part in parts]
        self.videos = whole_videos_of(videos, rank=self.ranks.rank, ranks=self.ranks.count)
        mine = [part for mine in self.videos for part, video in zip(parts, videos) if video is mine]
        return videos, lambda _: StreamedFrames(mine)

    def _labelled(self, temporal: bool) -> tuple[list[Video], Read]:
        """The data set's videos, and how to read this rank's."""
        options, frames, ranks = self.options, self._labelled_frames(temporal), self.ranks
        whole = temporal or self.reference or self.schedule is not None
        self.videos = share(frames, rank=ranks.rank, ranks=ranks.count, whole_videos=whole)
        if self.reference:
            self.videos = [tuple(map(with_own_label, video)) for video in self.videos]

        def read(with_flow: bool) -> Iterable[Mapping[str, Tensor]]:
            cache, labels = picture_cache(options.cache_dir), not self.reference
            items = VideoDataset(self.videos, self.dataset, cache, with_flow=with_flow, with_labels=labels)
            return video_loader(items, workers=options.num_worker)

        return videos_of(frames), read

    def _labelled_frames(self, temporal: bool) -> list[LabelledFrame]:
        """Labelled frames with their past; drops positions that none of them reaches. Raises UserError."""
        options, past = self.options, max(self.positions)
        # Where only some frames are labelled, consistency over time requires more past than the positions: enough
        # keyframes of every interval, however many positions are evaluated.
        loaded = max(past, TEMPORAL_PAST, 2 * (past + 1)) if temporal else past
        loaded = loaded if self.schedule is None else max(past, STREAM_PAST)
        root, split = Path(options.data_path), self.split
        frames = labelled_frames(dataset=options.dataset, root=root, split=split, past=loaded)
        if not self.reference:
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

    def engines(self, net: GSVNet, methods: Sequence[str]) -> dict[str, Engine]:
        """What segments the frames by each of the methods, with the options' settings."""
        options, settings = self.options, {**self.computed_by}
        check_precision(settings["engine"], settings["precision"], self.device)
        if options.evaluate and options.precision == "int8":
            seeded: dict[str, Any] = {"bits": self.dataset.bits, "seed": options.seed}
            own = not options.calibrate and options.dataset != UNLABELLED
            source = options.calibrate or videos_in(options.data_path)[0]
            pairs = pairs_of_videos(self.videos, **seeded) if own else calibration_pairs(source, **seeded)
            settings["calibration"] = pairs
        return build_engines(net, methods, scale=options.scale, carry=options.carry, device=self.device, **settings)

    @property
    def computed_by(self) -> dict[str, Any]:
        """Engine and precision: those named with --evaluate 1, while training plain PyTorch in float32."""
        options = self.options
        if not options.evaluate:
            return {"engine": "eager", "precision": "fp32"}
        return {"engine": "eager" if options.engine == "auto" else options.engine, "precision": options.precision}

    def frames(self, engines: Mapping[str, Engine]) -> Iterator[EvaluatedFrame]:
        """This rank's frames in order, as the engines segment them, by method, with a progress bar."""
        return evaluated_frames(
            engines, self.videos, self.loader, positions=self.positions, device=self.device, intervals=self.intervals,
            schedule=self.schedule, reference=self.reference, show=self.ranks.first,
        )

    def tally(self, methods: Sequence[str]) -> Tally:
        """An empty tally for what `frames` yields."""
        classes, temporal = self.dataset.num_classes, None
        if self.intervals:
            temporal = TemporalMeasures(
                classes, methods=methods, intervals=self.intervals, flow=self.flow, reference=self.reference
            )
        positions = self.positions if self.schedule is None else ()
        return Tally(classes, methods=methods, positions=positions, temporal=temporal)

    def metrics(self, tally: Tally) -> dict[str, Metrics]:
        """Metrics by method over all ranks; called once for a tally, by every rank."""
        tally.sum_over_ranks(self.device)
        options, temporal = self.options, tally.temporal.results(self.device) if tally.temporal is not None else {}
        settings = dict(
            dataset=dataset_config(options.dataset, options.data_path).name, split=self.split, segnet=options.segnet,
            flow=options.optical_flow_network, intra=options.intra, edge=options.edge, scale=options.scale,
            carry=options.carry, grid=options.grid, **self.computed_by, reference=options.reference,
            temporal_flow=self.flow_name or None, reference_temporal=temporal.get(REFERENCE, {}).get(1),
            schedule=None if self.schedule is None else tally.use_of(options.schedule), steady=self.steady,
        )
        return {
            method: Metrics.from_matrices(
                by_position, classes=self.dataset.classes, temporal=temporal.get(method), method=method, **settings
            )
            for method, by_position in tally.matrices.items()
        }
