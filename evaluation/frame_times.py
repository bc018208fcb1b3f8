"""Milliseconds of a frame by keyframe interval, measured on the first frames of an evaluation."""
import statistics
import time
from collections.abc import Sequence

import torch

from inference.engines import build_engine
from inference.keyframe_schedule import FixedInterval
from inference.stream import VideoSegmenter
from models.gsvnet import GSVNet

INTERVALS = range(1, 6)
FRAMES, ROUNDS = 4, 3  # of a group that is timed; groups, after one to warm up


def frame_times(
    net: GSVNet, frames: Sequence[torch.Tensor], *, method: str, carry: str, scale: float, device: torch.device
) -> dict[str, float | int | None] | None:
    """Milliseconds of a frame on average by keyframe interval, from the frame (H,W,3) uint8 in memory to its label map,
    in plain PyTorch: a keyframe's and a propagated frame's median, weighted. frames: some of a video; None where there
    are too few of one size."""
    engine = build_engine("eager", net, scale=scale, device=device, method=method, carry=carry)
    segmenter = VideoSegmenter(net, engine=engine, schedule=FixedInterval(FRAMES))
    seconds: dict[bool, list[float]] = {True: [], False: []}  # by whether it is a keyframe
    for number in range((ROUNDS + 1) * FRAMES):
        frame = frames[number % FRAMES % len(frames)].numpy()
        began = time.perf_counter()
        segmenter(frame)
        if number >= FRAMES:
            seconds[segmenter.was_keyframe].append(time.perf_counter() - began)
    if not all(seconds.values()):
        return None
    keyframe, propagated = (1e3 * statistics.median(seconds[x]) for x in (True, False))
    return {str(n): (keyframe + (n - 1) * propagated) / n for n in INTERVALS}
