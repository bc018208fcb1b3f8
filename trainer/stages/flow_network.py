"""Stage flow: the flow network alone."""
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from config.errors import UserError
from config.options import Options
from dataloaders.clips import SizedDataset
from dataloaders.flow_pairs import FlowDataset
from dataloaders.loaders import DRY_RUN_FRAMES, evaluation_loader, labelled_frames
from dataloaders.stills import StillsDataset
from models.build import segmenter_class
from models.frame_view import FrameView
from models.load import networks_for_training
from models.losses import FlowLoss
from models.resize import channels_first, grid_size, size_of
from trainer import optim
from trainer.stages.training_stage import Stage
from trainer.trainable import FlowOutput
from utils.bilinear import aligned_positions, aligned_step
from utils.checkpoint import WeightsFile
from utils.distributed import Ranks, add_over_ranks, mean_over_ranks


@dataclass(frozen=True)
class FlowErrors:
    """Mean end-point errors in grid pixels: of the network, and of predicting no motion."""

    end_point_error: float
    end_point_error_without_motion: float

    def to_json(self) -> dict[str, float]:
        """The content of metrics.json."""
        return asdict(self)


class FlowStage(Stage):
    """Stage flow: the flow network alone, on frames whose true flow is known."""

    def __init__(self, options: Options, device: torch.device, ranks: Ranks, resumed: WeightsFile | None):
        super().__init__(options, device, ranks)
        self.passes = {1: self._pairs("train")}
        if not len(self.passes[1]):
            raise UserError(
                f"{options.data_path}: no true flow here (flow/SPLIT/CITY/*_flow.png); --dataset synthetic has it, and "
                "--clip-source stills makes it from labelled pictures"
            )
        self.flow = networks_for_training(options, resumed).flow.to(device)
        self.trained = self._wrap(FlowOutput(self.flow), self.flow)
        self.criterion = FlowLoss(average=mean_over_ranks)
        # The flow network sees the views of the segmenter that it will serve.
        served = segmenter_class(options.segnet)
        self.view = FrameView(served.view_mean, served.view_std, options.grid).to(device)
        self.optimizer = self._optimizer([{"params": list(self.flow.parameters()), "lr": options.lr}])
        schedule = optim.cosine(self.iterations(), lr=options.lr, floor=options.lr / 100)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule)
        self.validation_loader = self.validation(self._validation_loader)

    def _validation_loader(self) -> DataLoader:
        """Return the loader of the val split's pairs. Raises UserError if there are no pairs."""
        options, ranks, pairs = self.options, self.ranks, self._pairs("val")
        if not len(pairs):
            raise UserError(f"{options.data_path}: the val split has no true flow")
        limit = DRY_RUN_FRAMES if options.early_stop else None
        return evaluation_loader(pairs, workers=options.num_worker, rank=ranks.rank, ranks=ranks.count, limit=limit)

    def _pairs(self, split: str) -> SizedDataset:
        """Return pairs of frames with the flow between them: of the data set, or made from its stills."""
        stills, root = self.options.clip_source == "stills", Path(self.options.data_path)
        frames = labelled_frames(dataset=self.options.dataset, root=root, split=split, past=0 if stills else 1)
        if stills:
            return StillsDataset(frames, 1, self.dataset, self._prepare_cache(frames))
        return FlowDataset(frames, self.options.grid)

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        """As of the base: `total` of `FlowLoss`, in grid pixels."""
        views, truth, valid = self._inputs(batch, seed)
        if self.options.use_crop and np.random.default_rng(list(seed)).random() < self.options.flip:
            views, truth, valid = [x.flip(-1) for x in views], truth.flip(-1), valid.flip(-1)
            truth = torch.cat([-truth[:, :1], truth[:, 1:]], dim=1)  # (N,2,h,w)
        with self.autocast():
            flow = self.trained(views[1], views[0])  # (N,2,h,w)
        return self.criterion(flow.float(), truth, valid)

    def _inputs(self, batch: Mapping, seed: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return views (N,3,h,w) of the previous and the current frame, the true flow (N,2,h,w) from the current to the
        previous in grid pixels, and its weights (N,1,h,w), 0..1."""
        if "objects" in batch:
            return self._made_inputs(batch, seed)
        clip, flow, valid = (batch[name].to(self.device, non_blocking=True) for name in ("clip", "flow", "valid"))
        return [self.view(frame) for frame in channels_first(clip).unbind(1)], flow, valid

    def _made_inputs(self, batch: Mapping, seed: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
        image = channels_first(batch["clip"].to(self.device, non_blocking=True))[:, 0]  # (N,3,H,W)
        (height, width), (h, w) = size_of(image), grid_size(*size_of(image), self.options.grid)
        rows, columns = aligned_positions(height, h), aligned_positions(width, w)
        made = self._made_clips(batch, seed)
        views = [self.view.colours(made.frame(1, rows, columns)), self.view(image)]
        flow, visible = made.flow(rows, columns)  # (N,2,h,w) in pixels of the frame, (N,h,w)
        across, down = aligned_step(w, width), aligned_step(h, height)  # grid pixels per pixel of the frame
        flow = torch.stack([flow[:, 0] * across, flow[:, 1] * down], dim=1)  # (N,2,h,w)
        return views, flow, visible[:, None].float()

    @torch.no_grad()
    def evaluate(self) -> FlowErrors | None:
        """Return the end-point errors over the val split, if there is one."""
        if self.validation_loader is None:
            return None
        self.flow.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for number, batch in enumerate(self.validation_loader):
            views, truth, valid = self._inputs(batch, (number,))
            flow, criterion = FlowOutput(self.flow)(views[1], views[0]), FlowLoss()
            weight = valid.sum().double()
            error, still = (criterion(x, truth, valid)["total"].double() for x in (flow, flow * 0))
            sums += torch.stack([error * weight, still * weight, weight])
        (sums,) = add_over_ranks([sums], self.device)
        error, still = (sums[:2] / sums[2].clamp(min=1)).tolist()
        return FlowErrors(error, still)

    def state(self) -> dict:
        return {"state_dict_of": self.flow.state_dict()}
