"""Benchmarks of training: what the loader delivers and where a step's time goes, beside the published way in one run.

Figures are medians after a warm-up, the device waited for. Ratios inside one run are what to compare; times depend on the
machine and what else it does.
"""
import copy
import platform
import resource
import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterator, Optional

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image

from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from dataloaders.build import TrainingLoader, labelled_frames
from dataloaders.cache import PictureCache
from dataloaders.clips import ClipDataset
from dataloaders.images import read_image
from models.build import SEGMENTERS
from models.gsvnet import GSVNet
from trainer.networks import untrained_networks
from trainer.reference import PlainClips, plain_augment, plain_frozen, plain_loss, plain_propagation
from trainer.stage_gsv import PropagationStage
from utils.distributed import Ranks
from utils.logging import logger, write_json

LOADER_CLIPS, DECODER_FRAMES, STEPS, WARM_UP = 8, 12, 5, 2


def run_benchmark(options: Options, device: torch.device) -> dict:
    """Run the benchmark that `--benchmark` names, print its table, write it as JSON; returns the JSON's content."""
    content = {"benchmark": options.benchmark, "machine": machine(device)}
    content |= {"train": benchmark_train, "loader": benchmark_loader}[options.benchmark](options, device)
    for line in content["table"]:
        logger.info("%s", line)
    path = Path(options.metrics_file or Path(options.log_folder) / f"benchmark_{options.benchmark}.json")
    write_json(path, content)
    logger.info("written: %s", path)
    return content


def machine(device: torch.device) -> dict:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type} ({name})", "threads": torch.get_num_threads(), "torch": torch.__version__,
        "torchvision": torchvision.__version__, "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
    }


def benchmark_loader(options: Options, device: torch.device) -> dict:
    """Frames per second of one core: decoders, then whole loaders (decode, label, stack), reference and ours."""
    dataset, interval = dataset_config(options.dataset, options.data_path), options.multi_step[0]
    frames = labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="train", past=interval)
    clips = ClipDataset(frames, interval, dataset)
    if not len(clips):
        raise UserError(f"{options.data_path}: no train clip of {interval + 1} frames to measure with; see --multi-step")
    torch.set_num_threads(1)
    count = min(LOADER_CLIPS, len(clips))
    paths = sorted({path for frame in clips.frames[:count] for path in frame.frames})[:DECODER_FRAMES]
    decoders: dict[str, Callable[[Path], object]] = {
        "Pillow": lambda path: np.array(Image.open(path).convert("RGB")),
        "OpenCV": lambda path: cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB),
        "torchvision.io (the one used)": read_image,
    }
    decode = rates({name: lambda read=read: [read(path) for path in paths] for name, read in decoders.items()}, len(paths))
    segmenter = SEGMENTERS[options.segnet]
    with tempfile.TemporaryDirectory(dir=options.cache_dir or None) as folder:
        loaders = {
            "reference (Pillow, float frames, label loop)": PlainClips(frames, interval, dataset, segmenter.pixel_mean, segmenter.pixel_std),
            "ours": clips,
            "ours, decoded frames cached": ClipDataset(frames, interval, dataset, PictureCache(Path(folder))),
        }
        whole = rates({name: lambda data=data: [data[i] for i in range(count)] for name, data in loaders.items()}, count * (interval + 1))
    first = next(iter(whole.values()))
    size = read_image(paths[0]).shape
    table = [f"frames of {size[1]} x {size[0]}, one core", f"{'decoder':<46}{'frames/s':>10}"]
    table += [f"{name:<46}{value:>10.1f}" for name, value in decode.items()]
    table += [f"{'loader, clips of ' + str(interval + 1) + ' frames and a label':<46}{'frames/s':>10}{'ratio':>8}"]
    table += [f"{name:<46}{value:>10.1f}{value / first:>8.2f}" for name, value in whole.items()]
    return {"frame": list(size), "decoders": decode, "loaders": whole, "table": table}


def rates(works: dict[str, Callable[[], object]], frames: int) -> dict[str, float]:
    """Frames per second of each work: median of a few rounds, in which all take turns, after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(1 + STEPS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: frames / statistics.median(seconds[1:]) for name, seconds in times.items()}


class Parts:
    """Seconds by part of a step, over several steps."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self.peak = device, {}, 0.0

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


def benchmark_train(options: Options, device: torch.device) -> dict:
    """Milliseconds by part of a training step of the longest interval: the published way, then this program's."""
    options = replace(options, multi_step=(max(options.multi_step),), eval_multi_step=(), eval_single=True)
    torch.manual_seed(options.seed)
    net = untrained_networks(options)
    parts_plain, parts_ours = Parts(device), Parts(device)
    plain_way = plain_steps(options, device, copy.deepcopy(net), parts_plain)
    our_way = stage_steps(options, PropagationStage(options, device, Ranks(), None, net=net), parts_ours)
    for _ in zip(plain_way, our_way):  # turn about, so that what else the machine does meets both alike
        pass
    plain, ours = parts_plain.result(), parts_ours.result()
    parts = list(ours["milliseconds"])
    settings = f"{options.segnet}, {options.optical_flow_network} flow, batch {options.batch_size}, crop "
    settings += f"{options.crop_height} x {options.crop_width}, interval {options.multi_step[0]}, --amp {options.amp}, "
    settings += f"--compile {int(options.compile)}, {options.num_worker} loader processes"
    table = [settings, f"{'milliseconds a step':<28}{'published way':>14}{'ours':>10}{'ratio':>8}"]
    for part in parts:
        a, b = plain["milliseconds"][part], ours["milliseconds"][part]
        table.append(f"{part:<28}{a:>14.1f}{b:>10.1f}{a / b:>8.2f}")
    for name, run in (("published way", plain), ("ours", ours)):
        images = options.batch_size / run["milliseconds"]["step"] * 1e3
        run["clips_per_second"] = images
        table.append(f"{name}: {images:.2f} clips/s, peak memory {run['peak_gib']:.2f} GiB")
    return {"settings": settings, "published": plain, "ours": ours, "table": table}


def stage_steps(options: Options, stage: PropagationStage, part: Parts) -> Iterator[None]:
    """This program's training steps, timed by part; one a turn."""
    loader = TrainingLoader(stage.passes, batch=options.batch_size, workers=options.num_worker)
    interval = options.multi_step[0]
    scaler = torch.amp.GradScaler(stage.device.type, enabled=options.amp == "fp16")
    stage.train_mode()
    for step, batch in enumerate(timed_batches(lambda n: loader.start(interval, seed=(options.seed, n))[1], part)):
        with part("augment"):
            ends, views, label = stage.inputs(batch, (options.seed, step))
        with part("keyframe + teacher"), stage.autocast():
            key_logits, teacher = stage.frozen_logits(ends)
        with part("propagation forward, loss"):
            with stage.autocast():
                logits = stage.trained(key_logits, views)
            loss = stage.criterion(logits.float(), label, teacher)["total"]
        with part("backward"):
            stage.optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
        with part("optimizer"):
            scaler.step(stage.optimizer)
            scaler.update()
        yield


def plain_steps(options: Options, device: torch.device, net: GSVNet, part: Parts) -> Iterator[None]:
    """The published program's training steps with the same networks, data and crop, timed by part; one a turn."""
    options = replace(options, compile=False, amp="off")
    stage = PropagationStage(options, device, Ranks(), None, net=net)  # for its data, optimizer and augmentation
    plain = PlainClips(
        stage.passes[options.multi_step[0]].frames, options.multi_step[0], stage.dataset, net.segmenter.pixel_mean, net.segmenter.pixel_std
    )
    net.segmenter.to(memory_format=torch.contiguous_format)
    loader = TrainingLoader({0: plain}, batch=options.batch_size, workers=options.num_worker)
    stage.train_mode()
    for step, batch in enumerate(timed_batches(lambda n: loader.start(0, seed=(options.seed, n))[1], part)):
        with part("augment"):
            clip, label = batch["clip"].to(device), batch["label"].to(device)
            draw = stage.draw(np.random.default_rng([options.seed, step]), clip.shape[-2:])
            clip, label = plain_augment(clip, label, draw)
        with part("keyframe + teacher"):
            key_logits, teacher = plain_frozen(net, clip)
        with part("propagation forward, loss"):
            logits = plain_propagation(net, clip, key_logits)
            loss = plain_loss(stage.criterion, logits, label, teacher)
        with part("backward"):
            stage.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        with part("optimizer"):
            stage.optimizer.step()
        yield


def timed_batches(start: Callable[[int], Iterator[dict]], part: Parts) -> Iterator[dict]:
    """Batches for warm-up and measured steps, pass after pass as needed; the wait for each is the part "load"."""
    number, batches = 0, start(0)
    for _ in range(WARM_UP + STEPS):
        with part("load"):
            batch: Optional[dict] = next(batches, None)
            if batch is None:
                number += 1
                batches = start(number)
                batch = next(batches)
        yield batch


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    """Peak memory: of the device on a GPU, of the whole process so far on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
