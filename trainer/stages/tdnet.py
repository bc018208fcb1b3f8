"""Stage segnet of a TDNet: on clips, its four sub-networks by turn."""
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from config.options import Options
from dataloaders.clips import SizedDataset
from models.fold import folded
from models.gsvnet import segment
from models.load_segmenter import teacher_of
from models.methods.tdnet import MEMORY
from models.resize import size_of
from models.segmenters.tdnet import TDNet
from trainer.stages.keyframe_segmenter import SegmenterStage
from utils.checkpoint import WeightsFile
from utils.distributed import Ranks

GAP_SEED, DROPOUT_SEED = 2, 3  # keep the draws of gaps and of dropout apart from the augmentation's


class PathOutputs(nn.Module):
    """forward: normalised images (N,4,3,H,W) in order of time -> the outputs of `TDNet.training_outputs`."""

    def __init__(self, tdnet: TDNet):
        super().__init__()
        self.tdnet = tdnet

    def forward(self, clips: Tensor, path: int) -> list[Tensor]:
        return self.tdnet.training_outputs(clips.unbind(1), path)


class TDNetStage(SegmenterStage):
    """Iteration k trains path k mod 4 (Hu et al., CVPR 2020). Each frame of a clip comes as many frames after the one
    before as is drawn from --multi-step. The published rotations and changes of colour are left out."""

    trains_all = False
    segmenter: TDNet

    def __init__(self, options: Options, device: torch.device, ranks: Ranks, resumed: WeightsFile | None):
        super().__init__(options, device, ranks, resumed)
        teacher = teacher_of(options)
        self.teacher = None if teacher is None else folded(teacher.to(device)).requires_grad_(False)

    def _clips(self) -> dict[int, SizedDataset]:
        longest = max(self.options.multi_step)
        return self._of_length(MEMORY * longest, f"--multi-step {longest}, between {MEMORY + 1} frames,")

    def _outputs(self) -> nn.Module:
        return PathOutputs(self.segmenter)

    def _chosen(self, count: int, seed: Sequence[int]) -> list[int]:
        rng = np.random.default_rng([*seed, GAP_SEED])
        gaps = rng.choice(self.options.multi_step, MEMORY)
        return [int(count - 1 - gaps[first:].sum()) for first in range(MEMORY + 1)]

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        """As of the base: `total` of `TDNetLoss`, and its parts."""
        clips, label = self._inputs(batch, seed)  # (N,4,3,H,W), (N,H,W)
        self.check_size(size_of(clips))
        path, teacher = self.scheduler.last_epoch % self.segmenter.paths, None
        with self.autocast():
            if self.teacher is not None:
                with torch.no_grad():
                    teacher = segment(self.teacher, clips[:, -1])  # (N,C,h,w)
            # Dropout draws from torch's own generator, which a run that is resumed does not find as it was.
            draws = np.random.default_rng([*seed, self.ranks.rank, DROPOUT_SEED])
            torch.manual_seed(int(draws.integers(2**63)))
            outputs = self.trained(self.segmenter.normalise(clips), path)
        return self.criterion([x.float() for x in outputs], label.long(), teacher, teacher)
