"""Stage segnet: the keyframe segmenter."""
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from config.options import Options
from dataloaders.clips import ClipDataset
from evaluation.evaluate import Evaluation
from evaluation.metrics_json import Metrics
from models.identity import SegmenterIdentity
from models.load import networks_for_training
from trainer import optim
from trainer.stages.training_stage import Stage
from trainer.trainable import SegmenterOutputs
from utils.checkpoint import WeightsFile
from utils.distributed import Ranks, mean_over_ranks


class SegmenterStage(Stage):
    """Stage segnet: the keyframe segmenter on labelled stills (recipes of its own paper)."""

    def __init__(self, options: Options, device: torch.device, ranks: Ranks, resumed: WeightsFile | None):
        super().__init__(options, device, ranks)
        frames = self.training_frames(0)
        self.net = networks_for_training(options, resumed).to(device)
        self.segmenter = self.net.segmenter.to(memory_format=torch.channels_last)
        recipe, border = self.segmenter.recipe, self.dataset.border if self.segmenter.learns_boundaries else None
        self.passes = {0: ClipDataset(frames, 0, self.dataset, self._prepare_cache(frames), border=border)}
        outputs = SegmenterOutputs(self.segmenter)
        self.trained = self._wrap(outputs, outputs)
        self.criterion = self.segmenter.training_loss(self.dataset, mean_over_ranks).to(device)
        # The recipe trains a pretrained trunk more slowly; a random one learns like the rest.
        groups = optim.segmenter_groups(
            self.segmenter, lr=options.lr, weight_decay=options.weight_decay, pretrained=options.pretrained_backbone
        )
        self.optimizer = self._optimizer(groups, betas=(0.9, 0.99), nesterov=recipe.nesterov)
        total = self.iterations()
        warm_up = min(recipe.warm_up, max(1, total // 20))
        schedule = optim.poly(total, warm_up=warm_up, exponential=recipe.exponential)
        if recipe.schedule == "cosine":
            schedule = optim.cosine(total, lr=options.lr, floor=1e-6)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule)
        stills = dataclasses.replace(options, eval_single=True, eval_multi_step=())
        self.evaluation = self.validation(lambda: Evaluation(stills, device, ranks))

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        """As of the base: `total` of `SegmenterLoss`. Each image has its own draw, as segmenters are trained."""
        images, *labels = self._inputs(batch, seed)
        image = self.segmenter.normalise(images)  # (N,3,H,W)
        with self.autocast():
            outputs = self.trained(image.contiguous(memory_format=torch.channels_last))
        return self.criterion([x.float() for x in outputs], *(label.long() for label in labels))

    def _inputs(self, batch: Mapping, seed: Sequence[int]) -> tuple[Tensor, ...]:
        """Return a batch, augmented: images (N,3,H,W) RGB 0..255 float32, labels (N,H,W), and boundaries (N,H,W) if the
        loss takes them."""
        if isinstance(batch["label"], list):  # of several sizes
            parts = [self._inputs(one, seed) for one in self._singles(batch)]
            return tuple(torch.cat(found) for found in zip(*parts))
        clip, *labels = self._to_device(batch)
        if "boundary" in batch:
            labels.append(batch["boundary"].to(self.device, non_blocking=True))
        first = batch.get("first", self.ranks.rank * len(clip))
        draws = [self.draw(np.random.default_rng([*seed, first + n]), clip.shape[-2:]) for n in range(len(clip))]
        images = torch.stack([draw.images(image) for draw, image in zip(draws, clip[:, 0])])  # (N,3,H,W)
        return images, *(torch.stack([draw.label(x) for draw, x in zip(draws, label)]) for label in labels)

    def evaluate(self) -> Metrics | None:
        return self.validate(self.net, "per-frame")

    def state(self) -> dict:
        identity = SegmenterIdentity.of(self.segmenter, self.options.segnet, self.dataset.classes)
        return {"state_dict": self.segmenter.state_dict(), "segmenter": identity.as_entry()}
