"""Stage segnet: the keyframe segmenter."""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.errors import UserError
from config.options import Options
from config.segmenters import VIDEO_NETWORKS
from dataloaders.clips import ClipDataset, SizedDataset
from evaluation.evaluate import Evaluation
from evaluation.metrics_json import Metrics
from models.build import segmenter_class
from models.identity import SegmenterIdentity
from models.load import networks_for_training
from models.resize import size_of
from trainer import optim
from trainer.stages.training_stage import Stage
from trainer.trainable import SegmenterOutputs
from utils.checkpoint import WeightsFile
from utils.distributed import Ranks, mean_over_ranks


class SegmenterStage(Stage):
    """Stage segnet: the keyframe segmenter on labelled stills (recipes of its own paper)."""

    step = "training_logits"  # the network's method that a step runs

    def __init__(self, options: Options, device: torch.device, ranks: Ranks, resumed: WeightsFile | None):
        super().__init__(options, device, ranks)
        self.passes = self._clips()
        self.net = networks_for_training(options, resumed).to(device)
        self.segmenter = self.net.segmenter.to(memory_format=torch.channels_last)
        if options.use_crop:
            self.check_size((options.crop_height, options.crop_width))
        recipe, groups, outputs = self.segmenter.recipe, self._groups(), SegmenterOutputs(self.segmenter, self.step)
        self.trained = self._wrap(outputs, outputs)
        self.criterion = self.segmenter.training_loss(self.dataset, mean_over_ranks).to(device)
        self.optimizer = self._optimizer(groups, betas=(0.9, 0.99), nesterov=recipe.nesterov)
        schedule = optim.of_recipe(recipe, self.iterations(), lr=options.lr)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule)
        self.method = VIDEO_NETWORKS.get(options.segnet, "per-frame")
        stills: dict[str, Any] = dict(eval_single=True, eval_multi_step=()) if self.method == "per-frame" else {}
        seen = dataclasses.replace(options, method=self.method, **stills)
        self.evaluation = self.validation(lambda: Evaluation(seen, device, ranks))

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise UserError where the network cannot be trained on images of this size."""
        net = self.segmenter
        found = f"--segnet {self.options.segnet} cannot be trained on images of {size[0]} x {size[1]}"
        if net.size and size != net.size:
            raise UserError(f"{found}; use --crop-height {net.size[0]} --crop-width {net.size[1]}")
        if size[0] % net.multiple or size[1] % net.multiple:
            raise UserError(f"{found}; choose --crop-height and --crop-width that are multiples of {net.multiple}")

    def _clips(self) -> dict[int, SizedDataset]:
        frames = self.training_frames(0)
        border = self.dataset.border if segmenter_class(self.options.segnet).learns_boundaries else None
        return {0: ClipDataset(frames, 0, self.dataset, self._prepare_cache(frames), border=border)}

    def _of_length(self, past: int, why: str) -> SizedDataset:
        """Clips of `past` frames and a labelled one. Raises UserError if there are none."""
        frames = self.training_frames(past)
        clips = ClipDataset(frames, past, self.dataset, self._prepare_cache(frames))
        if not len(clips):
            raise UserError(
                f"{self.options.data_path}: no labelled train frame has {past} frames before it, which {why} requires; "
                "choose smaller --multi-step"
            )
        return clips

    def _groups(self) -> list[dict]:
        """The optimizer's groups. A pretrained trunk is trained more slowly; a random one learns like the rest."""
        options = self.options
        return optim.segmenter_groups(
            self.segmenter, lr=options.lr, weight_decay=options.weight_decay, pretrained=options.pretrained_backbone
        )

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        """As of the base: what the segmenter's loss returns. Each image has its own draw, as segmenters are trained."""
        clips, *labels = self._inputs(batch, seed)
        self.check_size(size_of(clips))
        with self.autocast():
            taught, outputs = self._taught(clips), self._run(clips, seed)
        return self.criterion([x.float() for x in outputs], *(label.long() for label in labels), *taught)

    def _run(self, clips: Tensor, seed: Sequence[int]) -> list[Tensor]:
        """Clips (N,T,3,H,W), RGB 0..255 -> the outputs that the loss takes."""
        image = self.segmenter.normalise(clips[:, 0])  # (N,3,H,W)
        return self.trained(image.contiguous(memory_format=torch.channels_last))

    def _taught(self, clips: Tensor) -> list[Tensor]:
        """What else the loss takes: a teacher's logits (N,C,h,w) of each last frame, if there is one."""
        return []

    def _inputs(self, batch: Mapping, seed: Sequence[int]) -> tuple[Tensor, ...]:
        """Return a batch, augmented: clips (N,T,3,H,W) RGB 0..255 float32, labels (N,H,W), boundaries (N,H,W) if the
        loss takes them. The frames of a clip are all augmented in the same way."""
        if isinstance(batch["label"], list):  # of several sizes
            parts = [self._inputs(one, seed) for one in self._singles(batch)]
            return tuple(torch.cat(found) for found in zip(*parts))
        clip, *labels = self._to_device(batch)
        if "boundary" in batch:
            labels.append(batch["boundary"].to(self.device, non_blocking=True))
        first = batch.get("first", self.ranks.rank * len(clip))
        seeds = [[*seed, first + n] for n in range(len(clip))]
        draws = [self.draw(np.random.default_rng(words), clip.shape[-2:]) for words in seeds]
        chosen = [frames[self._chosen(len(frames), words)] for frames, words in zip(clip, seeds)]  # (T,3,H,W) each
        images = torch.stack([draw.images(frames) for draw, frames in zip(draws, chosen)])  # (N,T,3,H,W)
        return images, *(torch.stack([draw.label(x) for draw, x in zip(draws, label)]) for label in labels)

    def _chosen(self, count: int, seed: Sequence[int]) -> list[int]:
        """Which of the `count` frames of a clip are used."""
        return [*range(count)]

    def evaluate(self) -> Metrics | None:
        return self.validate(self.net, self.method)

    def state(self) -> dict:
        identity = SegmenterIdentity.of(self.segmenter, self.options.segnet, self.dataset.classes)
        return {"state_dict": self.segmenter.state_dict(), "segmenter": identity.as_entry()}
