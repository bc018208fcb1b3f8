"""--benchmark video: a stream at full size by every engine, beside segmenting each frame and beside the straightforward program."""
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import median_and_p95, milliseconds, networks_to_measure, turns, waiter
from benchmarks.published_way import stacked_guided
from config.errors import UserError
from config.options import Options
from dataloaders.transforms import channels_first, normalise
from inference.engines import ENGINES, Engine, build_engine
from inference.keyframe_schedule import FixedInterval
from inference.stream import VideoSegmenter
from models.gsvnet import GSVNet, grid_view
from models.resize import align, size_of
from models.warp import grid_flow, warp
from streets import StreetSettings, render_sequence
from utils.logging import logger

SIZE = (1024, 2048)
GROUPS = 5
STAGES = ("view", "keyframe", "propagate", "labels")


def benchmark_video(options: Options, device: torch.device) -> dict:
    """Milliseconds of a frame, uint8 frame in memory to uint8 label map of its size, and of its stages; all take turns."""
    net, weights = networks_to_measure(options)
    net = net.eval()
    street = render_sequence(StreetSettings(*SIZE, 1, 1, options.interval), "val", 0)
    frames = [torch.from_numpy(x.image) for x in islice(street, options.interval)]
    engines = usable_engines(options, net, device)
    works: dict[str, Callable] = {}
    plain = PlainProgram(net, options.scale, device)
    for t in range(options.interval):
        works[f"plain {t}"] = lambda t=t: plain(t, frames[t])
    for name, engine in engines.items():
        stream, alone = (VideoSegmenter(net, engine=engine, schedule=FixedInterval(n)) for n in (options.interval, 1))
        for t in range(options.interval):
            works[f"{name} {t}"] = lambda s=stream, t=t: s(frames[t].numpy())
        works[f"{name} alone"] = lambda s=alone: s(frames[-1].numpy())
        works |= {f"{name} {stage}": work for stage, work in stages(engine, frames).items()}
    seconds = turns(works, GROUPS, waiter(device))
    agree = {}
    for name, engine in engines.items():
        agree[name] = agreement(VideoSegmenter(net, engine=engine, schedule=FixedInterval(options.interval)), plain, frames)
    rows = {name: figures(name, seconds, options.interval) for name in ("plain", *engines)}
    settings = (
        f"{SIZE[1]} x {SIZE[0]}, batch 1, {options.segnet}, {options.optical_flow_network} flow, {weights}, scale {options.scale:g}, "
        f"interval {options.interval}, {'float32' if options.amp == 'off' else options.amp}; synthetic street"
    )
    return {"settings": settings, "rows": rows, "agreement": agree, "table": [settings, *table_lines(rows, agree)]}


def usable_engines(options: Options, net: GSVNet, device: torch.device) -> dict[str, Engine]:
    """The engine that is asked for, or all that work here, each run once."""
    found = {}
    for name in ENGINES if options.engine == "auto" else [options.engine]:
        try:
            engine = build_engine(name, net, scale=options.scale, device=device, amp=options.amp)
            VideoSegmenter(net, engine=engine)(np.zeros((*SIZE, 3), np.uint8))
            found[name] = engine
        except UserError as error:
            if options.engine == name:
                raise
            logger.info("engine %s left out: %s", name, error)
    return found


class PlainProgram:
    """The straightforward way: every full frame normalised as a float, the network as it is built, the guided block's
    candidates stacked, all logits upsampled."""

    def __init__(self, net: GSVNet, scale: float, device: torch.device):
        self.net, self.scale, self.device = net.to(device), scale, device

    @torch.inference_mode()
    def __call__(self, t: int, image: Tensor) -> Tensor:
        """Frame t of a group, (H,W,3) uint8 RGB -> labels (H,W) uint8."""
        net = self.net
        frame = normalise(channels_first(image).contiguous().to(self.device), net.segmenter.pixel_mean, net.segmenter.pixel_std)[None]
        if t == 0:
            state = net.keyframe(frame, self.scale)
            self.logits, self.view = state.logits, state.view
        else:
            view = grid_view(frame)
            warped = warp(self.logits, grid_flow(net.flow(view, self.view), size_of(view)))
            self.logits, self.view = stacked_guided(net.guided, warped, view), view
        return align(self.logits, size_of(frame)).argmax(dim=1)[0].to(torch.uint8).cpu()


def stages(engine: Engine, frames: list[Tensor]) -> dict[str, Callable]:
    """The parts of a frame's way, each by itself."""
    image = frames[0][None]
    view, logits = engine.view(image), engine.keyframe(image)
    return {
        "view": lambda: engine.view(image), "keyframe": lambda: engine.keyframe(image),
        "propagate": lambda: engine.propagate(logits, view, view), "labels": lambda: engine.labels(logits, SIZE),
    }


def agreement(segmenter: VideoSegmenter, plain: PlainProgram, frames: list[Tensor]) -> float:
    """Share of pixels that get the straightforward program's label."""
    pairs = [(torch.from_numpy(segmenter(frame.numpy())), plain(t, frame)) for t, frame in enumerate(frames)]
    return float(np.mean([(a == b).float().mean().item() for a, b in pairs]))


def figures(name: str, seconds: dict[str, list[float]], interval: int) -> dict:
    """Of one engine, or of the straightforward program ("plain")."""
    propagated = [x for t in range(1, interval) for x in seconds[f"{name} {t}"]]
    groups = [sum(times) for times in zip(*(seconds[f"{name} {t}"] for t in range(interval)))]
    group, group_p95 = median_and_p95(groups)
    found: dict[str, Any] = {
        "keyframe_ms": median_and_p95(seconds[f"{name} 0"]), "propagated_ms": median_and_p95(propagated) if propagated else None,
        "group_ms": (group, group_p95), "fps": 1e3 * interval / group,
    }
    if name != "plain":
        alone = median_and_p95(seconds[f"{name} alone"])
        found["per_frame_ms"], found["per_frame_fps"] = alone, 1e3 / alone[0]
        found["stages_ms"] = {stage: median_and_p95(seconds[f"{name} {stage}"])[0] for stage in STAGES}
        network = found["stages_ms"]["keyframe"] + (interval - 1) * found["stages_ms"]["propagate"]
        found["network_fps"] = 1e3 * interval / network
    return found


def table_lines(rows: dict[str, dict], agree: dict[str, float]) -> list[str]:
    head = f"{'end to end, ms (p95)':<24}{'keyframe':>18}{'propagated':>18}{'group':>18}{'FPS':>7}{'x plain':>9}"
    head += f"{'per frame':>18}{'x per frame':>13}{'agrees':>9}"
    lines = [head]
    for name, row in rows.items():
        gain = rows["plain"]["group_ms"][0] / row["group_ms"][0]
        title = "straightforward" if name == "plain" else name
        line = f"{title:<24}" + "".join(f"{milliseconds(row[key]):>18}" for key in ("keyframe_ms", "propagated_ms", "group_ms"))
        line += f"{row['fps']:>7.2f}{gain:>9.2f}"
        if name != "plain":
            line += f"{milliseconds(row['per_frame_ms']):>18}{row['fps'] / row['per_frame_fps']:>13.2f}{100 * agree[name]:>8.2f}%"
        lines.append(line)
    lines.append(f"{'stages, ms':<24}{'view':>9}{'keyframe':>10}{'propagate':>11}{'labels':>9}{'network FPS':>13}")
    for name, row in rows.items():
        if name != "plain":
            view, keyframe, propagate, labels = (row["stages_ms"][stage] for stage in STAGES)
            lines.append(f"{name:<24}{view:>9.1f}{keyframe:>10.1f}{propagate:>11.1f}{labels:>9.1f}{row['network_fps']:>13.2f}")
    return lines
