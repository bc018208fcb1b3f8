"""Clocks of the benchmarks: medians after a warm-up, the device waited for, and what the figures were measured on.

Ratios inside one run are what to compare; times depend on the machine and what else it does.
"""
import contextlib
import ctypes
import gc
import math
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision

from config.options import Options
from models.gsvnet import GSVNet
from models.load import fresh_networks, networks_for_inference, resume_path

STEPS, WARM_UP = 5, 2


def networks_to_measure(options: Options) -> tuple[GSVNet, str]:
    """The networks that the options name, untrained ones without --resume, and a description of their weights."""
    if options.resume == "0":
        return fresh_networks(options), "untrained"
    return networks_for_inference(options), f"weights of {resume_path(options)}"


def machine(device: torch.device) -> dict:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": f"{device.type} ({name})", "threads": torch.get_num_threads(), "clock_mhz": clock_mhz(device),
        "torch": torch.__version__, "torchvision": torchvision.__version__, "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def machine_line(machine: dict) -> str:
    clock = f", {machine['clock_mhz']} MHz" if machine["clock_mhz"] else ""
    return (
        f"{machine['device']}{clock}, {machine['threads']} threads, torch {machine['torch']}, torchvision {machine['torchvision']}, "
        f"Python {machine['python']}, {machine['date']}"
    )


def processor() -> str:
    found = _cpu_line(r"model name\s*:\s*(.+)")
    return found or platform.processor() or platform.machine()


def clock_mhz(device: torch.device) -> int | None:
    """Clock at this moment, where the system tells: of the GPU, or of the first core."""
    if device.type == "cuda":
        with contextlib.suppress(Exception):  # wants NVIDIA's management library, which not every machine has
            return int(torch.cuda.clock_rate(device))
        return None
    found = _cpu_line(r"cpu MHz\s*:\s*([\d.]+)")
    return round(float(found)) if found else None


def _cpu_line(pattern: str) -> str | None:
    with contextlib.suppress(OSError):
        found = re.search(pattern, Path("/proc/cpuinfo").read_text())
        return found[1] if found else None
    return None


def rates(works: dict[str, Callable[[], object]], frames: int) -> dict[str, float]:
    """Frames per second of each work: median of a few rounds, in which all take turns, after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(1 + STEPS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: frames / statistics.median(seconds[1:]) for name, seconds in times.items()}


def turns(works: dict[str, Callable[[], object]], repeats: int, wait: Callable[[], object] = lambda: None) -> dict[str, list[float]]:
    """Seconds of each work, `repeats` times, all taking turns, after WARM_UP rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(WARM_UP + repeats):
        for name, work in works.items():
            wait()
            start = time.perf_counter()
            work()
            wait()
            times[name].append(time.perf_counter() - start)
    return {name: seconds[WARM_UP:] for name, seconds in times.items()}


def waiter(device: torch.device) -> Callable[[], object]:
    """What to call so that the device has done all that it was asked."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else lambda: None


def median_and_p95(seconds: list[float]) -> tuple[float, float]:
    """Milliseconds."""
    ordered = sorted(seconds)
    return 1e3 * statistics.median(ordered), 1e3 * ordered[math.ceil(0.95 * len(ordered)) - 1]


class Parts:
    """Seconds by part of a step, over several steps."""

    def __init__(self, device: torch.device):
        self.device, self.peak = device, 0.0
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._wait()
        reset_peak(self.device)
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds.setdefault(part, []).append(time.perf_counter() - start)
        self.peak = max(self.peak, peak_gib(self.device))

    def result(self) -> dict:
        """Median milliseconds a step by part, and their sum, without the warm-up steps; peak memory in GiB."""
        values = {part: 1e3 * statistics.median(times[WARM_UP:]) for part, times in self.seconds.items()}
        return {"milliseconds": values | {"step": sum(values.values())}, "peak_gib": self.peak}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def milliseconds(values: tuple[float, float] | None) -> str:
    """Median and 95th percentile as text."""
    return "-" if values is None else f"{values[0]:.1f} ({values[1]:.1f})"


def memory_gib(device: torch.device) -> float:
    """Memory in use now: of the device on a GPU, of the process on a CPU."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**30
    with contextlib.suppress(OSError, AttributeError):  # the C library keeps what was freed, unless told otherwise
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        found = re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) / 2**20
    return 0.0


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # where the system cannot forget the peak so far, it counts on
            Path("/proc/self/clear_refs").write_text("5")


def peak_gib(device: torch.device) -> float:
    """Peak memory since `reset_peak`: of the device on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
