"""The engine of a stream: the one that is named, or the quickest here for frames of its size."""
import time
from collections.abc import Callable

import torch

from config.errors import UserError
from inference.engines import CompiledEngine, Engine, OnnxEngine, build_engine
from models.gsvnet import GSVNet
from utils.device import synchronise
from utils.logging import logger

# Seconds until the first frame, about what two processor cores take; engines are tried in this order.
SET_UP = {Engine.name: 0.0, OnnxEngine.name: 10.0, CompiledEngine.name: 60.0}
HOPE = 0.5  # share of the time that another engine may save: what its set-up is weighed against
REPEATS, PATIENCE = (3, 15), 1.0  # how often a step is measured: at least, at most; and seconds after which no more
REMEDIES = {
    OnnxEngine.name: "use --engine eager or compile",
    CompiledEngine.name: "it wants a C++ compiler, on a GPU Triton; or use --engine eager or onnx",
}


def choose_engine(
    name: str, net: GSVNet, *, size: tuple[int, int], interval: int, scale: float, device: torch.device, amp: str = "off",
    frames: int | None = None,
) -> Engine:
    """The engine for frames of `size` (H,W), a keyframe every `interval` of them; set up, except for "eager".

    name: of `engines.ENGINES`, or "auto": each is tried on one frame, if the number of `frames` to come pays for its set-up
    (None: not known, any set-up pays), and the quickest taken; one log line says which, and why. Raises UserError where
    the one that is named cannot be had; auto leaves it out.
    """
    if name == Engine.name:
        return build_engine(name, net, scale=scale, device=device, amp=amp)
    if name != "auto":
        return _set_up(name, net, size, scale=scale, device=device, amp=amp)
    logger.info("--engine auto: trying which is the quickest here")
    found: dict[str, tuple[float, Engine]] = {}
    remarks = []
    for candidate, seconds in SET_UP.items():
        best = min((cost for cost, _ in found.values()), default=0.0)
        if found and frames is not None and frames * best * HOPE < seconds:
            remarks.append(f"{candidate} not tried, {frames} frames hardly pay for its set-up")
            continue
        try:
            engine = _set_up(candidate, net, size, scale=scale, device=device, amp=amp)
        except UserError as error:
            remarks.append(f"{candidate} left out: {str(error).removeprefix(f'--engine {candidate}').lstrip(' :')}")
            continue
        found[candidate] = seconds_a_frame(engine, size, interval, device), engine
        remarks.append(f"{candidate} {1e3 * found[candidate][0]:.1f} ms")
    chosen = min(found, key=lambda candidate: found[candidate][0])
    logger.info("--engine auto: %s; a frame at interval %d: %s", chosen, interval, "; ".join(remarks))
    return found[chosen][1]


def seconds_a_frame(engine: Engine, size: tuple[int, int], interval: int, device: torch.device) -> float:
    """What keyframe and propagation take on average, at that keyframe interval, without view and label map."""
    image = noise(size)
    view = engine.view(image)
    state = engine.keyframe(image, view)
    keyframe = _seconds(lambda: engine.keyframe(image, view), device)
    if interval == 1:
        return keyframe
    return (keyframe + (interval - 1) * _seconds(lambda: engine.propagate(state, view), device)) / interval


def noise(size: tuple[int, int]) -> torch.Tensor:
    """A frame (1,H,W,3) uint8."""
    return torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _set_up(name: str, net: GSVNet, size: tuple[int, int], *, scale: float, device: torch.device, amp: str) -> Engine:
    """Build the engine and take it through two frames, since some fail no earlier. Raises UserError."""
    try:
        engine = build_engine(name, net, scale=scale, device=device, amp=amp)
        image = noise(size)
        view = engine.view(image)
        engine.propagate(engine.keyframe(image, view), view)
    except UserError:
        raise
    except Exception as error:  # of whatever kind compilers and runtimes raise; other engines may do
        if name == Engine.name:
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--engine {name} does not work here: {first[:200]}; {REMEDIES[name]}") from error
    return engine


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of several times: what else the machine does meanwhile is no property of the engine."""
    work()  # a GPU's graphs are recorded in the second call, not the first
    times: list[float] = []
    while len(times) < REPEATS[0] or (len(times) < REPEATS[1] and sum(times) < PATIENCE):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return min(times)

