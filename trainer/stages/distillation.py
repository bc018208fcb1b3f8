"""Stage gsv without labels: the propagation learns from the frozen segmenter on videos."""
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config.errors import UserError
from dataloaders.clips import LabelledFrame, SizedDataset
from dataloaders.taught_clips import TaughtClips, grid_crop, labels_of
from evaluation.metrics_json import Metrics
from evaluation.unlabelled import video_parts
from inference.engines import Engine, build_engines
from models.flow_dis import DISFlow
from models.gsvnet import GSVNet
from models.load_segmenter import classes_of
from trainer.stages.propagation import PropagationStage
from trainer.teacher import labelled_by_teacher, teacher_pass
from trainer.teacher_cache import Pass
from utils.logging import logger
from utils.text_table import Table

WARPINGS = {"logits": "warp", "labels": "warp labels"}  # what is carried -> name of the way, along DIS
TITLES = {"gsv": "propagation", "warp": "logits warped along DIS", "warp labels": "labels moved along DIS"}


class DistillationStage(PropagationStage):
    """Stage gsv with --dataset unlabelled. The segmenter's logits come from the teacher's pass over the videos: a step
    costs the propagation alone. Crops and flips act on the grid."""

    val: dict | None = None  # what evaluation found of the weights as they are, see `compared`

    def _clips(self) -> dict[int, SizedDataset]:
        """As of the base, of the teacher's cache. Raises UserError."""
        options = self.options
        self.dataset = classes_of(options, self.net.segmenter)
        if options.clip_source == "stills" or not options.teacher_cache:
            return super()._clips()
        videos = [each.video for each in self._pass(pictures=False)]
        labels = Path(options.label_path) if options.label_path else None
        clips = {k: TaughtClips(videos, k, self.dataset, labels) for k in options.multi_step}
        for interval, found in clips.items():
            logger.info("train: %d clips of %d frames", len(found), interval + 1)
            if not len(found):
                raise UserError(
                    f"{options.data_path}: no {interval + 1} frames in a row that differ and show one scene, which "
                    f"--multi-step {interval} requires; name longer videos, or choose smaller steps"
                )
        return {**clips}

    def _pass(self, *, pictures: bool) -> list[Pass]:
        parts = video_parts(self.options, "train")
        return teacher_pass(
            self.net, parts, self.options, self.device, self.ranks, self.dataset, pictures=pictures
        )

    def training_frames(self, past: int) -> list[LabelledFrame]:
        """As of the base; the labels are the segmenter's, except those of --label-path."""
        passes, options = self._pass(pictures=True), self.options
        frames = labelled_by_teacher(passes, past)
        if options.label_path:
            labels = labels_of(Path(options.label_path), [each.video for each in passes])
            frames = [replace(frame, label=labels.get(frame.name, frame.label)) for frame in frames]
        if options.use_crop and frames:
            self._check_crop(frames[0].frames[-1])
        return frames

    def train_mode(self) -> None:
        super().train_mode()
        self.val = None

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        """As of the base; where there is no label, the segmenter's takes its place."""
        if "teacher" not in batch:
            return super().loss(batch, seed)
        key, teacher, views, flows, label = self.crops(batch, np.random.default_rng(list(seed)))
        with self.autocast():
            logits = self.trained(key, views, flows)  # (N,C,h,w)
        label = torch.where(label == self.dataset.ignore, teacher.argmax(dim=1), label)  # (N,h,w)
        return self.criterion(logits.float(), label, teacher if self.options.distil else None)

    def crops(
        self, batch: Mapping, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], Tensor]:
        """A batch of TaughtClips, cut and flipped alike: logits (N,C,h,w) of the first and of the last frame, views
        (N,3,h,w) of all T frames, flow (N,2,h,w) of T-1 steps or nothing, label (N,h,w) int64."""
        options, clips = self.options, batch["label"]
        grids = [tuple(x.shape) for x in clips] if isinstance(clips, list) else [tuple(clips.shape[1:])]
        size = min(x[0] for x in grids), min(x[1] for x in grids)  # that fits into every clip
        if options.use_crop:
            size = min(size[0], options.crop_height // options.grid), min(size[1], options.crop_width // options.grid)
        flip = bool(options.use_crop and rng.random() < options.flip)
        corner = rng.random(2)

        def cut(name: str) -> Tensor:
            samples = batch[name] if isinstance(batch[name], list) else [batch[name]]
            found = []
            for x in samples:
                x = x.to(self.device, non_blocking=True)
                top, left = (int(at * (side - part + 1)) for at, side, part in zip(corner, x.shape[-2:], size))
                found.append(grid_crop(x, top, left, size, flip))
            return torch.stack(found) if isinstance(batch[name], list) else found[0]

        views, flow = cut("views").float(), cut("flow").float()  # (N,T,3,h,w), (N,T-1,2,h,w)
        if flip:
            flow = flow * flow.new_tensor([-1.0, 1.0]).view(2, 1, 1)
        flows = [*flow.unbind(1)] if self.dis is not None else []
        return cut("key").float(), cut("teacher").float(), [*views.unbind(1)], flows, cut("label").long()

    def evaluate(self) -> Metrics | None:
        """Evaluate the propagation on val, next to warping along DIS; `val` tells by how much it is better."""
        evaluation = self.evaluation
        if evaluation is None:
            return None
        engines = {**evaluation.engines(self.net, ["gsv"]), **self._warpings()}
        tally = evaluation.tally([*engines])
        for frame in evaluation.frames(engines):
            tally.add(frame)
        found = evaluation.metrics(tally)
        self.val = compared(found)
        for line in table_of(self.val).console() if self.val else ():
            logger.info("%s", line)
        return found["gsv"]

    def _warpings(self) -> dict[str, Engine]:
        """Engines that warp along DIS."""
        options, net = self.options, self.net
        net = GSVNet(net.segmenter, DISFlow(options.dis_side, options.dis_preset), net.guided, net.grid)
        return {
            name: build_engines(net, ["warp"], scale=options.scale, carry=carry, device=self.device)["warp"]
            for carry, name in WARPINGS.items()
        }

    def state(self) -> dict:
        return super().state() | ({"val": self.val} if self.val is not None else {})


def compared(found: Mapping[str, Metrics]) -> dict | None:
    """Pixels that agree with the segmenter's own labels, per cent by position and way; and by how much the propagation
    is better than the better way to warp, on average over the positions after the keyframe. None if no frame is there.
    """
    rows = {
        name: {row.position: 100 * row.pixel_accuracy for row in x.positions if row.pixel_accuracy is not None}
        for name, x in found.items()
    }
    after = [position for position in rows["gsv"] if position > 0]
    if not after:
        return None
    means = {name: sum(by[position] for position in after) / len(after) for name, by in rows.items()}
    best = max(WARPINGS.values(), key=lambda name: means[name])
    return {
        "frames": max(row.frames for row in found["gsv"].positions), "positions": [*rows["gsv"]],
        "ways": {name: [*by.values()] for name, by in rows.items()}, "warping": best,
        "gain": means["gsv"] - means[best],
    }


def table_of(val: Mapping) -> Table:
    """A row for each way."""
    rows = [(TITLES[name], *(f"{x:.2f}" for x in by)) for name, by in val["ways"].items()]
    title = f"Pixels that agree with the segmenter, %, on {val['frames']} frames of val; gain {val['gain']:.2f}"
    return Table(title, ("frames since the keyframe", *map(str, val["positions"])), tuple(rows))
