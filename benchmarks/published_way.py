"""The published program's way, written plainly: what the benchmarks compare this program with. Nothing else uses it.

It computes the same values at the cost of the published form: every frame is normalised as a float at full size on the
CPU, labels are mapped class by class, networks run as built (NCHW, BatchNorm apart), keyframe and teacher take one pass
each, the guided block stacks its filtered candidates, and all logits are upsampled.
"""
import copy
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from config.schema import DatasetConfig
from dataloaders.clips import LabelledFrame, SizedDataset, with_past
from dataloaders.transforms import Augmentation
from models.flow_dis import DISFlow
from models.flow_light import LightFlow
from models.gsvnet import GSVNet
from models.guided_conv import edge_map
from models.losses import PropagationLoss
from models.resize import align, grid_size, size_of
from models.warp import grid_flow, warp


def published_networks(net: GSVNet) -> GSVNet:
    """A copy of the networks; where they take a classical flow, which the published program does not know, with an
    untrained light network."""
    flow = LightFlow() if isinstance(net.flow, DISFlow) else net.flow
    return copy.deepcopy(GSVNet(net.segmenter, flow, net.guided, net.grid))


def plain_frame(picture: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """RGB (H,W,3) uint8 -> (3,H,W) float32, normalised on the CPU; mean, std: RGB, on the 0..255 scale."""
    normalised = (picture.astype(np.float32) - np.array(mean, np.float32)) / np.array(std, np.float32)  # (H,W,3)
    return torch.from_numpy(normalised.transpose(2, 0, 1)).float()  # (3,H,W)


class PlainClips(SizedDataset):
    """Clips decoded with Pillow: `clip` (T,3,H,W) float32 normalised RGB, `label` (H,W) int64, `name`."""

    def __init__(
        self, frames: Sequence[LabelledFrame], interval: int, dataset: DatasetConfig, mean: Sequence[float],
        std: Sequence[float],
    ):
        self.frames, self.interval, self.dataset = with_past(frames, interval), interval, dataset
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict:
        frame = self.frames[index]
        pictures = [np.array(Image.open(path).convert("RGB")) for path in frame.frames[-1 - self.interval :]]
        clip = torch.stack([plain_frame(picture, self.mean, self.std) for picture in pictures])  # (T,3,H,W)
        ids = np.array(Image.open(frame.label), dtype=np.int64)
        label = np.full_like(ids, self.dataset.ignore)
        for number, identifier in enumerate(self.dataset.label_ids):
            label[ids == identifier] = number
        return {"clip": clip, "label": torch.from_numpy(label), "name": frame.name}


def plain_augment(clip: Tensor, label: Tensor, draw: Augmentation) -> tuple[Tensor, Tensor]:
    """Resize whole frames (N,T,3,H,W), then crop and flip them; the label (N,H,W) likewise, nearest."""
    frames = align(clip.flatten(0, 1), draw.scaled)  # (N*T,3,*scaled)
    frames = frames[..., draw.top : draw.top + draw.size[0], draw.left : draw.left + draw.size[1]]
    frames = align(frames, draw.output)  # (N*T,3,*output)
    frames = frames.flip(-1) if draw.flip else frames
    return frames.unflatten(0, clip.shape[:2]), draw.label(label)


def plain_keyframe(net: GSVNet, frame: Tensor, scale: float = 1.0) -> Tensor:
    """Normalised RGB frame (N,3,H,W) -> logits (N,C,h,w)."""
    segmenter = net.segmenter
    logits = segmenter.class_logits(segmenter(align(frame, segmenter.input_size(*size_of(frame), scale))))
    return align(logits, grid_size(*size_of(frame), net.grid))  # (N,C,h,w)


@torch.no_grad()
def plain_frozen(net: GSVNet, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised clip (N,T,3,H,W) -> keyframe logits (N,C,h,w), teacher logits; one segmenter pass each."""
    return plain_keyframe(net, clip[:, 0]), net.segmenter.class_logits(net.segmenter(clip[:, -1]))


def plain_view(frame: Tensor, grid: int) -> Tensor:
    """Normalised RGB frame (N,3,H,W) -> view (N,3,h,w), normalised BGR. grid: the stride."""
    return align(frame, grid_size(*size_of(frame), grid)).flip(1)  # (N,3,h,w)


def plain_step(net: GSVNet, logits: Tensor, previous: Tensor, view: Tensor) -> Tensor:
    """Logits (N,C,h,w) of a frame from the previous frame's and both views (N,3,h,w)."""
    warped = warp(logits, grid_flow(net.flow(view, previous), size_of(view)))  # (N,C,h,w)
    guided = net.guided  # in its published form, with the product (N,11,C,h,w) in memory
    intra = guided.intra(view)  # (N,C,h,w)
    kernels = guided.guide(intra, edge_map(warped))  # (N,11,h,w)
    filtered = F.conv3d(warped[:, None], guided.filter_bank, padding=(0, 1, 1))  # (N,9,C,h,w)
    candidates = torch.cat([warped[:, None], filtered, intra[:, None]], dim=1)  # (N,11,C,h,w)
    return (kernels[:, :, None] * candidates).sum(dim=1)  # (N,C,h,w)


def plain_propagation(net: GSVNet, clip: Tensor, key_logits: Tensor) -> Tensor:
    """Logits (N,C,h,w) of a clip's last frame; gradient through the last two steps, as in the recipe."""
    logits, previous = key_logits, plain_view(clip[:, 0], net.grid)
    steps = clip.shape[1] - 1
    for step in range(1, steps + 1):
        with torch.set_grad_enabled(torch.is_grad_enabled() and steps - step < 2):
            view = plain_view(clip[:, step], net.grid)
            logits, previous = plain_step(net, logits, previous, view), view
    return logits


def plain_labels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (N,C,h,w) -> class indices (N,H,W) int64. On a CPU `max` would take a quarter of the time."""
    return align(logits, size).argmax(dim=1)  # (N,H,W)


class PlainStream:
    """The published program on a stream of frames."""

    logits: Tensor  # (1,C,h,w) of the previous frame
    view: Tensor  # (1,3,h,w) of the previous frame

    def __init__(self, net: GSVNet, scale: float, device: torch.device):
        self.net, self.scale, self.device = net.to(device), scale, device

    @torch.inference_mode()
    def __call__(self, t: int, image: np.ndarray) -> Tensor:
        """Frame t of its keyframe group, (H,W,3) uint8 RGB -> class indices (H,W) uint8."""
        segmenter = self.net.segmenter
        frame = plain_frame(image, segmenter.pixel_mean, segmenter.pixel_std)
        frame = torch.stack([frame]).to(self.device)  # (1,3,H,W)
        view = plain_view(frame, self.net.grid)
        if t == 0:
            self.logits = plain_keyframe(self.net, frame, self.scale)
        else:
            self.logits = plain_step(self.net, self.logits, self.view, view)
        self.view = view
        return plain_labels(self.logits, size_of(frame))[0].to(torch.uint8).cpu()


def plain_loss(criterion: PropagationLoss, logits: Tensor, label: Tensor, teacher: Tensor) -> Tensor:
    """The total of `PropagationLoss`, from torch's two losses, each with its own softmax."""
    logits = align(logits, size_of(label))  # (N,C,H,W)
    ce = F.cross_entropy(logits, label, weight=criterion.class_weights, ignore_index=criterion.ignore)
    taught = F.softmax(align(teacher, size_of(label)), dim=1)  # (N,C,H,W)
    distillation = F.kl_div(F.log_softmax(logits, dim=1), taught, reduction="none").mean()
    return criterion.param_ce * (ce + criterion.param_distil * distillation)
