"""What depends on the kind of device: mixed precision, and waiting until it has finished."""
from contextlib import AbstractContextManager, nullcontext

import torch

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context of a forward pass in bf16 or fp16; of any other precision, one that does nothing."""
    dtype = HALF.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
