"""Stage segnet of the networks that are methods for video themselves, on clips: TDNet and Accel."""
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from config.options import Options
from dataloaders.clips import SizedDataset
from models.accel import Accel
from models.fold import folded
from models.gsvnet import segment
from models.load_segmenter import teacher_of
from models.methods.tdnet import MEMORY
from models.segmenters.tdnet import TDNet
from trainer.stages.keyframe_segmenter import SegmenterStage
from utils.checkpoint import WeightsFile
from utils.distributed import Ranks

GAP_SEED, DROPOUT_SEED = 2, 3  # keep the draws of gaps and of dropout apart from the augmentation's


class TDNetStage(SegmenterStage):
    """Iteration k trains path k mod 4 (Hu et al., CVPR 2020). Each frame of a clip comes as many frames after the one
    before as is drawn from --multi-step. The published rotations and changes of colour are left out."""

    step, trains_all = "training_outputs", False
    segmenter: TDNet

    def __init__(self, options: Options, device: torch.device, ranks: Ranks, resumed: WeightsFile | None):
        super().__init__(options, device, ranks, resumed)
        teacher = teacher_of(options)
        self.teacher = None if teacher is None else folded(teacher.to(device)).requires_grad_(False)

    def _clips(self) -> dict[int, SizedDataset]:
        longest = max(self.options.multi_step)
        why = f"--multi-step {longest}, between {MEMORY + 1} frames,"
        return {MEMORY * longest: self._of_length(MEMORY * longest, why)}

    def _chosen(self, count: int, seed: Sequence[int]) -> list[int]:
        rng = np.random.default_rng([*seed, GAP_SEED])
        gaps = rng.choice(self.options.multi_step, MEMORY)
        return [int(count - 1 - gaps[first:].sum()) for first in range(MEMORY + 1)]

    def _run(self, clips: Tensor, seed: Sequence[int]) -> list[Tensor]:
        # Dropout draws from torch's own generator, which a run that is resumed does not find as it was.
        draws = np.random.default_rng([*seed, self.ranks.rank, DROPOUT_SEED])
        torch.manual_seed(int(draws.integers(2**63)))
        path = self.scheduler.last_epoch % self.segmenter.paths
        return self.trained(self.segmenter.normalise(clips).unbind(1), path)

    def _taught(self, clips: Tensor) -> list[Tensor]:
        if self.teacher is None:
            return []
        with torch.no_grad():
            return [segment(self.teacher, clips[:, -1])]  # (N,C,h,w)


class AccelStage(SegmenterStage):
    """Accel (Jain et al., CVPR 2019): its fusion alone as published or, with --finetune-all 1, all of it. A clip has
    --multi-step frames after its keyframe."""

    step = "training_outputs"
    segmenter: Accel

    def _clips(self) -> dict[int, SizedDataset]:
        return {interval: self._of_length(interval, f"--multi-step {interval}") for interval in self.options.multi_step}

    def _groups(self) -> list[dict]:
        if not self.options.finetune_all:
            self.segmenter.requires_grad_(False).correction.requires_grad_(True)
        return super()._groups()

    def train_mode(self) -> None:
        super().train_mode()
        if not self.options.finetune_all:
            self.segmenter.eval()

    def _run(self, clips: Tensor, seed: Sequence[int]) -> list[Tensor]:
        return self.trained(self.segmenter.normalise(clips).unbind(1))
