"""--benchmark train: the time of each part of a training step, in the published way and in this program."""
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from benchmarks.measure import Parts, Rounds
from benchmarks.own_process import in_own_process
from benchmarks.published_way import (
    PlainClips,
    plain_augment,
    plain_frozen,
    plain_loss,
    plain_propagation,
    published_networks,
)
from config.options import Options
from dataloaders.loaders import TrainingLoader
from models.gsvnet import GSVNet
from models.load import fresh_networks
from trainer.precision import with_measured_amp
from trainer.stages.propagation import PropagationStage
from trainer.trainable import keyframe_and_teacher
from utils.distributed import Ranks
from utils.text_table import Table

STEPS = 5


def benchmark_train(options: Options, device: torch.device) -> dict:
    """Time the parts of training steps of the longest interval, both ways step by step in turn.

    Returns `settings`, `table` (lines), and for "published" and "ours" a dict of `milliseconds` (medians by part, and
    "step", their sum), `clips_per_second`, `peak_gib`.
    """
    options = with_measured_amp(options, device)
    options = replace(options, multi_step=(max(options.multi_step),), eval_multi_step=(), eval_single=True)
    torch.manual_seed(options.seed)
    net, rounds = fresh_networks(options), Rounds.of(options, STEPS)
    ours = Parts(device, rounds)
    plain_way = in_own_process(options, device, published_steps, options, device)
    our_way = stage_steps(options, PropagationStage(options, device, Ranks(), None, net=net), ours)
    for _ in our_way:
        plain_way()
    found = {"published": plain_way(True), "ours": ours.result()}
    for run in found.values():
        run["clips_per_second"] = 1e3 * options.batch_size / run["milliseconds"]["step"]
    settings = (
        f"{options.segnet}, {options.optical_flow_network} flow, batch {options.batch_size}, crop "
        f"{options.crop_height} x {options.crop_width}, interval {options.multi_step[0]}, --amp {options.amp}, "
        f"--compile {int(options.compile)}, {options.num_worker} loader processes; frozen segmenter: "
        f"--engine {options.engine} --precision {options.precision}"
    )
    return {"settings": settings, **found, "table": [settings, *step_table(found).console()]}


def published_steps(options: Options, device: torch.device) -> Callable[..., dict | None]:
    """The published way: a function that takes the next step, or if it is told so, returns `Parts.result` of all."""
    torch.manual_seed(options.seed)
    part = Parts(device, Rounds.of(options, STEPS))
    steps = plain_steps(options, device, published_networks(fresh_networks(options)), part)
    return lambda measured=False: part.result() if measured else next(steps)


def step_table(found: Mapping[str, dict]) -> Table:
    """`published` and `ours` of `benchmark_train` as a table."""
    published, ours = found["published"], found["ours"]
    rows = [
        (part, f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}")
        for (part, a), b in zip(published["milliseconds"].items(), ours["milliseconds"].values())
    ]
    for title, key in (("clips/s", "clips_per_second"), ("peak memory, GiB", "peak_gib")):
        rows.append((title, f"{published[key]:.2f}", f"{ours[key]:.2f}", ""))
    return Table("Training step", ("milliseconds per step", "published way", "ours", "ratio"), tuple(rows))


def stage_steps(options: Options, stage: PropagationStage, part: Parts) -> Iterator[None]:
    """Run this program's training steps, timed by part; yields after each step."""
    loader = TrainingLoader(stage.passes, batch=options.batch_size, workers=options.num_worker)
    interval = options.multi_step[0]
    scaler = torch.amp.GradScaler(stage.device.type, enabled=options.amp == "fp16")
    stage.train_mode()
    for step, batch in enumerate(timed_batches(lambda n: loader.start(interval, seed=(options.seed, n))[1], part)):
        with part("augment"):
            ends, views, label, flows = stage.inputs(batch, (options.seed, step))
        with part("keyframe + teacher"), stage.autocast():
            key_logits, teacher = keyframe_and_teacher(stage.frozen, ends, distil=options.distil, grid=stage.net.grid)
        with part("propagation forward, loss"):
            with stage.autocast():
                logits = stage.trained(key_logits, views, flows)
            loss = stage.criterion(logits.float(), label, teacher)["total"]
        with part("backward"):
            stage.optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
        with part("optimizer"):
            scaler.step(stage.optimizer)
            scaler.update()
        yield


def plain_steps(options: Options, device: torch.device, net: GSVNet, part: Parts) -> Iterator[None]:
    """As `stage_steps`, in the published program's way, with the same networks, data and crop."""
    options = replace(options, compile=False, amp="off", engine="auto", precision="fp32")
    stage = PropagationStage(options, device, Ranks(), None, net=net)  # for its data, optimizer and augmentation
    interval = options.multi_step[0]
    mean, std = net.segmenter.pixel_mean, net.segmenter.pixel_std
    plain = PlainClips(stage.training_frames(interval), interval, stage.dataset, mean, std)
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
    """Batches for all rounds, from as many passes as needed (`start(pass)`); the wait for each is the part "load"."""
    batches = itertools.chain.from_iterable(map(start, itertools.count()))
    for _ in range(part.rounds.warm_up + part.rounds.counted):
        with part("load"):
            batch = next(batches)
        yield batch
