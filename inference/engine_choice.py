"""Choose the engine of a stream: by name, or the fastest on this machine for its frame size."""
import time
from collections.abc import Callable
from typing import Any

import torch

from config.errors import UserError
from inference.engines import CompiledEngine, Engine, OnnxEngine, build_engine
from models.gsvnet import GSVNet, State
from utils.device import synchronise
from utils.logging import logger

# Seconds until the first frame on about two processor cores; engines are tried in this order.
SET_UP = {Engine.name: 0.0, OnnxEngine.name: 10.0, CompiledEngine.name: 60.0}
HOPE = 0.5  # share of the time that another engine may save, which its set-up has to be worth
REPEATS, PATIENCE = (3, 15), 1.0  # measurements of a step: at least, at most; seconds after which they stop
FIXES = {
    OnnxEngine.name: "use --engine eager or compile",
    CompiledEngine.name: "it requires a C++ compiler, and Triton on a GPU; or use --engine eager or onnx",
}


def choose_engine(
    name: str, net: GSVNet, *, size: tuple[int, int], interval: int, scale: float, device: torch.device,
    amp: str = "off", method: str = "gsv", carry: str = "logits", frames: int | None = None,
) -> Engine:
    """The engine for frames of `size` (H,W) with a keyframe every `interval` frames, set up unless "eager".

    name: one of `engines.ENGINES`, or "auto", which tries each on one frame, unless `frames` (None: unknown) are too
    few for its set-up, and takes the fastest; one log line reports why. Raises UserError if the named engine does not
    work here; auto skips it.
    """
    settings = dict(scale=scale, device=device, amp=amp, method=method, carry=carry)
    if name != "auto":
        return _set_up(name, net, size, **settings)
    logger.info("--engine auto: trying which is the fastest here")
    found: dict[str, tuple[float, Engine]] = {}
    remarks = []
    for candidate, seconds in SET_UP.items():
        best = min((cost for cost, _ in found.values()), default=0.0)
        if found and frames is not None and frames * best * HOPE < seconds:
            remarks.append(f"{candidate} not tried, {frames} frames are not worth its set-up")
            continue
        try:
            engine = _set_up(candidate, net, size, **settings)
        except UserError as error:
            remarks.append(f"{candidate} skipped: {str(error).removeprefix(f'--engine {candidate}').lstrip(' :')}")
            continue
        found[candidate] = seconds_a_frame(engine, size, interval, device), engine
        remarks.append(f"{candidate} {1e3 * found[candidate][0]:.1f} ms")
    chosen = min(found, key=lambda candidate: found[candidate][0])
    logger.info("--engine auto: %s; a frame at interval %d: %s", chosen, interval, "; ".join(remarks))
    return found[chosen][1]


def seconds_a_frame(engine: Engine, size: tuple[int, int], interval: int, device: torch.device) -> float:
    """Seconds of the networks for an average frame at that keyframe interval, without view and label map."""
    seen = engine.see(noise(size))
    state, following = _run_all(engine, size), engine.see(noise(size), seen)
    keyframe = _seconds(lambda: engine.first(seen), device)
    if interval == 1:
        return keyframe
    return (keyframe + (interval - 1) * _seconds(lambda: engine.next(state, following), device)) / interval


def _run_all(engine: Engine, size: tuple[int, int]) -> State:
    """The state after as many frames of noise as run each of the method's networks."""
    seen = engine.see(noise(size))
    state = engine.first(seen)
    for _ in range(engine.method.frames - 1):
        seen = engine.see(noise(size), seen)
        state = engine.next(state, seen)
    return state


def noise(size: tuple[int, int]) -> torch.Tensor:
    """A random frame (1,H,W,3) uint8."""
    return torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _set_up(name: str, net: GSVNet, size: tuple[int, int], **settings: Any) -> Engine:
    """Build the engine and, unless "eager", run all its networks, before which some do not fail. Raises UserError."""
    if name == Engine.name:
        return build_engine(name, net, **settings)
    try:
        engine = build_engine(name, net, **settings)
        _run_all(engine, size)
    except UserError:
        raise
    except Exception as error:  # compilers and runtimes raise errors of many kinds
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--engine {name} does not work here: {first[:200]}; {FIXES[name]}") from error
    return engine


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of several times: whatever else the machine does only adds to it."""
    work()  # CUDA graphs are recorded in the second call, not the first
    times: list[float] = []
    while len(times) < REPEATS[0] or (len(times) < REPEATS[1] and sum(times) < PATIENCE):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return min(times)

