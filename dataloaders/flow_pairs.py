"""Pairs of consecutive frames with their true optical flow, for the flow stage."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from config.errors import UserError
from dataloaders.clips import LabelledFrame, SizedDataset, check_size, read_clip
from dataloaders.images import content_of, decode
from streets.generate import FLOW_SCALE, FLOW_ZERO
from utils.logging import logger


class FlowDataset(SizedDataset):
    """Two consecutive frames and the true flow between them, on a grid with h,w = H//`stride`,W//`stride`.

    Items: `clip` (2,H,W,3) uint8 RGB (previous, current); `flow` (2,h,w) float32, from the current frame to the
    previous one, in grid pixels, x first; `valid` (1,h,w) float32, the share 0..1 of a cell's pixels that both frames
    show; `name`. Reading raises UserError for unreadable files and for sizes that differ.
    """

    def __init__(self, frames: Sequence[LabelledFrame], stride: int):
        pairs = [frame for frame in frames if len(frame.frames) > 1]
        self.frames, self.stride = [frame for frame in pairs if frame.flow is not None], stride
        without = len(pairs) - len(self.frames)
        if self.frames and without:
            logger.info("flow: %d of %d labelled frames with a previous one have no true flow", without, len(pairs))

    def __getitem__(self, index: int) -> dict:
        frame = self.frames[index]
        assert frame.flow is not None  # __init__ keeps only frames that have it
        flow, valid = read_flow(frame.flow)  # (H,W,2) pixels, (H,W)
        clip = read_clip(frame.frames[-2:])  # (2,H,W,3)
        check_size(frame.flow, valid.shape, frame.frames[-1], clip.shape[1:3])
        height, width = valid.shape
        size = (max(1, width // self.stride), max(1, height // self.stride))
        weight = valid.astype(np.float32)
        share = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)  # (h,w)
        total = cv2.resize(flow * weight[..., None], size, interpolation=cv2.INTER_AREA)  # (h,w,2)
        mean = total / np.maximum(share, 1e-6)[..., None]  # (h,w,2)
        mean[..., 0] *= size[0] / width
        mean[..., 1] *= size[1] / height
        grid = torch.from_numpy(np.ascontiguousarray(mean.transpose(2, 0, 1), dtype=np.float32))  # (2,h,w)
        return {"clip": clip, "flow": grid, "valid": torch.from_numpy(share[None]), "name": frame.name}


def read_flow(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Read a KITTI 16-bit PNG: flow (H,W,2) float32 in pixels, x first, and valid (H,W) bool.

    Raises UserError where the file is unreadable or another kind of picture.
    """
    planes = decode(Path(path), content_of(Path(path)), cv2.IMREAD_UNCHANGED)
    if planes.dtype != np.uint16 or planes.shape[2:] != (3,):
        raise UserError(
            f"{path}: not a flow PNG, which has three 16-bit channels; remove its folder and generate the data again"
        )
    flow = (planes[..., :0:-1].astype(np.float32) - FLOW_ZERO) / np.float32(FLOW_SCALE)
    return flow, planes[..., 0] > 0
