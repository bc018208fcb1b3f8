"""Errors of libraries that the user can mend, as such, with the flag to change."""
import re

import cv2
import torch

from config.errors import UserError
from config.options import Options

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "insufficient memory", "cannot allocate memory", "bad_alloc",
                 "could not create a primitive")  # the last: oneDNN
CPU_MEMORY = re.compile("|".join(OUT_OF_MEMORY), re.IGNORECASE)
OF_LIBRARIES = (MemoryError, RuntimeError, ValueError, cv2.error)  # torch's OutOfMemoryError is a RuntimeError
GPU_MEMORY = re.compile(r"out of memory|ALLOC_FAILED", re.IGNORECASE)
COMPILER = re.compile(r"No working C\+\+ compiler|InvalidCxxCompiler")
LOADER = re.compile(r"DataLoader worker \(pid\S* [^)]*\) (?:is killed by signal: |exited unexpectedly)(?P<signal>[\w ]*)")


def as_user_error(error: Exception, options: Options, device: torch.device) -> UserError | None:
    """What the user can mend behind `error`: memory that ran out, a loader process that died, a batch too small for
    BatchNorm, no compiler; else None."""
    text = str(error)
    if "more than 1 value per channel when training" in text:
        return UserError(
            f"BatchNorm cannot learn from a single value: --batch-size (now {options.batch_size}) has to be at least 2 for each "
            f"process, or the crop (--crop-height {options.crop_height} --crop-width {options.crop_width}) larger"
        )
    if COMPILER.search(text):
        return UserError(
            "torch.compile finds no C++ compiler here (g++, or the one that the variable CXX names); install one, or leave "
            "--compile 1 and --engine compile out"
        )
    if "unable to allocate shared memory" in text:
        return UserError(
            f"shared memory (/dev/shm) is too small for what loader processes hand over; enlarge it, or lower --num-worker (now "
            f"{options.num_worker}; 0 reads in the program itself)"
        )
    loader = LOADER.search(text)
    if loader:
        how = f"by signal: {loader['signal']}" if loader["signal"] else "without a word"
        memory = "shared memory (/dev/shm) that is too small" if loader["signal"].startswith("Bus") else "lack of memory"
        return UserError(
            f"a loader process died ({how}), most often for {memory}; lower --num-worker (now {options.num_worker}; 0 reads in "
            "the program itself)"
        )
    on_cpu = isinstance(error, MemoryError) or CPU_MEMORY.search(text)
    if not on_cpu and not isinstance(error, torch.OutOfMemoryError) and not GPU_MEMORY.search(text):
        return None
    wanted = re.search(r"(?:tried to allocate|Failed to allocate) ([\d.]+ (?:[KMGT]i?B|bytes))", text, re.IGNORECASE)
    amount = f" ({wanted[1]} more were wanted)" if wanted else ""
    return UserError(f"out of memory on {'the CPU' if on_cpu else device}{amount}; {remedy(options)}")


def remedy(options: Options) -> str:
    """The flags that make what the options ask for smaller."""
    if options.export:
        return "lower --export-size"
    if options.video or options.evaluate or options.benchmark in ("eval", "video", "table", "schedule"):
        return f"lower --scale (now {options.scale:g}), or compute on another --device"
    if options.demo:
        return "the demonstration has no smaller size; compute on another --device"
    crop = "--crop-height and --crop-width" if options.use_crop else "the frames (--use-crop 1)"
    amp = ", or use --amp bf16" if options.amp == "off" else ""
    return f"lower --batch-size (now {options.batch_size}) or {crop}{amp}"
