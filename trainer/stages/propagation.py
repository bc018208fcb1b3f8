"""Stage gsv: the propagation."""
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from config.errors import UserError
from config.options import Options
from dataloaders.clips import ClipDataset, SizedDataset
from dataloaders.images import read_image
from dataloaders.stills import MadeClips, StillsDataset
from dataloaders.transforms import Augmentation
from evaluation.evaluate import Evaluation
from evaluation.metrics_json import Metrics
from inference.calibration import Pair, calibration_pairs, places
from models.flow_dis import DISFlow
from models.gsvnet import GSVNet
from models.identity import SegmenterIdentity
from models.load import flow_of, networks_for_training
from models.losses import PropagationLoss
from models.released import released_state
from models.resize import grid_size, size_of
from trainer import optim
from trainer.frozen import frozen_segmenter
from trainer.stages.training_stage import Stage
from trainer.trainable import ClipPropagation, keyframe_and_teacher
from utils.checkpoint import WeightsFile
from utils.distributed import Ranks, mean_over_ranks
from utils.logging import logger


class PropagationStage(Stage):
    """Stage gsv: the paper's training of flow network and guided convolution under a frozen segmenter.

    net: networks to train instead of those of the options' files.
    """

    def __init__(
        self, options: Options, device: torch.device, ranks: Ranks, resumed: WeightsFile | None,
        net: GSVNet | None = None,
    ):
        super().__init__(options, device, ranks)
        self._resumed, self._given = resumed, net
        # A classical flow is computed where the clips are read.
        self.dis = flow if isinstance(flow := flow_of(options), DISFlow) else None
        self.passes = self._clips()  # before the networks are read: mistakes in the data are found sooner
        if self.dis is not None and isinstance(self.net.flow, DISFlow):  # which may have a checkpoint's settings
            self.dis.side, self.dis.preset = self.net.flow.side, self.net.flow.preset
        self.net.segmenter.to(memory_format=torch.channels_last).requires_grad_(False)
        self.net.guided.filter_bank.requires_grad_(options.train_filter)
        self.net.flow.requires_grad_(options.train_optical_flow)
        self.frozen = frozen_segmenter(self.net, options, device, self._calibration)
        propagation = ClipPropagation(self.net, finetune_all=options.finetune_all)
        # Compiled for a CPU, the guided block's backward pass takes more time than it does as it is.
        guided = [self.net.guided] if device.type == "cuda" else []
        self.trained = self._wrap(propagation, self.net.flow, *guided)
        weights = self.dataset.class_weights if options.class_weights else (1.0,) * self.dataset.num_classes
        self.criterion = PropagationLoss(
            weights, param_ce=options.param_ce, param_distil=options.param_ce_distil,
            ignore=self.dataset.ignore, average=mean_over_ranks,
        ).to(device)
        if options.compile:
            self.criterion.terms = torch.compile(self.criterion.terms)
        groups = optim.propagation_groups(
            self.net, lr=options.lr, guide_lr=options.guide_lr, flow_lr=options.optical_flow_lr
        )
        self.optimizer = self._optimizer(groups)
        self.scheduler = optim.step_decay(self.optimizer, options.lr_gamma)
        self.evaluation = self.validation(lambda: Evaluation(options, device, ranks, dataset=self.dataset))

    @cached_property
    def net(self) -> GSVNet:
        """The networks that are trained, with the frozen segmenter."""
        net = (self._given or networks_for_training(self.options, self._resumed)).to(self.device)
        self._resumed = None  # a whole checkpoint
        return net

    def _clips(self) -> dict[int, SizedDataset]:
        """Return the clips by interval: of videos, or made from stills. Raises UserError if there are none."""
        options, stills = self.options, self.options.clip_source == "stills"
        frames = self.training_frames(0 if stills else max(options.multi_step))
        cache = self._prepare_cache(frames)
        if stills:
            return {interval: StillsDataset(frames, interval, self.dataset, cache) for interval in options.multi_step}
        clips = {
            interval: ClipDataset(frames, interval, self.dataset, cache, flow=self.dis)
            for interval in options.multi_step
        }
        for interval, found in clips.items():
            missing = len(frames) - len(found)
            if missing:
                logger.info("train: %d of %d labelled frames lack %d earlier frames", missing, len(frames), interval)
            if not len(found):
                raise UserError(
                    f"{options.data_path}: no labelled train frame has {interval} frames before it, which "
                    f"--multi-step {interval} requires; --clip-source stills makes clips from single pictures"
                )
        return {**clips}

    def _calibration(self) -> list[Pair]:
        """Frames for int8: of --calibrate, else of the training clips."""
        if self.options.calibrate:
            return calibration_pairs(self.options.calibrate)
        frames = self.training_frames(0)
        images = [read_image(frames[number].frames[-1]) for number in places(len(frames) + 1)]
        return [(image, image) for image in images]

    def train_mode(self) -> None:
        super().train_mode()
        self.net.segmenter.eval()
        if not self.options.train_optical_flow:
            self.net.flow.eval()

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        """As of the base: `total`, `ce` and `distillation` of `PropagationLoss` (paper section 3.4)."""
        ends, views, label, flows = self.inputs(batch, seed)
        with self.autocast():
            distil, grid = self.options.distil, self.net.grid
            key_logits, teacher = keyframe_and_teacher(self.frozen, ends, distil=distil, grid=grid)
            logits = self.trained(key_logits, views, flows)  # (N,C,h,w)
        return self.criterion(logits.float(), label, teacher)

    def inputs(self, batch: Mapping, seed: Sequence[int]) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
        """Return a batch, augmented: first and last frame (N,2,3,H,W) RGB 0..255 float32, views (N,3,h,w) of all T
        frames, label (N,H,W) int64, and with a classical flow (N,2,h,w) of T-1 steps, else nothing.

        Only the two frames that the segmenter sees are computed in full, all others on the grid.
        """
        if isinstance(batch["label"], list):  # of several sizes; all augmented in the same way
            parts = [self.inputs(one, seed) for one in self._singles(batch)]
            views, flows = ([torch.cat(x) for x in zip(*(part[i] for part in parts))] for i in (1, 3))
            return torch.cat([x[0] for x in parts]), views, torch.cat([x[2] for x in parts]), flows
        clip, label = self._to_device(batch)
        augmentation, view = self.draw(np.random.default_rng(list(seed)), size_of(clip)), self.net.view
        grid = grid_size(*augmentation.output, self.net.grid)
        seen = augmentation.views(clip, grid)  # (N,T,3,h,w), of stills (N,1,3,h,w)
        views = [view.colours(x) for x in seen.unbind(1)]
        if "objects" in batch:
            made, steps = self._made_clips(batch, seed), int(batch["steps"][0])
            first = made.frame(steps, *augmentation.positions(size_of(clip), augmentation.output))  # (N,3,H,W)
            ends = torch.stack([first, augmentation.images(clip[:, 0])], dim=1)  # (N,2,3,H,W)
            places = augmentation.positions(size_of(clip), grid)
            middle = [view.colours(made.frame(back, *places)) for back in range(steps - 1, 0, -1)]  # (N,3,h,w) each
            views = [view(first), *middle, *views]
            flows = self._made_flows(self.dis, made, steps, augmentation, clip) if self.dis is not None else []
        else:
            ends = augmentation.images(clip[:, :: clip.shape[1] - 1])  # (N,2,3,H,W)
            found = batch["flow"].to(self.device, non_blocking=True) if "flow" in batch else None  # (N,T-1,2,h',w')
            flows = [] if found is None else [*augmentation.flow(found, size_of(clip), grid).unbind(1)]
        return ends, views, augmentation.label(label).long(), flows

    def _made_flows(
        self, dis: DISFlow, made: MadeClips, steps: int, augmentation: Augmentation, clip: Tensor
    ) -> list[Tensor]:
        """Flow (N,2,h,w) of each step of clips that are made from stills (N,1,3,H,W): DIS between their pictures."""
        output = augmentation.output
        size, grid = dis.look_size(output), grid_size(*output, self.net.grid)
        places = augmentation.positions(size_of(clip), size)
        frames = [*(made.frame(back, *places) for back in range(steps, 0, -1)), augmentation.views(clip, size)[:, 0]]
        pictures = [x.round().byte().movedim(1, -1).cpu().numpy() for x in frames]  # (N,H',W',3) each
        looks = [[dis.look(picture) for picture in batch] for batch in pictures]
        flows = [[dis.between(*pair, grid) for pair in zip(*both)] for both in pairwise(looks)]  # (2,h,w) each
        return [torch.from_numpy(np.stack(flow)).to(self.device) for flow in flows]

    def _flow_entry(self) -> dict:
        """What the checkpoint records of the flow."""
        settings = self.net.flow.settings if isinstance(self.net.flow, DISFlow) else {}
        return {"name": self.options.optical_flow_network, **settings}

    def evaluate(self) -> Metrics | None:
        return self.validate(self.net, "gsv")

    @cached_property
    def identity(self) -> SegmenterIdentity:
        """The frozen segmenter's."""
        return SegmenterIdentity.of(self.net.segmenter, self.options.segnet, self.dataset.classes)

    def state(self) -> dict:
        return {
            "state_dict": released_state(self.net.guided), "state_dict_of": self.net.flow.state_dict(),
            "segmenter": self.identity.as_entry(), "flow": self._flow_entry(),
            "grid": self.net.grid,
        }
