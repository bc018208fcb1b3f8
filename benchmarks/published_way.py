"""The published program's way of doing things, written plainly: the yardstick that the benchmarks measure against.

Nothing but the benchmarks uses it. It computes the same values at the cost that the published form has: every frame of a
clip normalised as a float at full size on the CPU, labels mapped class by class, the segmenter run once for the keyframe
and once for the teacher, and the guided block's filtered candidates stacked.
"""
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from config.schema import DatasetConfig
from dataloaders.clips import LabelledFrame, SizedDataset, with_past
from dataloaders.transforms import Augmentation
from models.gsvnet import GSVNet, grid_view
from models.guided_conv import GuidedConv, edge_map
from models.losses import PropagationLoss
from models.resize import align, grid_size, size_of
from models.warp import grid_flow, warp


class PlainClips(SizedDataset):
    """Clips decoded with Pillow and normalised frame by frame: `clip` (T,3,H,W) float32, `label` (H,W) int64."""

    def __init__(
        self, frames: Sequence[LabelledFrame], interval: int, dataset: DatasetConfig, mean: Sequence[float], std: Sequence[float]
    ):
        self.frames, self.interval, self.dataset = with_past(frames, interval), interval, dataset
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict:
        frame = self.frames[index]
        clip = []
        for path in frame.frames[-1 - self.interval :]:
            picture = np.array(Image.open(path).convert("RGB")).astype(np.float32)
            clip.append(torch.from_numpy(((picture - self.mean) / self.std).transpose(2, 0, 1)).float())
        ids = np.array(Image.open(frame.label), dtype=np.int64)
        label = np.full_like(ids, self.dataset.ignore)
        for number, identifier in enumerate(self.dataset.label_ids):
            label[ids == identifier] = number
        return {"clip": torch.stack(clip), "label": torch.from_numpy(label), "name": frame.name}


def plain_augment(clip: Tensor, label: Tensor, draw: Augmentation) -> tuple[Tensor, Tensor]:
    """Resize every whole frame (N,T,3,H,W), then cut the crop out; the label (N,H,W) likewise, nearest."""
    frames = align(clip.flatten(0, 1), draw.scaled)  # (N*T,3,*scaled)
    frames = frames[..., draw.top : draw.top + draw.size[0], draw.left : draw.left + draw.size[1]]
    frames = align(frames, draw.output)  # (N*T,3,*output)
    frames = frames.flip(-1) if draw.flip else frames
    return frames.unflatten(0, clip.shape[:2]), draw.label(label)


def stacked_guided(guided: GuidedConv, warped: Tensor, frame: Tensor) -> Tensor:
    """The guided block in its published form, (N,11,C,h,w) product and all."""
    intra = guided.intra(frame)  # (N,C,h,w)
    kernels = guided.guide(intra, edge_map(warped))  # (N,11,h,w)
    filtered = F.conv3d(warped[:, None], guided.filter_bank, padding=(0, 1, 1))  # (N,9,C,h,w)
    candidates = torch.cat([warped[:, None], filtered, intra[:, None]], dim=1)  # (N,11,C,h,w)
    return (kernels[:, :, None] * candidates).sum(dim=1)  # (N,C,h,w)


@torch.no_grad()
def plain_frozen(net: GSVNet, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised clip (N,T,3,H,W) -> keyframe logits (N,C,h,w), teacher logits; one segmenter pass each."""
    key_logits = align(net.segmenter(clip[:, 0]), grid_size(*size_of(clip)))  # (N,C,h,w)
    return key_logits, net.segmenter(clip[:, -1])


def plain_propagation(net: GSVNet, clip: Tensor, key_logits: Tensor) -> Tensor:
    """Keyframe logits carried to the last frame, (N,C,h,w); gradient through the last two steps, as in the recipe."""
    logits, previous = key_logits, grid_view(clip[:, 0])
    steps = clip.shape[1] - 1
    for step in range(1, steps + 1):
        with torch.set_grad_enabled(torch.is_grad_enabled() and steps - step < 2):
            view = grid_view(clip[:, step])  # (N,3,h,w)
            warped = warp(logits, grid_flow(net.flow(view, previous), size_of(view)))
            logits, previous = stacked_guided(net.guided, warped, view), view
    return logits


def plain_loss(criterion: PropagationLoss, logits: Tensor, label: Tensor, teacher: Tensor) -> Tensor:
    """The loss's total from torch's two whole losses, each with a softmax of its own."""
    logits = align(logits, size_of(label))  # (N,C,H,W)
    ce = F.cross_entropy(logits, label, weight=criterion.class_weights, ignore_index=criterion.ignore)
    taught = F.softmax(align(teacher, size_of(label)), dim=1)  # (N,C,H,W)
    distillation = F.kl_div(F.log_softmax(logits, dim=1), taught, reduction="none").mean()
    return criterion.param_ce * (ce + criterion.param_distil * distillation)
