"""The content of metrics.json of segmentation, as all its writers and readers use it (stage flow: `FlowErrors`)."""
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch

from config.errors import UserError
from utils.metrics import ConfusionMatrix, scores

T = TypeVar("T")
Fraction = float | int | None  # 0..1; None: unknown


@dataclass(frozen=True, kw_only=True)
class PositionScores:
    """Scores of labelled frames, each `position` frames after its keyframe; `confusion` (C,C), labels by row."""

    position: int
    frames: int
    miou: Fraction
    pixel_accuracy: Fraction = None
    mean_class_accuracy: Fraction = None
    frequency_weighted_iou: Fraction = None
    class_iou: dict[str, Fraction] = field(default_factory=dict)
    confusion: list[list[int]]


@dataclass(frozen=True, kw_only=True)
class TemporalScores:
    """Consistency over `pairs` of consecutive frames and, by window length (frames, as text), over `windows`."""

    pairs: int
    tc: Fraction
    tc_visible: Fraction
    mvc: dict[str, Fraction]
    mvc_right: dict[str, Fraction]
    windows: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class IntervalScores:
    """Mean, pooled and least mIoU over positions 0..interval-1; interval 0: over all that are `steady`, see `Metrics`.
    `temporal` where consistency over time was measured."""

    interval: int
    mean_miou: Fraction
    pooled_miou: Fraction
    min_miou: Fraction
    temporal: TemporalScores | None = None  # its keys follow those above: JSON has no level for it


@dataclass(frozen=True, kw_only=True)
class WorstFrame:
    """A frame that lost much mIoU from the first to the last position."""

    name: str
    path: str
    first_position: int
    last_position: int
    first_miou: Fraction
    last_miou: Fraction
    lost: Fraction


@dataclass(frozen=True, kw_only=True)
class ScheduleUse:
    """The keyframe schedule that was evaluated as one stream a video, and how many keyframes it chose."""

    name: str
    frames: int
    keyframes: int


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What an evaluation of one method found; the fields are in the order of the file's keys. avg_miou: mean of the
    positions' mIoUs, the field's usual definition. pooled_miou: mIoU of the summed matrices, the released program's
    average. reference: what the labels are, the data set's or the segmenter's own. schedule: of streams, in place of
    positions that all frames have. steady: of a method without keyframes, the first position with a whole memory; the
    averages are over that and the later ones. milliseconds: of a frame on average, by keyframe interval.
    flow_settings: of DIS. Written only where they were determined: `temporal_flow`, `reference_temporal`,
    `flow_settings`, `schedule`, `steady`, `milliseconds`, `worst`; and unless they are val, labels, logits, 8 and plain
    PyTorch in float32: `split`, `reference`, `carry`, `grid`, `engine`, `precision`."""

    dataset: str
    split: str = "val"
    segnet: str
    flow: str
    intra: bool = True
    edge: bool = True
    method: str
    scale: float | int
    carry: str = "logits"
    engine: str = "eager"
    precision: str = "fp32"
    grid: int = 8
    flow_settings: dict[str, Any] | None = None
    reference: str = "labels"
    schedule: ScheduleUse | None = None
    steady: int | None = None
    classes: Sequence[str] = ()
    positions: tuple[PositionScores, ...]
    avg_miou: Fraction = None
    pooled_miou: Fraction = None
    min_miou: Fraction = None
    intervals: tuple[IntervalScores, ...] = ()
    temporal_flow: str | None = None
    reference_temporal: TemporalScores | None = None
    milliseconds: dict[str, Fraction] | None = None
    worst: tuple[WorstFrame, ...] | None = None

    @classmethod
    def from_matrices(
        cls, matrices: Mapping[int, ConfusionMatrix], *, classes: Sequence[str],
        temporal: Mapping[int, TemporalScores] | None = None, **settings: Any,
    ) -> "Metrics":
        """Score confusion matrices by position. temporal: by keyframe interval; settings: all other fields."""
        positions = tuple(_position_scores(k, matrix, classes) for k, matrix in sorted(matrices.items()))
        # The positions of a stream with a schedule hold different frames: no average over an interval.
        longest, steady = positions[-1].position + 1 if settings.get("schedule") is None else 0, settings.get("steady")
        temporal = temporal or {}
        rows = [over_interval(positions, n, temporal.get(n)) for n in range(1, longest + 1)]
        whole = _averages([row for row in positions if row.position >= (steady or 0)])
        if steady is not None:
            rows = [IntervalScores(interval=0, **whole, temporal=next(iter(temporal.values()), None))]
        found = tuple(row for row in rows if row is not None)
        settings |= {"avg_miou": whole.pop("mean_miou"), **whole}
        return cls(classes=list(classes), positions=positions, intervals=found, **settings)

    def to_json(self) -> dict:
        """The content of the file."""
        content = asdict(self)
        for row in content["intervals"]:
            row |= row.pop("temporal") or {}
        usual: dict[str, Any] = {"split": "val", "reference": "labels", "carry": "logits"}  # not written
        usual |= {"engine": "eager", "precision": "fp32", "grid": 8}
        known = ("temporal_flow", "reference_temporal", "flow_settings", "schedule", "steady", "milliseconds", "worst")
        usual |= dict.fromkeys(known)
        return {key: x for key, x in content.items() if key not in usual or x != usual[key]}

    @classmethod
    def from_json(cls, content: object) -> "Metrics":
        """The content of a file -> metrics. Raises ValueError where it is not that of a metrics.json."""
        found = _read(cls, content)
        matrices = [x.confusion for x in found.positions]
        if not matrices or not all(matrices) or any(len(row) != len(matrix) for matrix in matrices for row in matrix):
            raise ValueError("positions without a square confusion matrix")
        return found


def read_metrics(path: Path) -> Metrics:
    """Read a metrics.json. Raises UserError."""
    try:
        return Metrics.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a metrics.json ({error}); use one that --evaluate 1 wrote") from error


def over_interval(
    positions: Sequence[PositionScores], interval: int, temporal: TemporalScores | None = None
) -> IntervalScores | None:
    """Mean, pooled and least mIoU over positions 0..interval-1; None if one is unknown or was not evaluated."""
    rows = {row.position: row for row in positions if row.position < interval and row.miou is not None}
    if len(rows) < interval:
        return None
    return IntervalScores(interval=interval, **_averages([*rows.values()]), temporal=temporal)


def _position_scores(position: int, matrix: ConfusionMatrix, classes: Sequence[str]) -> PositionScores:
    found = asdict(scores(matrix.counts)) | {"frames": matrix.frames, "confusion": matrix.counts.tolist()}
    found["class_iou"] = dict(zip(classes, found["class_iou"]))
    return PositionScores(position=position, **found)


def _averages(positions: Sequence[PositionScores]) -> dict[str, Any]:
    known = [row.miou for row in positions if row.miou is not None]
    mean = sum(known) / len(known) if known else None
    pooled = scores(torch.tensor([row.confusion for row in positions]).sum(dim=0)).miou if positions else None  # (C,C)
    return {"mean_miou": mean, "pooled_miou": pooled, "min_miou": min(known, default=None)}


def _read(kind: type[T], content: object) -> T:
    """A JSON object -> the dataclass `kind`. Raises ValueError where a key is missing or its value has another type."""
    if not isinstance(content, Mapping):
        raise ValueError(f"expected an object, found {type(content).__name__}")
    required = {x.name for x in fields(kind) if x.default is MISSING is x.default_factory}  # type: ignore[arg-type]
    if missing := sorted(required - set(content)):
        raise ValueError(f"no {', '.join(missing)} in it")
    types = {name: hint for name, hint in get_type_hints(kind).items() if name in content}
    for name, hint in types.items():
        if not isinstance(content[name], hint if hint in SIMPLE else list | dict):
            raise ValueError(f"{name} is {str(content[name])[:40]!r}")
    found = {x: tuple(_read(ROWS[x], row) for row in content[x]) if x in ROWS else content[x] for x in types}
    found |= {x: _read(PARTS[x], content[x]) for x in types if x in PARTS and content[x] is not None}
    if kind is IntervalScores and "tc" in content:
        found["temporal"] = _read(TemporalScores, content)
    return kind(**found)


ROWS = {"positions": PositionScores, "intervals": IntervalScores, "worst": WorstFrame}
PARTS = {"schedule": ScheduleUse, "reference_temporal": TemporalScores}
SIMPLE = (str, int, int | None, bool, float | int, Fraction, str | None)
