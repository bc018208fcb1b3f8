"""Optical flow that is independent of the networks under test, for measures over time."""
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import optical_flow

from evaluation.consistency import correspondence
from models.flow_dis import DISFlow
from utils.checkpoint import WeightsFile

# Two frames (H,W,3) uint8 RGB -> flow (H,W,2) float32 from the first to the second, in pixels, x first.
FlowBetween = Callable[[Tensor, Tensor], Tensor]

TORCH_WEIGHTS = Path(torch.hub.get_dir()) / "checkpoints"  # where torchvision downloads to
RAFT_FILES = {  # names under which torchvision publishes the weights
    "raft_large_C_T_SKHT_V2-ff5fadd5.pth": optical_flow.raft_large,
    "raft_small_C_T_V2-01064c6d.pth": optical_flow.raft_small,
}
RAFT_SIDE = 128  # least height and width that RAFT takes; it also requires multiples of 8


def find_flow(folders: Sequence[Path], device: torch.device) -> tuple[str, FlowBetween]:
    """Name and function of torchvision's RAFT if its weights are in one of `folders`, else of OpenCV's DIS."""
    for folder in folders:
        for name, build in RAFT_FILES.items():
            if (folder / name).is_file():
                return f"torchvision {build.__name__} ({name})", raft_flow(folder / name, build, device)
    return "OpenCV DIS, medium preset", dis_flow()


def dis_flow() -> FlowBetween:
    """Dense inverse search (Kroeger et al., ECCV 2016), on the CPU."""
    dis = DISFlow(side=sys.maxsize, preset="medium")

    def between(first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[:2]
        ahead, look = (dis.look(x.cpu().numpy()) for x in (second, first))
        flow = dis.between(ahead, look, (height, width))  # (2,H,W)
        return torch.from_numpy(flow.transpose(1, 2, 0).copy()).to(first.device)

    return between


def raft_flow(path: Path, build: Callable, device: torch.device) -> FlowBetween:
    """RAFT (Teed and Deng, ECCV 2020) with the weights in `path`. Raises UserError if they do not fit."""
    network = build(weights=None).to(device).eval()
    WeightsFile.read(path, "RAFT weights").into(network, "RAFT")

    @torch.inference_mode()
    def between(first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[:2]
        frames = torch.stack([first, second]).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1  # (2,3,H,W), -1..1
        bottom, right = (max(RAFT_SIDE, -(-x // 8) * 8) - x for x in (height, width))
        frames = F.pad(frames, (0, right, 0, bottom), mode="replicate")  # (2,3,H+bottom,W+right)
        return network(frames[:1], frames[1:])[-1][0, :, :height, :width].permute(1, 2, 0)  # (H,W,2)

    return between


def visible_in_next(forward: Tensor, backward: Tensor) -> Tensor:
    """(H,W) bool: pixels of t that t+1 shows, by the forward-backward check of Sundaram et al. (ECCV 2010).

    forward, backward: (H,W,2), the flow from t to t+1 and back. A pixel is hidden if forward and backward flow do not
    cancel: |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5.
    """
    index, inside = correspondence(forward)
    back = backward.reshape(-1, 2)[index]  # (H,W,2)
    gap = (forward + back).square().sum(-1)
    return inside & (gap <= 0.01 * (forward.square().sum(-1) + back.square().sum(-1)) + 0.5)
