"""The processor, as Linux describes it, and how torch uses it."""
import contextlib
import ctypes
import os
import platform
import re
from pathlib import Path

SPIN = "GOMP_SPINCOUNT", "10000"
MMAP_MAX, TRIM_THRESHOLD = -4, -1  # of glibc's mallopt
# What makes half precision and 8 bits fast, where a processor has it.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_fp16", "amx_int8")


def set_up_torch() -> None:
    """Set, before torch is imported, how its threads wait and its memory is kept; what the environment tells stays.

    Usually an idle thread waits actively for milliseconds, on a core that the threads of an engine's runtime need; so
    many turns are enough for the next operator to come. And usually large tensors go back to the system when they are
    freed; fetching their pages anew takes a quarter of a keyframe's time in plain PyTorch.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(*SPIN)
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):  # without glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


def processor() -> str:
    """Its name."""
    return from_proc("cpuinfo", r"model name\s*:\s*(.+)") or platform.processor() or platform.machine()


def processor_flags() -> list[str]:
    """Those of FLAGS that it has; none where the system does not tell."""
    has = (from_proc("cpuinfo", r"flags\s*:\s*(.+)") or "").split()
    return [flag for flag in FLAGS if flag in has]


def from_proc(name: str, pattern: str) -> str | None:
    """What the pattern's group matches in a file of /proc; None if nothing does, or without such a file."""
    with contextlib.suppress(OSError):
        found = re.search(pattern, Path("/proc", name).read_text())
        return found[1] if found else None
    return None
