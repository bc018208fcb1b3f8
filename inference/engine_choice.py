"""Choose engine and precision of a stream: by name, or the fastest on this machine for its frame size."""
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from config.errors import UserError
from inference.calibration import Calibrate, resized
from inference.engines import (
    Candidate,
    CompiledEngine,
    Engine,
    OnnxEngine,
    OpenVinoEngine,
    build_engine,
    candidates,
    check_precision,
    shown,
)
from inference.keyframe_schedule import NEVER, FixedInterval
from inference.quantised import cache_folder
from inference.stream import VideoSegmenter
from models.gsvnet import GSVNet, State
from models.identity import digest_of
from utils.device import synchronise
from utils.files import write_json
from utils.logging import logger
from utils.machine import processor, processor_flags

# Seconds until the first frame on about two processor cores; the cheapest are tried first.
SET_UP = {Engine.name: 0.0, OnnxEngine.name: 10.0, OpenVinoEngine.name: 10.0, CompiledEngine.name: 60.0}
QUANTISING = 30.0  # more for int8
HOPE = 0.5  # share of the time that another engine may save, which its set-up has to be worth
REPEATS, PATIENCE = (3, 15), 1.0  # measurements of a step: at least, at most; seconds after which they stop
FIXES = {
    OnnxEngine.name: "use --engine eager or compile",
    OpenVinoEngine.name: "use --engine eager, compile or onnx",
    CompiledEngine.name: "it requires a C++ compiler, and Triton on a GPU; or use --engine eager or onnx",
}
AUTO = "auto"
PACKAGES = ("torch", "onnxruntime", "openvino", "nncf")
class Trial(NamedTuple):
    """What was measured of a candidate. seconds: an average frame's. agreement: share of pixels with the label of
    eager's float32; None where it was not asked for."""

    seconds: float
    agreement: float | None = None


def choose_engine(
    name: str, net: GSVNet, *, size: tuple[int, int], interval: int, device: torch.device, precision: str = "fp32",
    frames: int | None = None, calibrate: Calibrate = tuple, agreement: float = 0.99, **settings: Any,
) -> Engine:
    """The engine for frames of `size` (H,W) with a keyframe every `interval` frames, set up unless "eager".

    name: one of `engines.ENGINES`, or "auto"; precision: one that the engine has, or "auto". Auto tries each on one
    frame, unless `frames` (None: unknown) are too few for its set-up, and takes the fastest, of other precisions than
    float32 only those that keep the share `agreement` of its labels on the frames of `calibrate`; one log line reports
    why. settings: others of `build_engine`. Raises UserError if what is named does not work here; auto skips it.
    """
    choice = Choice(net, size, interval, calibrate, dict(device=device, **settings))
    if AUTO not in (name, precision):
        return choice.set_up((name, precision))
    logger.info("%s: trying which is the fastest here", "--engine auto" if name == AUTO else "--precision auto")
    tried = sorted(candidates(name, precision, device), key=set_up_seconds)
    return choice.fastest(tried, frames, agreement if precision == AUTO else None)


class Choice:
    """Sets up and measures engines for one network, frame size and keyframe interval.

    Measurements are kept in the cache folder for this machine, its threads, the packages' versions and the weights.
    settings: of `build_engine`.
    """

    def __init__(
        self, net: GSVNet, size: tuple[int, int], interval: int, calibrate: Calibrate, settings: dict[str, Any]
    ):
        self.net, self.size, self.interval, self.settings = net, size, interval, settings
        self.engines: dict[Candidate, Engine] = {}  # those that were set up
        self.pairs: Calibrate = cache(lambda: resized(calibrate(), size))
        self.expected = cache(lambda: self.labels(self.set_up((Engine.name, "fp32"))))

    def set_up(self, candidate: Candidate) -> Engine:
        """Build the engine and, unless "eager", run all its networks: some fail no sooner. Raises UserError."""
        name, precision = candidate
        check_precision(name, precision, self.settings["device"])  # before frames are read
        pairs = self.pairs() if precision == "int8" else ()
        try:
            engine = build_engine(name, self.net, precision=precision, calibration=pairs, **self.settings)
            if name != Engine.name:
                _run_all(engine, self.size)
        except UserError:
            raise
        except Exception as error:  # compilers and runtimes raise errors of many kinds
            if name == Engine.name:
                raise
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"--engine {name} does not work here: {first[:200]}; {FIXES[name]}") from error
        return engine

    def fastest(self, tried: Sequence[Candidate], frames: int | None, least: float | None) -> Engine:
        """The fastest candidate; least: the agreement that a precision other than float32 must have, None: any."""
        place = self.place(judged=least is not None)
        trials, found, remarks, left = read_trials(place), dict[Candidate, float](), list[str](), list[str]()
        before = {**trials}
        for candidate in tried:
            name, best = shown(candidate), min(found.values(), default=0.0)
            if found and frames is not None and frames * best * HOPE < set_up_seconds(candidate):
                left.append(name)
                continue
            judged = least is not None and candidate[1] != "fp32"
            try:
                trials[name] = trial = self.trial(candidate, trials.get(name), judged)
            except UserError as error:
                reason = str(error).removeprefix(f"--engine {candidate[0]}").lstrip(" :")
                remarks.append(f"{name} skipped: {reason}")
                continue
            remarks.append(f"{name} {1e3 * trial.seconds:.1f} ms")
            if judged and least is not None and trial.agreement is not None:
                low = trial.agreement < least
                below = f", below --agreement {least:g}" if low else ""
                remarks[-1] += f" with {100 * trial.agreement:.2f} % of the labels{below}"
                if low:
                    continue
            found[candidate] = trial.seconds
        if any(trials[shown(each)] is before.get(shown(each)) for each in found):
            remarks.append(f"measured by an earlier run; delete {place} to measure again")
        if left:
            remarks.append(f"not tried, {frames} frames are not worth the set-up: {', '.join(left)}")
        if not found:
            raise UserError(f"--engine auto: no engine works here; {'; '.join(remarks)}")
        with suppress(UserError):  # a folder that cannot be written
            write_json(place, trials)
        chosen = min(found, key=lambda candidate: found[candidate])
        logger.info("--engine auto: %s; a frame at interval %d: %s", shown(chosen), self.interval, "; ".join(remarks))
        return self.engines.get(chosen) or self.set_up(chosen)

    def trial(self, candidate: Candidate, known: Trial | None, judged: bool) -> Trial:
        """Measure a candidate, unless that is known. judged: its labels too. Raises UserError if it does not work."""
        if known is not None and not (judged and known.agreement is None):
            return known
        engine = self.engines[candidate] = self.set_up(candidate)
        share = agreement_of(self.labels(engine), self.expected()) if judged else None
        return Trial(seconds_a_frame(engine, self.size, self.interval, self.settings["device"]), share)

    def labels(self, engine: Engine) -> list[np.ndarray]:
        """Label maps (2,H,W) of the calibration's pairs: a keyframe and the frame after it."""
        stream = VideoSegmenter(self.net, engine=engine, schedule=FixedInterval(NEVER))
        return [np.stack([*stream.stream(pair)]) for pair in self.pairs()]

    def place(self, *, judged: bool) -> Path:
        """The file of measurements; judged: of labels too, which are those of the calibration's frames."""
        frames = [sha256(image.tobytes()).hexdigest() for pair in self.pairs() for image in pair] if judged else []
        versions = sorted({(x.name, x.version) for x in distributions() if x.name in PACKAGES})
        parts = (
            processor(), processor_flags(), torch.get_num_threads(), versions,
            self.size, self.interval, frames, {name: str(value) for name, value in self.settings.items()},
            [digest_of(part) for part in (self.net.segmenter, self.net.flow, self.net.guided)],
        )
        return cache_folder() / f"engines-{sha256(repr(parts).encode()).hexdigest()[:32]}.json"


def agreement_of(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Share of pixels with the expected label, of streams (T,H,W); of the T positions the worst."""
    equal = [[float((a == b).mean()) for a, b in zip(*pair)] for pair in zip(found, expected, strict=True)]
    return float(np.mean(equal, axis=0).min())


def set_up_seconds(candidate: Candidate) -> float:
    """Seconds until its first frame."""
    return SET_UP[candidate[0]] + (QUANTISING if candidate[1] == "int8" else 0.0)


def read_trials(path: Path) -> dict[str, Trial]:
    """The measurements of an earlier run, by candidate as `shown`; none if there is no such file, or a damaged one."""
    try:
        found = {name: Trial(*values) for name, values in json.loads(path.read_text()).items()}
        sound = all(0 < each.seconds < float("inf") and 0 <= (each.agreement or 0) <= 1 for each in found.values())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return found if sound else {}


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

