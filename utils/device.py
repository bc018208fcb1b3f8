"""What depends on the kind of device: mixed precision, and waiting until it has finished."""
from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS: dict[str, torch.dtype | None] = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # of --amp


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    """The context of a forward pass in the precision `amp`, a name of PRECISIONS."""
    dtype = PRECISIONS[amp]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
