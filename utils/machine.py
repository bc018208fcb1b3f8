"""The processor, as Linux describes it."""
import contextlib
import platform
import re
from pathlib import Path

# What makes half precision and 8 bits fast, where a processor has it.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_fp16", "amx_int8")


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
