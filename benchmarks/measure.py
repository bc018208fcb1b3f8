"""Timing and memory of the benchmarks: medians after a warm-up, with the device idle before and after; the machine.

Compare ratios within a run: times depend on the machine and its load.
"""
import contextlib
import ctypes
import gc
import math
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torchvision

from config.options import Options
from models.gsvnet import GSVNet
from models.load import fresh_networks, networks_for_inference, resume_path
from utils.device import synchronise
from utils.machine import from_proc, processor, processor_flags

K = TypeVar("K")
SIZE, DRY_RUN_SIZE = (1024, 2048), (128, 256)  # frames (H,W) of benchmarks that read no data set


@dataclass(frozen=True)
class Rounds:
    """How often something is timed: `warm_up` rounds, which are dropped, then `counted` ones."""

    counted: int
    warm_up: int = 2

    @classmethod
    def of(cls, options: Options, counted: int, warm_up: int = 2) -> "Rounds":
        """`counted` rounds after the warm-up; in a dry run a single one."""
        return cls(1, 0) if options.early_stop else cls(counted, warm_up)


def frame_size(options: Options) -> tuple[int, int]:
    """(H,W) of the frames of a benchmark that reads no data set."""
    return DRY_RUN_SIZE if options.early_stop else SIZE


def networks_to_measure(options: Options) -> tuple[GSVNet, str]:
    """The networks that the options name, untrained ones without --resume, and a description of their weights."""
    torch.manual_seed(options.seed)
    if options.resume == "0" and not (options.segnet_weights or options.flow_weights):
        return fresh_networks(options), "untrained"
    return networks_for_inference(options), f"weights of {resume_path(options) or options.segnet_weights}"


def machine(device: torch.device) -> dict:
    """The machine: device, flags (of a CPU, see `processor_flags`), threads, clock_mhz (now; None if unknown), torch,
    torchvision, python (versions), date."""
    if device.type == "cuda":
        name, clock = torch.cuda.get_device_name(device), None
        with contextlib.suppress(Exception):  # requires NVIDIA's management library, which not every machine has
            clock = int(torch.cuda.clock_rate(device))
    else:
        name = processor()
        clock = round(float(from_proc("cpuinfo", r"cpu MHz\s*:\s*([\d.]+)") or 0)) or None
    return {
        "device": f"{device.type} ({name})", "flags": processor_flags() if device.type == "cpu" else [],
        "threads": torch.get_num_threads(), "clock_mhz": clock,
        "torch": torch.__version__, "torchvision": torchvision.__version__, "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def machine_line(machine: dict) -> str:
    """`machine` as one line of text."""
    clock = f", {machine['clock_mhz']} MHz" if machine["clock_mhz"] else ""
    versions = ", ".join(f"{name} {machine[name.lower()]}" for name in ("torch", "torchvision", "Python"))
    flags = " " + " ".join(machine["flags"]) if machine["flags"] else ""
    return f"{machine['device']}{flags}{clock}, {machine['threads']} threads, {versions}, {machine['date']}"


def turns(
    works: Mapping[K, Callable[[], object]], rounds: Rounds, wait: Callable[[], object] = lambda: None
) -> dict[K, list[float]]:
    """Seconds of each work in every counted round. Works take turns, so that the machine's load affects all alike."""
    times: dict[K, list[float]] = {name: [] for name in works}
    for _ in range(rounds.warm_up + rounds.counted):
        for name, work in works.items():
            wait()
            start = time.perf_counter()
            work()
            wait()
            times[name].append(time.perf_counter() - start)
    return {name: seconds[rounds.warm_up :] for name, seconds in times.items()}


def median_and_p95(seconds: list[float]) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds."""
    ordered = sorted(seconds)
    return 1e3 * statistics.median(ordered), 1e3 * ordered[math.ceil(0.95 * len(ordered)) - 1]


class Parts:
    """Seconds of each part of a step, over several steps: `with parts("backward"): ...`."""

    def __init__(self, device: torch.device, rounds: Rounds):
        self.device, self.rounds, self.peak = device, rounds, 0.0
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        synchronise(self.device)
        reset_peak(self.device)
        start = time.perf_counter()
        yield
        synchronise(self.device)
        self.seconds.setdefault(part, []).append(time.perf_counter() - start)
        self.peak = max(self.peak, peak_gib(self.device))

    def result(self) -> dict:
        """`milliseconds`: medians by part, and "step", their sum, without the warm-up; `peak_gib`: peak memory."""
        skip = self.rounds.warm_up
        values = {part: 1e3 * statistics.median(times[skip:]) for part, times in self.seconds.items()}
        return {"milliseconds": values | {"step": sum(values.values())}, "peak_gib": self.peak}


def milliseconds(values: tuple[float, float] | None) -> str:
    """Median and 95th percentile as text; "-" for None."""
    return "-" if values is None else f"{values[0]:.1f} ({values[1]:.1f})"


def memory_gib(device: torch.device) -> float:
    """Memory in use now, by this process: on the GPU, or in main memory for a CPU."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**30
    with contextlib.suppress(OSError, AttributeError):  # the C library keeps freed memory until it is trimmed
        ctypes.CDLL(None).malloc_trim(0)
    return int(from_proc("self/status", r"VmRSS:\s*(\d+) kB") or 0) / 2**20


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of peak memory; where the system cannot, the old peak stays."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_gib(device: torch.device) -> float:
    """Peak memory since `reset_peak`, of this process: on the GPU, or in main memory for a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    found = from_proc("self/status", r"VmHWM:\s*(\d+) kB")
    return (int(found) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 2**20
