"""--benchmark train: where a training step's time goes, beside the published way."""
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks.measure import STEPS, WARM_UP, Parts
from benchmarks.published_way import PlainClips, plain_augment, plain_frozen, plain_loss, plain_propagation
from config.options import Options
from dataloaders.loaders import TrainingLoader
from models.gsvnet import GSVNet
from models.load import fresh_networks
from trainer.stages.propagation import PropagationStage
from utils.distributed import Ranks


def benchmark_train(options: Options, device: torch.device) -> dict:
    """Milliseconds by part of a training step of the longest interval: the published way, then this program's."""
    options = replace(options, multi_step=(max(options.multi_step),), eval_multi_step=(), eval_single=True)
    torch.manual_seed(options.seed)
    net = fresh_networks(options)
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
    interval, segmenter = options.multi_step[0], net.segmenter
    plain = PlainClips(stage.training_frames(interval), interval, stage.dataset, segmenter.pixel_mean, segmenter.pixel_std)
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
            batch: dict | None = next(batches, None)
            if batch is None:
                number += 1
                batches = start(number)
                batch = next(batches)
        yield batch
