"""--amp auto: mixed precision where it is quicker."""
import time
from dataclasses import replace

import torch
from torch import nn

from config.options import Options
from utils.device import autocast, synchronise
from utils.distributed import from_all_ranks
from utils.logging import logger

CHANNELS, SIZE, TRIES = 64, (96, 192), 5  # as in a residual network at a quarter of 384 x 768; the quickest try counts
GAIN = 1.1  # of bf16 over float32, below which it is not worth its rounding


def with_measured_amp(options: Options, device: torch.device) -> Options:
    """The options, `--amp auto` replaced: "bf16" if two convolutions take less time in it here, on all processes."""
    if options.amp != "auto":
        return options
    seconds = {name: _seconds(name, device) for name in ("fp32", "bf16")}
    all_seconds = from_all_ranks(seconds)
    quicker = all(found["fp32"] > GAIN * found["bf16"] for found in all_seconds)
    logger.info(
        "--amp auto: %s; forward and backward pass of two convolutions: %.1f ms in float32, %.1f in bf16",
        "bf16" if quicker else "off", *(1e3 * x for x in all_seconds[0].values()),
    )
    return replace(options, amp="bf16" if quicker else "off")


def _seconds(precision: str, device: torch.device) -> float:
    convolutions = [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(2)]
    network = nn.Sequential(*convolutions).to(device).to(memory_format=torch.channels_last)
    image = torch.zeros(2, CHANNELS, *SIZE, device=device).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(TRIES):
        synchronise(device)
        began = time.perf_counter()
        with autocast(device, precision):
            network(image).float().sum().backward()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return min(times)
