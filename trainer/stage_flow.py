"""Stage flow: the flow network alone."""
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from config.errors import UserError
from config.options import Options
from dataloaders.build import evaluation_loader, labelled_frames
from dataloaders.flows import FlowDataset
from dataloaders.transforms import channels_first, normalise
from models.build import SEGMENTERS
from models.losses import FlowLoss
from models.resize import GRID_STRIDE
from trainer import optim
from trainer.evaluate import DRY_RUN_FRAMES
from trainer.networks import Resumed, starting_flow
from trainer.stage import Stage
from trainer.train import FlowOutput, views_of
from utils.distributed import Ranks, add_over_ranks, mean_over_ranks


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
