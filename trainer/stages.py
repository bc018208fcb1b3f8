"""The three training stages: what each trains, on what, with which loss, and what its checkpoint holds.

A stage offers the trainer: `passes` (data sets by clip interval, gone through in order in each epoch), `optimizer`,
`scheduler`, `loss(batch, augmentation seed)`, `train_mode()`, `evaluate()` and `state()`.
"""
import dataclasses
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from config.datasets import DATASETS
from config.errors import UserError
from config.options import Options
from dataloaders.build import evaluation_loader, labelled_frames
from dataloaders.cache import PictureCache
from dataloaders.clips import ClipDataset, LabelledFrame
from dataloaders.flows import FlowDataset
from dataloaders.images import read_image
from dataloaders.transforms import PROPAGATION_SCALES, Augmentation, channels_first, draw_augmentation, normalise
from models.build import SEGMENTERS
from models.fold import folded
from models.gsvnet import GSVNet
from models.losses import FlowLoss, PropagationLoss, SegmenterLoss
from models.released import released_state
from models.resize import GRID_STRIDE, grid_size
from trainer import optim
from trainer.evaluate import DRY_RUN_FRAMES, Evaluation, picture_cache
from trainer.networks import Resumed, networks_for_training, starting_flow, starting_segmenter
from trainer.train import (
    ClipPropagation, FlowOutput, SegmenterOutputs, freeze_batch_norm, frozen_pass, views_of,
)
from utils.distributed import Ranks, add_over_ranks, data_parallel, mean_over_ranks, synchronise_batch_norm
from utils.logging import logger


class Stage:
    """What the three stages share."""

    trained: nn.Module  # called by loss(), wrapped for several GPUs where there are any
    passes: dict[int, Dataset]
    evaluation: Optional[Evaluation] = None
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    def __init__(self, options: Options, device: torch.device, ranks: Ranks):
        self.options, self.device, self.ranks = options, device, ranks
        self.dataset = DATASETS[options.dataset]

    def train_mode(self) -> None:
        self.trained.train()
        if self.options.freeze_bn:
            freeze_batch_norm(self.trained)

    def autocast(self) -> AbstractContextManager:
        """The precision that `--amp` asks for, around a forward pass."""
        kind = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.options.amp]
        return nullcontext() if kind is None else torch.autocast(self.device.type, dtype=kind)

    def _wrap(self, trained: nn.Module, *compiled: nn.Module) -> nn.Module:
        """Make `trained` ready for several processes; with `--compile 1` the parts `compiled` of it are compiled."""
        if self.options.sync_bn:
            synchronise_batch_norm(trained, self.ranks, self.device)
        if self.options.compile:
            for part in compiled:
                part.compile()
        return data_parallel(trained, self.ranks, self.device, apex=self.options.apex)

    def _to_device(self, batch: Mapping) -> tuple[Tensor, Tensor]:
        """clip (N,T,3,H,W) and label (N,H,W) of a batch, uint8, on the device."""
        clip, label = (batch[name].to(self.device, non_blocking=True) for name in ("clip", "label"))
        return channels_first(clip), label

    def _optimizer(self, groups: list[dict], **choices) -> torch.optim.Optimizer:
        options = self.options
        return optim.build_optimizer(
            groups, name=options.optim, weight_decay=options.weight_decay, apex=options.apex, **choices
        )

    def iterations(self) -> int:
        """Optimizer steps of the whole training."""
        batches = sum(max(1, len(dataset) // self.options.batch_size) for dataset in self.passes.values())
        return batches * self.options.epoch

    def training_frames(self, past: int) -> list[LabelledFrame]:
        options = self.options
        return labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="train", past=past)

    def _prepare_cache(self, frames: Sequence[LabelledFrame]) -> Optional[PictureCache]:
        """The cache of decoded frames, if there is to be one, after saying how much it will take."""
        cache = picture_cache(self.options)
        if cache is not None and self.ranks.first:
            cache.announce((path for frame in frames for path in frame.frames), read_image)
        return cache

    def validation(self, options: Options) -> Optional[Evaluation]:
        """Evaluation on the val split, or None, with a word, where there is no such split."""
        try:
            return Evaluation(options, self.device, self.ranks)
        except UserError as error:
            logger.info("no evaluation while training: %s", error)
            return None

    def picture(self) -> Optional[np.ndarray]:
        """Overlay of the last evaluation, RGB (H,W,3) uint8, where the stage makes one."""
        return self.evaluation.picture if self.evaluation is not None else None

    def draw(self, rng: np.random.Generator, frame: Sequence[int]) -> Augmentation:
        """One draw of the options' augmentation for frames of size (H,W)."""
        options = self.options
        return draw_augmentation(
            rng, (int(frame[0]), int(frame[1])), crop=(options.crop_height, options.crop_width) if options.use_crop else None,
            scales=options.random_scale or PROPAGATION_SCALES, continuous=bool(options.random_scale), flip=options.flip,
        )


class PropagationStage(Stage):
    """Stage gsv: the paper's training of flow network and guided convolution under a frozen segmenter.

    net: networks to train instead of those that the options' files hold.
    """

    def __init__(
        self, options: Options, device: torch.device, ranks: Ranks, resumed: Optional[Resumed], net: Optional[GSVNet] = None
    ):
        super().__init__(options, device, ranks)
        frames = self.training_frames(max(options.multi_step))
        cache = self._prepare_cache(frames)
        self.passes = {}
        for interval in options.multi_step:
            self.passes[interval] = ClipDataset(frames, interval, self.dataset, cache)
            missing = len(frames) - len(self.passes[interval])
            if missing:
                logger.info("train: %d of %d labelled frames lack %d frames before them", missing, len(frames), interval)
            if not len(self.passes[interval]):
                raise UserError(
                    f"{options.data_path}: no labelled train frame has {interval} frames before it, which "
                    f"--multi-step {interval} wants; the propagation is trained on video"
                )
        self.net = (net or networks_for_training(options, resumed)).to(device)
        self.net.segmenter.to(memory_format=torch.channels_last)
        self._choose_parameters()
        # What the frozen segmenter computes never changes, so it may run in the quickest form.
        self.frozen = folded(self.net.segmenter).to(memory_format=torch.channels_last)
        self.trained = self._wrap(ClipPropagation(self.net, finetune_all=options.finetune_all), self.net.flow, self.net.guided)
        self.criterion = PropagationLoss(
            self.dataset.class_weights, param_ce=options.param_ce, param_distil=options.param_ce_distil,
            ignore=self.dataset.ignore, average=mean_over_ranks,
        ).to(device)
        if options.compile:
            self.frozen.compile()
            self.criterion.compile()
        groups = optim.propagation_groups(
            self.net, lr=options.lr, guide_lr=options.guide_lr, flow_lr=options.optical_flow_lr
        )
        self.optimizer = self._optimizer(groups)
        self.scheduler = optim.step_decay(self.optimizer, options.lr_gamma)
        self.evaluation = self.validation(options)

    def _choose_parameters(self) -> None:
        options, net = self.options, self.net
        net.segmenter.requires_grad_(False)
        net.guided.filter_bank.requires_grad_(options.train_filter)
        net.flow.requires_grad_(options.train_optical_flow)

    def train_mode(self) -> None:
        super().train_mode()
        self.net.segmenter.eval()
        if not self.options.train_optical_flow:
            self.net.flow.eval()

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        ends, views, label = self.inputs(batch, seed)
        with self.autocast():
            key_logits, teacher = self.frozen_logits(ends)
            logits = self.trained(key_logits, views)  # (N,C,h,w)
        return self.criterion(logits.float(), label, teacher)

    def inputs(self, batch: Mapping, seed: Sequence[int]) -> tuple[Tensor, list[Tensor], Tensor]:
        """Augmented first and last frame (N,2,3,H,W), grid views of all frames, label (N,H,W) int64.

        Only the segmenter's frames are computed in full; of all others the networks see 1/8.
        """
        clip, label = self._to_device(batch)
        augmentation = self.draw(np.random.default_rng(list(seed)), clip.shape[-2:])
        mean, std = self.net.segmenter.pixel_mean, self.net.segmenter.pixel_std
        ends = normalise(augmentation.images(clip[:, [0, -1]]), mean, std)  # (N,2,3,H,W)
        middle = augmentation.views(clip[:, 1:-1], grid_size(*ends.shape[-2:]))  # (N,T-2,3,h,w)
        first, last = views_of(ends)  # (N,3,h,w) each
        between = normalise(middle, mean, std).flip(2).unbind(1)  # BGR
        return ends, [first, *between, last], augmentation.label(label).long()

    def frozen_logits(self, ends: Tensor) -> tuple[Tensor, Optional[Tensor]]:
        """Keyframe logits (N,C,h,w) and teacher logits of the augmented first and last frame."""
        return frozen_pass(self.frozen, ends[:, 0], ends[:, 1], distil=self.options.distil)

    def evaluate(self) -> Optional[dict]:
        if self.evaluation is None:
            return None
        return self.evaluation.run(self.net, methods=("gsv",))["gsv"]

    def state(self) -> dict:
        return {"state_dict": released_state(self.net.guided), "state_dict_of": self.net.flow.state_dict()}



class SegmenterStage(Stage):
    """Stage segnet: the keyframe segmenter on labelled stills (recipes of its own paper)."""

    def __init__(self, options: Options, device: torch.device, ranks: Ranks, resumed: Optional[Resumed]):
        super().__init__(options, device, ranks)
        frames = self.training_frames(0)
        self.passes = {0: ClipDataset(frames, 0, self.dataset, self._prepare_cache(frames))}
        self.segmenter = starting_segmenter(options, resumed).to(device, memory_format=torch.channels_last)
        outputs = SegmenterOutputs(self.segmenter)
        self.trained = self._wrap(outputs, outputs)
        swiftnet = options.segnet == "swiftnet"
        # The recipe spares a trunk that ImageNet weights have taught already; a random one learns like the rest.
        trunk_factor = 0.25 if swiftnet and options.pretrained_backbone else 1.0
        self.criterion = SegmenterLoss(ignore=self.dataset.ignore, ohem=not swiftnet, average=mean_over_ranks)
        groups = optim.segmenter_groups(
            self.segmenter, lr=options.lr, weight_decay=options.weight_decay, trunk_factor=trunk_factor
        )
        self.optimizer = self._optimizer(groups, betas=(0.9, 0.99))
        total = self.iterations()
        warm_up = min(1000, max(1, total // 20))
        schedule = optim.cosine(total, lr=options.lr, floor=1e-6) if swiftnet else optim.poly(total, warm_up=warm_up)
        self.scheduler = optim.per_iteration(self.optimizer, schedule)
        self.evaluation = self.validation(dataclasses.replace(options, eval_single=True, eval_multi_step=()))

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        clip, label = self._to_device(batch)
        image = clip[:, 0]  # (N,3,H,W)
        images, labels = [], []
        first = self.ranks.rank * len(image)
        for number, (one, its_label) in enumerate(zip(image, label)):  # each image its own draw, as segmenters are trained
            draw = self.draw(np.random.default_rng([*seed, first + number]), one.shape[-2:])
            images.append(draw.images(one))
            labels.append(draw.label(its_label))
        image = normalise(torch.stack(images), self.segmenter.pixel_mean, self.segmenter.pixel_std)  # (N,3,H,W)
        with self.autocast():
            outputs = self.trained(image.contiguous(memory_format=torch.channels_last))
        return self.criterion([x.float() for x in outputs], torch.stack(labels).long())

    def evaluate(self) -> Optional[dict]:
        if self.evaluation is None:
            return None
        net = GSVNet(self.segmenter, nn.Identity(), nn.Identity())
        return self.evaluation.run(net, methods=("per-frame",))["per-frame"]

    def state(self) -> dict:
        return {"state_dict": self.segmenter.state_dict()}



class FlowStage(Stage):
    """Stage flow: the flow network alone, on frames whose true flow is known."""

    def __init__(self, options: Options, device: torch.device, ranks: Ranks, resumed: Optional[Resumed]):
        super().__init__(options, device, ranks)
        self.passes = {1: FlowDataset(self.training_frames(1), GRID_STRIDE)}
        if not len(self.passes[1]):
            raise UserError(f"{options.data_path}: no true flow here (flow/SPLIT/CITY/*_flow.png); --dataset synthetic has it")
        self.flow = starting_flow(options, resumed).to(device)
        self.trained = self._wrap(FlowOutput(self.flow), self.flow)
        self.criterion = FlowLoss(average=mean_over_ranks)
        # The flow network sees frames normalised for the segmenter that it will serve.
        self.mean, self.std = SEGMENTERS[options.segnet].pixel_mean, SEGMENTERS[options.segnet].pixel_std
        groups = [{"params": list(self.flow.parameters()), "lr": options.lr}]
        self.optimizer = self._optimizer(groups)
        schedule = optim.cosine(self.iterations(), lr=options.lr, floor=options.lr / 100)
        self.scheduler = optim.per_iteration(self.optimizer, schedule)
        frames = labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="val", past=1)
        self.validation_loader = evaluation_loader(
            FlowDataset(frames, GRID_STRIDE), workers=options.num_worker, rank=ranks.rank, ranks=ranks.count,
            limit=DRY_RUN_FRAMES if options.early_stop else None,
        )

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        views, truth, valid = self._inputs(batch)
        if np.random.default_rng(list(seed)).random() < self.options.flip:
            views, truth, valid = [x.flip(-1) for x in views], truth.flip(-1), valid.flip(-1)
            truth = truth * truth.new_tensor([-1.0, 1.0]).view(1, 2, 1, 1)
        with self.autocast():
            flow = self.trained(views[1], views[0])  # (N,2,h,w)
        return self.criterion(flow.float(), truth, valid)

    def _inputs(self, batch: Mapping) -> tuple[list[Tensor], Tensor, Tensor]:
        clip = normalise(channels_first(batch["clip"].to(self.device, non_blocking=True)), self.mean, self.std)  # (N,2,3,H,W)
        return views_of(clip), batch["flow"].to(self.device), batch["valid"].to(self.device)

    @torch.no_grad()
    def evaluate(self) -> Optional[dict]:
        """End-point error in grid pixels over the val split, and that of predicting no motion."""
        self.flow.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in self.validation_loader:
            views, truth, valid = self._inputs(batch)
            flow, criterion = FlowOutput(self.flow)(views[1], views[0]), FlowLoss()
            weight = valid.sum().double().cpu()
            error, still = (criterion(x, truth, valid)["total"].double().cpu() for x in (flow, flow * 0))
            sums += torch.stack([error * weight, still * weight, weight])
        (sums,) = add_over_ranks([sums], self.device)
        error, still = (sums[:2] / sums[2].clamp(min=1)).tolist()
        return {"end_point_error": error, "end_point_error_without_motion": still}

    def state(self) -> dict:
        return {"state_dict_of": self.flow.state_dict()}



STAGES = {"gsv": PropagationStage, "segnet": SegmenterStage, "flow": FlowStage}


def score_of(metrics: dict) -> float:
    """What "best" means: the higher the better."""
    if "end_point_error" in metrics:
        return -metrics["end_point_error"]
    return metrics["avg_miou"] if metrics["avg_miou"] is not None else 0.0
