"""What the three training stages share.

A stage offers the trainer: `passes` (data sets by clip interval, gone through in order in each epoch), `optimizer`,
`scheduler`, `loss(batch, augmentation seed)`, `train_mode()`, `evaluate()` and `state()`.
"""
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from config.command_line import resolve
from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from dataloaders.cache import PictureCache, picture_cache
from dataloaders.clips import LabelledFrame, SizedDataset
from dataloaders.images import read_image
from dataloaders.label_check import check_frames, check_labels
from dataloaders.loaders import labelled_frames
from dataloaders.reader import Reader
from dataloaders.stills import MadeClips
from dataloaders.transforms import PROPAGATION_SCALES, Augmentation, draw_augmentation
from evaluation.evaluate import Evaluation
from evaluation.example_frames import ExampleFrame, example_frame, panel
from evaluation.metrics_json import Metrics
from models.gsvnet import GSVNet
from models.resize import channels_first
from trainer import optim
from utils.device import autocast
from utils.distributed import Ranks, data_parallel, synchronise_batch_norm
from utils.logging import logger

T = TypeVar("T")
CLIP_SEED = 1  # keeps the clips' draws apart from the augmentation's


class Stage:
    """The base of all stages."""

    trained: nn.Module  # called by loss(), wrapped for several GPUs if there are any
    passes: dict[int, SizedDataset]  # by clip interval, 0 for stills
    evaluation: Evaluation | None = None
    example: ExampleFrame | None = None  # first labelled frame of the last evaluation
    trains_all = True  # whether every step reaches all trained parameters
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    def __init__(self, options: Options, device: torch.device, ranks: Ranks):
        self.options, self.device, self.ranks = options, device, ranks
        self.dataset = dataset_config(options.dataset, options.data_path)

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        """Batch of the loader (uint8, on the CPU) -> scalars on the device: `total`, which is minimised, and its parts.

        seed: integers, the only source of randomness of the augmentation. Reads nothing back from a GPU.
        """
        raise NotImplementedError

    def train_mode(self) -> None:
        """Switch the trained networks to training mode, as far as the options allow."""
        self.trained.train()
        for part in self.trained.modules():
            if self.options.freeze_bn and isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()  # keeps the running statistics as they are

    def state(self) -> dict:
        """Return the trained networks, as entries of a checkpoint."""
        raise NotImplementedError

    def autocast(self) -> AbstractContextManager:
        """Return the context of a forward pass in the precision of `--amp`."""
        return autocast(self.device, self.options.amp)

    def _wrap(self, trained: nn.Module, *compiled: nn.Module) -> nn.Module:
        """Make `trained` ready for several processes; `--compile 1` compiles its parts `compiled`."""
        if self.options.sync_bn:
            synchronise_batch_norm(trained, self.ranks, self.device)
        if self.options.compile:
            for part in compiled:
                part.compile()
        return data_parallel(trained, self.ranks, self.device, apex=self.options.apex, all_used=self.trains_all)

    def _singles(self, batch: Mapping) -> list[dict]:
        """Return the samples of a batch of several sizes as batches of one; `first`: its number in the global batch."""
        count = len(batch["label"])
        return [
            {name: x[i][None] if isinstance(x[i], Tensor) else [x[i]] for name, x in batch.items() if name != "bad"}
            | {"first": self.ranks.rank * count + i}
            for i in range(count)
        ]

    def _to_device(self, batch: Mapping) -> tuple[Tensor, Tensor]:
        """Return clip (N,T,3,H,W) and label (N,H,W) of a batch, uint8, on the device."""
        clip, label = (batch[name].to(self.device, non_blocking=True) for name in ("clip", "label"))
        return channels_first(clip), label

    def _made_clips(self, batch: Mapping, seed: Sequence[int]) -> MadeClips:
        """Return clips made from a batch of StillsDataset; each depends on `seed` and its place in the global batch."""
        first = batch.get("first", self.ranks.rank * len(batch["label"]))
        image, label = (batch[name].to(self.device, non_blocking=True) for name in ("clip", "label"))
        seeds = [(*seed, first + number, CLIP_SEED) for number in range(len(label))]
        return MadeClips(image[:, 0], label, batch["objects"], int(batch["steps"][0]), self.dataset, seeds=seeds)

    def _optimizer(
        self, groups: list[dict], betas: tuple[float, float] = optim.BETAS, nesterov: bool = True
    ) -> torch.optim.Optimizer:
        options = self.options
        return optim.build_optimizer(
            groups, name=options.optim, weight_decay=options.weight_decay, betas=betas, nesterov=nesterov,
            apex=options.apex,
        )

    def iterations(self) -> int:
        """Return the number of optimizer steps of the whole training."""
        batches = sum(max(1, len(dataset) // self.options.batch_size) for dataset in self.passes.values())
        return batches * self.options.epoch

    def training_frames(self, past: int) -> list[LabelledFrame]:
        """Return the labelled frames of the train split with up to `past` frames before each.

        Raises UserError, also for labels of the wrong kind and for a crop, chosen by the user, larger than the frames.
        """
        options = self.options
        frames = labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="train", past=past)
        reader = Reader(self.dataset, labels=[frame.label for frame in frames])
        check_labels(frames, reader, "train")
        check_frames(frames, reader)
        if options.use_crop:
            self._check_crop(frames[0].frames[-1])
        return frames

    def _check_crop(self, path: Path) -> None:
        """Raise UserError if the user's crop is larger than the frames; smaller frames are enlarged to the recipe's."""
        options = self.options
        try:
            height, width, _ = read_image(path).shape
        except UserError:
            if options.on_bad_sample == "error":
                raise
            return
        if options.crop_height <= height and options.crop_width <= width:
            return
        crop = f"--crop-height {options.crop_height} --crop-width {options.crop_width}"
        frame = f"{path}: {height} high, {width} wide"
        named = ("stage", "segnet", "optical_flow_network", "dataset", "data_path")
        recipe = resolve({name: getattr(options, name) for name in named})
        if (options.crop_height, options.crop_width) != (recipe.crop_height, recipe.crop_width):
            raise UserError(f"{crop}: larger than the frames ({frame}); choose a smaller crop, or --use-crop 0")
        logger.warning("the recipe's %s is larger than the frames (%s), which are enlarged to it", crop, frame)

    def _prepare_cache(self, frames: Sequence[LabelledFrame]) -> PictureCache | None:
        """Return the cache of decoded frames, if the options ask for one, and log how much space it will take."""
        cache = picture_cache(self.options.cache_dir)
        if cache is not None and self.ranks.first:
            cache.announce((path for frame in frames for path in frame.frames), read_image)
        return cache

    def validation(self, build: Callable[[], T]) -> T | None:
        """Return what `build` makes of the val split, or None (logged) where it raises a UserError."""
        try:
            return build()
        except UserError as error:
            logger.info("no evaluation while training: %s", error)
            return None

    def validate(self, net: GSVNet, method: str) -> Metrics | None:
        """Evaluate on the val split; return its metrics, or None if there is no such split."""
        if self.evaluation is None:
            return None
        tally, self.example = self.evaluation.tally([method]), None
        for frame in self.evaluation.frames(self.evaluation.engines(net, [method])):
            tally.add(frame)
            if self.example is None and frame.source.labelled is not None:
                self.example = example_frame(frame, method)
        return self.evaluation.metrics(tally)[method]

    def picture(self) -> np.ndarray | None:
        """Return label and predictions over the last evaluation's first labelled frame, RGB (H,W,3) uint8, or None."""
        return None if self.example is None else panel(self.example, self.dataset.colours)

    def draw(self, rng: np.random.Generator, frame: Sequence[int]) -> Augmentation:
        """Draw the options' augmentation for frames of size (H,W)."""
        options = self.options
        crop = (options.crop_height, options.crop_width) if options.use_crop else None
        return draw_augmentation(
            rng, (int(frame[0]), int(frame[1])), crop=crop,
            scales=options.random_scale or PROPAGATION_SCALES, continuous=bool(options.random_scale), flip=options.flip,
        )
