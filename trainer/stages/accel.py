"""Stage segnet of Accel: its fusion alone as published or, with --finetune-all 1, all of it, on clips."""
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dataloaders.clips import SizedDataset
from models.accel import Accel
from models.resize import size_of
from models.warp import warp
from trainer.stages.keyframe_segmenter import SegmenterStage


class FusedOutput(nn.Module):
    """forward: normalised images (N,T,3,H,W), a keyframe and those after it -> scores (N,C,H,W) of the last.

    whole: gradient flows through all parts, not only through the fusion.
    """

    def __init__(self, accel: Accel, *, whole: bool):
        super().__init__()
        self.accel, self.whole = accel, whole

    def forward(self, clips: Tensor) -> Tensor:
        accel, frames = self.accel, clips.unbind(1)
        with torch.set_grad_enabled(self.whole and torch.is_grad_enabled()):
            features, looks = accel.features(frames[0]), [accel.look(frame) for frame in frames]
            for previous, look in pairwise(looks):
                features = warp(features, accel.flow(previous, look))  # (N,2048,h,w)
            reference, update = accel.head(features), accel.update(frames[-1])  # (N,C,h,w)
        return accel.fused(reference, update, size_of(clips))


class AccelStage(SegmenterStage):
    """Accel (Jain et al., CVPR 2019). A clip has --multi-step frames after its keyframe."""

    segmenter: Accel

    def _clips(self) -> dict[int, SizedDataset]:
        found: dict[int, SizedDataset] = {}
        for interval in self.options.multi_step:
            found |= self._of_length(interval, f"--multi-step {interval}")
        return found

    def _outputs(self) -> nn.Module:
        whole = self.options.finetune_all
        if not whole:
            self.segmenter.requires_grad_(False).correction.requires_grad_(True)
        return FusedOutput(self.segmenter, whole=whole)

    def _groups(self) -> list[dict]:
        """As of the base; the fusion's published rates: twice --lr for its weight, four times for its bias."""
        options, fusion = self.options, self.segmenter.correction
        groups = [
            {"params": [fusion.weight], "lr": 2 * options.lr, "weight_decay": options.weight_decay},
            {"params": [fusion.bias], "lr": 4 * options.lr, "weight_decay": 0.0},
        ]
        if not options.finetune_all:
            return groups
        own = {id(p) for p in fusion.parameters()}
        for group in super()._groups():
            kept = [p for p in group["params"] if id(p) not in own and p.requires_grad]
            groups += [group | {"params": kept}] if kept else []
        return groups

    def train_mode(self) -> None:
        super().train_mode()
        if not self.options.finetune_all:
            self.segmenter.eval()

    def loss(self, batch: Mapping, seed: Sequence[int]) -> dict[str, Tensor]:
        """As of the base: `total` of `SegmenterLoss`."""
        clips, label = self._inputs(batch, seed)  # (N,T,3,H,W), (N,H,W)
        self.check_size(size_of(clips))
        with self.autocast():
            scores = self.trained(self.segmenter.normalise(clips))
        return self.criterion([scores.float()], label.long())
