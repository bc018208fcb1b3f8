"""Library errors (out of memory, dead loader process, no compiler) as UserErrors that name the flag to change."""
import re

import cv2
import torch

from config.errors import UserError
from config.options import Options

CPU_MEMORY = re.compile(  # the last: oneDNN
    "can't allocate memory|not enough memory|insufficient memory|cannot allocate memory|bad_alloc|"
    "could not create a primitive", re.IGNORECASE,
)
OF_LIBRARIES = (MemoryError, RuntimeError, ValueError, cv2.error)  # torch's OutOfMemoryError is a RuntimeError
GPU_MEMORY = re.compile(r"out of memory|ALLOC_FAILED", re.IGNORECASE)
COMPILER = re.compile(r"No working C\+\+ compiler|InvalidCxxCompiler")
LOADER = re.compile(r"DataLoader worker \(pid\S* [^)]*\) (?:is killed by signal: |exited unexpectedly)([\w ]*)")


def as_user_error(error: Exception, options: Options, device: torch.device) -> UserError | None:
    """A library's error as a UserError, if the user can fix it: out of memory, a dead loader process, too small a batch
    for BatchNorm, no compiler; else None."""
    text = str(error)
    if "more than 1 value per channel when training" in text:
        return UserError(
            "BatchNorm cannot train on a single value: use --batch-size of at least 2 per process (now "
            f"{options.batch_size}), or a larger crop (--crop-height {options.crop_height} --crop-width "
            f"{options.crop_width})"
        )
    if COMPILER.search(text):
        return UserError(
            "torch.compile found no C++ compiler (g++, or the one named by the variable CXX); install one, or do not "
            "use --compile 1 and --engine compile"
        )
    workers = f"lower --num-worker (now {options.num_worker}; 0: no loader processes)"
    if "unable to allocate shared memory" in text:
        return UserError(f"shared memory (/dev/shm) is too small for the loader processes; enlarge it, or {workers}")
    loader = LOADER.search(text)
    if loader:
        how = f"by signal: {loader[1]}" if loader[1] else "without an error message"
        cause = "shared memory (/dev/shm) is too small" if loader[1].startswith("Bus") else "memory ran out"
        return UserError(f"a loader process died ({how}), most likely because {cause}; {workers}")
    on_cpu = isinstance(error, MemoryError) or CPU_MEMORY.search(text)
    if not on_cpu and not isinstance(error, torch.OutOfMemoryError) and not GPU_MEMORY.search(text):
        return None
    tried = re.search(r"(?:tried to allocate|Failed to allocate) ([\d.]+ (?:[KMGT]i?B|bytes))", text, re.IGNORECASE)
    amount = f" (tried to allocate {tried[1]})" if tried else ""
    return UserError(f"out of memory on {'the CPU' if on_cpu else device}{amount}; {smaller(options)}")


def smaller(options: Options) -> str:
    """The flags that lower the memory that the options take."""
    if options.export:
        return "lower --export-size"
    if options.video or options.evaluate or options.benchmark in ("eval", "video", "table", "schedule"):
        return f"lower --scale (now {options.scale:g}), or use another --device"
    if options.demo:
        return "the demonstration has a fixed size; use another --device"
    crop = "--crop-height and --crop-width" if options.use_crop else "the size of the frames (--use-crop 1)"
    amp = ", or use --amp bf16" if options.amp == "off" else ""
    return f"lower --batch-size (now {options.batch_size}) or {crop}{amp}"
