"""Segment video as it comes: frames in, label maps out."""
import operator
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.command_line import parse, resolve
from config.errors import UserError
from config.options import OF_AMP, Options
from config.segmenters import check_segmenter_name
from inference.calibration import calibration_pairs
from inference.engines import Engine, build_engine
from inference.keyframe_schedule import NEVER, FixedInterval, Schedule, build_schedule
from models.gsvnet import GSVNet, State, joined
from models.load import chosen_by_val, networks_for_inference
from models.load_segmenter import colours_of
from models.methods.base import SeenFrame, together
from models.resize import align
from utils.run_folder import run_options


@dataclass(frozen=True)
class StreamState:
    """Where a stream is: the method's state after its last frame (N = 1), that frame, and the number of frames since
    the last keyframe."""

    last: State
    seen: SeenFrame
    since: int

    @property
    def is_keyframe(self) -> bool:
        return self.since == 0


class VideoSegmenter:
    """Segments one stream of frames.

    segmenter = VideoSegmenter.from_run("logs/run/.../experiment_0")
    for labels in segmenter.stream(frames): ...      # or labels = segmenter(frame), one at a time

    Frames are (H,W,3) uint8 RGB, labels (H,W) uint8 indices into `classes`, names. A frame of another size begins a new
    stream. `state` is None before the first frame.
    """

    def __init__(
        self, net: GSVNet, *, schedule: Schedule | None = None, scale: float = 0.75, engine: str | Engine = "eager",
        device: torch.device | str = "cpu", precision: str = "fp32", amp: str = "", method: str = "gsv",
        carry: str = "logits", calibrate: str | Path = "",
    ):
        """net: its weights are copied. schedule: when a frame becomes a keyframe, by default every third. engine: one
        of `engines.ENGINES`, or an engine, which several segmenters may share. precision: as --precision; amp: its
        earlier name. calibrate: for int8, a video or a folder of pictures. method: gsv, warp, copy or per-frame; carry:
        what warp and copy move, logits or labels."""
        if isinstance(engine, str):
            settings: dict[str, Any] = {"scale": scale, "device": torch.device(device), "method": method}
            pairs = calibration_pairs(str(calibrate)) if precision == "int8" and calibrate else ()
            named = OF_AMP.get(amp, amp) or precision
            if precision not in ("fp32", named):
                raise UserError(f"amp {amp} and precision {precision} are two precisions; drop amp")
            precision = named
            engine = build_engine(engine, net, precision=precision, carry=carry, calibration=pairs, **settings)
        if not isinstance(engine, Engine):
            raise UserError(f"engine must be the name of one, or an Engine, not {engine!r}")
        usual = FixedInterval(3 if engine.method.keyframes else NEVER)
        self.engine, self.schedule, self.classes = engine, schedule or usual, net.segmenter.names
        self.colours = colours_of(net.segmenter)
        self.state: StreamState | None = None

    @classmethod
    def from_options(cls, options: Options, device: torch.device | str = "cpu", **settings: Any) -> "VideoSegmenter":
        """From the networks that the command line's options name."""
        names = ("scale", "precision", "method", "carry", "calibrate")
        found = {name: getattr(options, name) for name in names}
        settings = {**found, "schedule": build_schedule(options), **settings}
        return cls(networks_for_inference(options), device=device, **settings)

    @classmethod
    def from_run(cls, folder: str | Path, segnet: str = "", **settings: Any) -> "VideoSegmenter":
        """From a propagation run's folder, with the segmenter that it was trained on. segnet: that one's name again,
        where building it runs a user's code or downloads something. As in --method auto, labels are moved along DIS
        where the run's val found the propagation no better; settings with a `method` decide it. Raises UserError."""
        options = run_options(Path(folder), segnet)
        if "method" not in settings:
            options = chosen_by_val(options)
        return cls.from_options(options, **settings)

    @classmethod
    def from_segmenter(cls, segnet: str, weights: str = "", **settings: Any) -> "VideoSegmenter":
        """Without any training: a segmenter by its name of --segnet, whose labels are moved along DIS between
        keyframes. weights: its file, where it takes one. Raises UserError."""
        given = {"segnet": segnet, "segnet_weights": weights, "method": "warp", "optical_flow_network": "dis",
                 "carry": "labels", "video": "frames", "output": ("labels",)}  # of a video, the classes are its own
        check_segmenter_name(segnet)
        return cls.from_options(resolve({name: value for name, value in given.items() if value}), **settings)

    @classmethod
    def from_released(cls, weights_dir: str | Path, segnet: str = "swiftnet", **settings: Any) -> "VideoSegmenter":
        """From the released files (weights/README.md). Raises UserError."""
        words = ["--weights-dir", str(weights_dir), "--segnet", segnet, "--resume", "1"]
        return cls.from_options(parse(words), **settings)

    @property
    def was_keyframe(self) -> bool:
        """Whether the last frame was one."""
        return self.state is not None and self.state.is_keyframe

    def reset(self) -> None:
        """Begin a new stream: the next frame is a keyframe."""
        self.state = None
        self.schedule.reset()

    def stream(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Labels of a new stream's frames, one after the other."""
        self.reset()
        for frame in frames:
            yield self(frame)

    def __call__(self, frame: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """The next frame -> its labels at `size`, the frame's own by default. Raises UserError and keeps the state."""
        began = time.perf_counter()
        return self.labels_of(self.see(frame, None if self.state is None else self.state.seen), size, began)

    def see(self, frame: np.ndarray, before: SeenFrame | None) -> SeenFrame:
        """What `labels_of` takes, of a frame (H,W,3); another thread may compute it. before: that of the frame that it
        follows. Raises UserError."""
        image = as_image(frame)
        since = 0 if before is None or before.size != (image.shape[1], image.shape[2]) else before.since + 1
        if self.schedule.is_certain(since):
            return self.engine.see(image)
        return replace(self.engine.see(image, before), since=since)

    def labels_of(
        self, seen: SeenFrame, size: tuple[int, int] | None = None, began: float | None = None
    ) -> np.ndarray:
        """As a call, for the next frame as `see` returns it; began: when work on it did, if not now."""
        began, size = began or time.perf_counter(), None if size is None else as_size(size)
        self.state = self.advance(self.state, seen)
        labels = self.engine.labels(self.state.last, size or seen.size).numpy()  # (H,W)
        self.schedule.spent(self.state.is_keyframe, time.perf_counter() - began)
        return labels

    def logits(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Logits (C,h,w) float32 of the last frame on the propagation grid, or align-upsampled to `size`."""
        if self.state is None:
            raise UserError("VideoSegmenter.logits: no frame has been segmented yet")
        if self.state.last.labels is not None:
            raise UserError(
                "VideoSegmenter.logits: there are none where a method has labels at full size (carry=\"labels\", "
                "method=\"accel\")"
            )
        logits = self.state.last.logits
        return (logits if size is None else align(logits, as_size(size)))[0].cpu().numpy()  # (C,h,w) or (C,H,W)

    def advance(self, state: StreamState | None, seen: SeenFrame) -> StreamState:
        """The state after a frame that follows `state`; keeps nothing."""
        if state is not None and state.seen.size == seen.size:
            since = state.since + 1
            if not self.schedule.needs_keyframe(since, state.seen, seen):
                if seen.flow is None:  # seen alone, or as a keyframe
                    seen = self.engine.follow(state.seen, seen)
                return StreamState(self.engine.next(state.last, seen), seen, since)
        return StreamState(self.engine.first(seen), seen, 0)


class CameraGroup:
    """Several streams of one frame size at once, a keyframe every `interval` frames in each.

    Keyframes are staggered: each call computes as many as any other, or one more. Keyframes go through the networks as
    one batch, propagated frames as another, where the engine takes batches and unless `batched` is False. A stream's
    first frame is always a keyframe.
    """

    def __init__(self, engine: Engine, count: int, interval: int = 3, *, batched: bool = True):
        if not all(isinstance(x, Integral) and x >= 1 for x in (count, interval)):
            raise UserError(f"CameraGroup: count and interval must be whole numbers from 1, not {count} and {interval}")
        if not engine.method.keyframes:
            raise UserError("CameraGroup: this method has no keyframes; use a VideoSegmenter for each stream")
        self.engine, self.interval, self.batched = engine, interval, batched and engine.batched
        self.phase = [number * interval // count for number in range(count)]
        self.states: list[StreamState | None] = [None] * count
        self.time = 0

    def reset(self, number: int) -> None:
        """Begin stream `number` anew: its next frame is a keyframe."""
        if not 0 <= number < len(self.states):
            raise UserError(f"CameraGroup.reset: no stream {number}; streams are numbered 0 to {len(self.states) - 1}")
        self.states[number] = None

    def __call__(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The next frame of every stream, (H,W,3) uint8 RGB each -> their labels (H,W) uint8.

        Raises UserError and changes no state.
        """
        if len(frames) != len(self.states):
            raise UserError(f"CameraGroup: {len(frames)} frames for {len(self.states)} streams")
        images = [as_image(frame) for frame in frames]
        if len({image.shape for image in images}) > 1:
            raise UserError("CameraGroup: the frames of a call differ in size; use a VideoSegmenter for each stream")
        size = images[0].shape[1], images[0].shape[2]
        propagated = {
            i: state for i, state in enumerate(self.states)
            if state is not None and state.seen.size == size and (self.time + self.phase[i]) % self.interval
        }
        seen = [
            self.engine.see(image, propagated[i].seen if i in propagated else None) for i, image in enumerate(images)
        ]
        after: dict[int, State] = {}  # of each stream
        for part in self._batches([i for i in range(len(frames)) if i not in propagated]):
            after |= zip(part, self.engine.first(together([seen[i] for i in part])).split())
        for part in self._batches(list(propagated)):
            state = joined([propagated[i].last for i in part])
            after |= zip(part, self.engine.next(state, together([seen[i] for i in part])).split())
        self.states = [
            StreamState(after[i], seen[i], propagated[i].since + 1 if i in propagated else 0)
            for i in range(len(frames))
        ]
        self.time += 1
        return [self.engine.labels(after[i], seen[i].size).numpy() for i in range(len(frames))]

    def _batches(self, numbers: list[int]) -> list[list[int]]:
        """The streams as one batch, or one by one."""
        return ([numbers] if numbers else []) if self.batched else [[i] for i in numbers]


def as_image(frame: np.ndarray) -> Tensor:
    """(H,W,3) uint8 -> (1,H,W,3). Raises UserError for anything else."""
    try:
        array = np.asarray(frame)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors on a GPU
        found = f"{type(frame).__name__} ({str(error).splitlines()[0]})"
        raise UserError(f"a frame must be an (H,W,3) uint8 RGB array, not {found}") from error
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise UserError(f"a frame must be an (H,W,3) uint8 RGB array, not {array.dtype} of shape {array.shape}")
    return torch.from_numpy(np.require(array, requirements=("C", "W")))[None]  # torch warns about read-only arrays


def as_size(size: Sequence[int]) -> tuple[int, int]:
    """(H,W) as two int. Raises UserError for anything else."""
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise UserError(f"a size must be (H,W), two whole numbers of at least 1, not {size!r}")
    return height, width
