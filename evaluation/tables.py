"""The metrics of an evaluation as tables: for the console, as Markdown, as CSV."""
import csv
import io
from collections.abc import Sequence

from evaluation.metrics_json import Metrics
from utils.text_table import Table

AVERAGES = (("avg_miou", "average over positions"), ("pooled_miou", "pooled over positions"), ("min_miou", "minimum"))
POSITION_COLUMNS = {
    "miou": "mIoU", "pixel_accuracy": "pixel acc.", "mean_class_accuracy": "class acc.",
    "frequency_weighted_iou": "fw IoU",
}


def percent(x: float | None) -> str:
    """A fraction 0..1 in per cent; a dash where it is unknown."""
    return "-" if x is None else f"{100 * x:.2f}"


def positions_table(metrics: Metrics) -> Table:
    """Scores of each position, the frames counted."""
    rows = [
        (str(row.position), str(row.frames), *(percent(getattr(row, key)) for key in POSITION_COLUMNS))
        for row in metrics.positions
    ]
    return Table("By frames since the keyframe", ("position", "frames", *POSITION_COLUMNS.values()), tuple(rows))


def interval_columns(metrics: Metrics) -> dict[str, list[float | None]]:
    """By heading, a fraction for each keyframe interval: mIoU over the positions 0..n-1 of interval n and, where it was
    measured, consistency over time."""
    rows = metrics.intervals
    columns = {f"{key} mIoU": [getattr(row, f"{key}_miou") for row in rows] for key in ("mean", "pooled", "min")}
    if temporal := [row.temporal for row in rows if row.temporal is not None]:
        columns |= {"TC": [x.tc for x in temporal], "TC visible": [x.tc_visible for x in temporal]}
        for window in temporal[0].mvc:
            if any(x.mvc[window] is not None for x in temporal):
                columns[f"mVC{window}"] = [x.mvc[window] for x in temporal]
                columns[f"mVC{window} right"] = [x.mvc_right[window] for x in temporal]
    return columns


def tables(metrics: Metrics) -> list[Table]:
    """All tables that have rows: by position, by keyframe interval, by class, and the frames that lost most."""
    columns, positions, worst = interval_columns(metrics), metrics.positions, metrics.worst or ()
    times = metrics.milliseconds or {}
    by_interval = [
        (str(row.interval or "none"), *map(percent, x)) for row, x in zip(metrics.intervals, zip(*columns.values()))
    ]
    by_class = [(name, *(percent(row.class_iou[name]) for row in positions)) for name in metrics.classes]
    ends = [f"mIoU at position {k}" for x in worst[:1] for k in (x.first_position, x.last_position)]
    lost = [(x.path, percent(x.first_miou), percent(x.last_miou), percent(x.lost)) for x in worst]
    found = (
        positions_table(metrics), Table("By keyframe interval", ("interval", *columns), tuple(by_interval)),
        Table("IoU by class and position", ("class", *(str(row.position) for row in positions)), tuple(by_class)),
        Table("Frames that lost most", ("frame", *ends, "lost"), tuple(lost)),
        Table("Milliseconds a frame by keyframe interval", ("interval", "ms", "x faster than every frame segmented"),
              tuple((n, f"{x or 0:.1f}", f"{(times['1'] or 0) / (x or 1):.2f}") for n, x in times.items())),
    )
    return [table for table in found if table.rows]


def averages(metrics: Metrics) -> list[str]:
    """One line for each average over positions."""
    return [f"mIoU, {text}: {percent(getattr(metrics, key))}" for key, text in AVERAGES]


def stream_line(metrics: Metrics) -> list[str]:
    """What a schedule chose and reached, if one was evaluated."""
    if metrics.schedule is None:
        return []
    use = metrics.schedule
    return [
        f"schedule {use.name}: {use.keyframes} keyframes in {use.frames} frames, {percent(use.keyframes / use.frames)} "
        f"%, one in {use.frames / use.keyframes:.2f}; mIoU of the stream {percent(metrics.pooled_miou)}"
    ]


def steady_lines(metrics: Metrics) -> list[str]:
    """What positions and averages mean, where a method has no keyframes."""
    if metrics.steady is None:
        return []
    known = "" if metrics.avg_miou is not None else ", of which none was evaluated: choose a larger --eval-multi-step"
    return [
        f"This method has no keyframes. Position: frames since the stream's first; the first {metrics.steady} lack a "
        f"part of the memory, and averages are over positions from {metrics.steady} on{known}."
    ]


def reference_lines(metrics: Metrics) -> list[str]:
    """How consistent the labels themselves are, where they are the segmenter's own."""
    found = metrics.reference_temporal
    if found is None:
        return []
    return [f"TC of the segmenter's own labels: {percent(found.tc)}, visible: {percent(found.tc_visible)}"]


def heading(metrics: Metrics) -> str:
    """Data set, method, networks and scale in a line."""
    flow = f", {metrics.flow} flow" if metrics.method in ("gsv", "warp") else ""
    if metrics.method == "gsv":
        flow += "" if metrics.intra else ", without intra features"
        flow += "" if metrics.edge else ", without edge map"
    flow += f", {metrics.carry} carried" if metrics.carry != "logits" else ""
    by = "" if (metrics.engine, metrics.precision) == ("eager", "fp32") else f", {metrics.engine} {metrics.precision}"
    against = ", compared with the segmenter's own labels" if metrics.reference == "segmenter" else ""
    data = f"{metrics.dataset} {metrics.split}"
    return f"{data}: {metrics.method}, {metrics.segnet}{flow}, keyframes at scale {metrics.scale:g}{by}{against}"


def notes(metrics: Metrics) -> list[str]:
    """Explanations of the columns."""
    lines = [
        "Position: frames since the keyframe. Average: mean of the positions' mIoUs; pooled: mIoU of their summed "
        "confusion matrices, which the published program calls average. Classes that are neither labelled nor "
        "predicted are left out."
    ]
    if metrics.reference == "segmenter":
        lines.append(
            "Labels are the segmenter's own of the same frame, at full size: pixel accuracy is the share of pixels "
            "that agree with them, and position 0 shows what the grid costs."
        )
    lines += [*steady_lines(metrics), *stream_line(metrics), *reference_lines(metrics)]
    if metrics.temporal_flow:
        lines.append(
            "TC: mIoU between the label map of each frame and the next frame's, brought back by optical flow "
            f"({metrics.temporal_flow}); visible: only pixels that the next frame shows. mVCn: of the pixels whose "
            "label stays the same for n frames, the share whose prediction does too; right: and equals the label. "
            "Neither measures accuracy: read them together with mIoU."
        )
    return lines


def console(metrics: Metrics) -> list[str]:
    """Lines for a terminal."""
    return [heading(metrics), *(line for table in tables(metrics) for line in table.console()), *averages(metrics),
            *steady_lines(metrics), *stream_line(metrics), *reference_lines(metrics)]


def markdown(metrics: Metrics) -> str:
    """A page of Markdown."""
    lines = [f"### {heading(metrics)}", "", *(f"- {line}" for line in averages(metrics)), ""]
    for table in tables(metrics):
        lines += table.markdown()
    return "\n".join(lines + notes(metrics)) + "\n"


def as_csv(metrics: Metrics) -> str:
    """Every value in long form: scope (position, interval, all), number, metric, class, value 0..1 (empty: unknown)."""
    rows: list[Sequence] = [("scope", "number", "metric", "class", "value")]
    for row in metrics.positions:
        rows += [("position", row.position, key, "", getattr(row, key)) for key in ("frames", *POSITION_COLUMNS)]
        rows += [("position", row.position, "iou", name, x) for name, x in row.class_iou.items()]
    for interval in metrics.to_json()["intervals"]:
        number = interval.pop("interval")
        for name, value in interval.items():
            by_window = {f"_{window}": x for window, x in value.items()} if isinstance(value, dict) else {"": value}
            rows += [("interval", number, name + window, "", x) for window, x in by_window.items()]
    rows += [("all", "", key, "", getattr(metrics, key)) for key, _ in AVERAGES]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
