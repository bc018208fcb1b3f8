"""GSVNet frame by frame as the released program computes it: whole frames normalised first, then resized."""
import torch
from torch import Tensor

from models.gsvnet import GSVNet, State
from models.resize import align, grid_size, scaled_size, size_of


def normalised(net: GSVNet, frame: Tensor) -> Tensor:
    """RGB (...,3,H,W), 0..255 -> float32."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (net.segmenter.pixel_mean, net.segmenter.pixel_std))
    return (frame.float() - mean) / std


def plain_view(net: GSVNet, frame: Tensor) -> Tensor:
    """RGB (N,3,H,W), 0..255 -> (N,3,h,w), BGR. For segmenters whose view has their own mean and std."""
    return align(normalised(net, frame), grid_size(*size_of(frame))).flip(1)  # (N,3,h,w)


def plain_keyframe(net: GSVNet, frame: Tensor, scale: float = 0.75) -> State:
    """RGB (N,3,H,W), 0..255 -> its state."""
    logits = net.segmenter(align(normalised(net, frame), scaled_size(*size_of(frame), scale)))
    return State(align(logits, grid_size(*size_of(frame))), plain_view(net, frame))  # (N,C,h,w), (N,3,h,w)


def plain_propagated(net: GSVNet, state: State, frame: Tensor) -> State:
    """RGB (N,3,H,W), 0..255 -> its state, carried from the previous frame's."""
    return net.propagate(state, plain_view(net, frame))
