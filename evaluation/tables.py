"""The content of metrics.json as tables: for the console, as Markdown, as CSV."""
import csv
import io
from collections.abc import Sequence

from utils.text_table import Table

AVERAGES = (("avg_miou", "average over positions"), ("pooled_miou", "pooled over positions"), ("min_miou", "minimum"))
POSITION_COLUMNS = (
    ("miou", "mIoU"), ("pixel_accuracy", "pixel acc."), ("mean_class_accuracy", "class acc."), ("frequency_weighted_iou", "fw IoU")
)
ABLATIONS = (("intra", "intra features"), ("edge", "edge map"))


def percent(x: float | None) -> str:
    return "-" if x is None else f"{100 * x:.2f}"


def positions_table(metrics: dict) -> Table:
    rows = [
        (str(row["position"]), str(row["frames"]), *(percent(row[key]) for key, _ in POSITION_COLUMNS))
        for row in metrics["positions"]
    ]
    return Table("By frames since the keyframe", ("position", "frames", *(text for _, text in POSITION_COLUMNS)), tuple(rows))


def intervals_table(metrics: dict) -> Table:
    """Accuracy over the positions 0..l-1 of keyframe interval l and, where it was measured, consistency over time beside it."""
    head = ["interval", "mean mIoU", "pooled mIoU", "min mIoU"]
    columns: list[tuple[str, ...]] = [("mean_miou",), ("pooled_miou",), ("min_miou",)]
    if any("tc" in row for row in metrics["intervals"]):
        head += ["TC", "TC visible"]
        columns += [("tc",), ("tc_visible",)]
        for window in metrics["intervals"][0]["mvc"]:
            if any(row["mvc"][window] is not None for row in metrics["intervals"]):
                head += [f"mVC{window}", f"mVC{window} right"]
                columns += [("mvc", window), ("mvc_right", window)]
    rows = []
    for row in metrics["intervals"]:
        values = [row[path[0]] if len(path) == 1 else row[path[0]][path[1]] for path in columns]
        rows.append((str(row["interval"]), *map(percent, values)))
    return Table("By keyframe interval", tuple(head), tuple(rows))


def classes_table(metrics: dict) -> Table:
    positions = metrics["positions"]
    rows = [(name, *(percent(row["class_iou"][name]) for row in positions)) for name in metrics["classes"]]
    return Table("IoU by class and position", ("class", *(str(row["position"]) for row in positions)), tuple(rows))


def worst_table(metrics: dict) -> Table:
    """The frames that lost most between the first and the last position, if `worst` is there."""
    worst = metrics.get("worst", [])
    first, last = (f"mIoU at position {worst[0][key]}" if worst else "" for key in ("first_position", "last_position"))
    rows = [(x["path"], percent(x["first_miou"]), percent(x["last_miou"]), percent(x["lost"])) for x in worst]
    return Table("Frames that lost most", ("frame", first, last, "lost"), tuple(rows))


def tables(metrics: dict) -> list[Table]:
    found = [positions_table(metrics), intervals_table(metrics), classes_table(metrics), worst_table(metrics)]
    return [table for table in found if table.rows]


def averages(metrics: dict) -> list[str]:
    return [f"mIoU, {text}: {percent(metrics[key])}" for key, text in AVERAGES]


def heading(metrics: dict) -> str:
    flow = f", {metrics['flow']} flow" if metrics["method"] in ("gsv", "warp") else ""
    left_out = "".join(f", without {part}" for key, part in ABLATIONS if metrics["method"] == "gsv" and not metrics.get(key, True))
    return f"{metrics['dataset']} val: {metrics['method']}, {metrics['segnet']}{flow}{left_out}, keyframes at scale {metrics['scale']:g}"


def notes(metrics: dict) -> list[str]:
    """What the columns mean, as a reader of the tables alone needs it."""
    lines = [
        "Position: frames since the keyframe. Average: mean of the positions' mIoUs; pooled: mIoU of their summed confusion "
        "matrices, which the published program calls average. Classes that neither occur nor are predicted are left out.",
    ]
    if metrics.get("temporal_flow"):
        lines.append(
            f"TC: mIoU between the label map of each frame and the next one's, brought back by optical flow ({metrics['temporal_flow']}); "
            "visible: without what the next frame hides. mVCn: share of the pixels whose label stays the same for n frames whose "
            "prediction does too; right: and equals the label. Neither says that a map is right: read them beside mIoU."
        )
    return lines


def console(metrics: dict) -> list[str]:
    return [heading(metrics), *(line for table in tables(metrics) for line in table.console()), *averages(metrics)]


def markdown(metrics: dict) -> str:
    lines = [f"### {heading(metrics)}", "", *(f"- {line}" for line in averages(metrics)), ""]
    for table in tables(metrics):
        lines += table.markdown()
    return "\n".join(lines + notes(metrics)) + "\n"


def as_csv(metrics: dict) -> str:
    """Every figure in long form: scope (position, interval, all), its number, metric, class, value 0..1 (empty: unknown)."""
    rows: list[Sequence] = [("scope", "number", "metric", "class", "value")]
    for row in metrics["positions"]:
        rows += [("position", row["position"], key, "", row[key]) for key, _ in (("frames", ""), *POSITION_COLUMNS)]
        rows += [("position", row["position"], "iou", name, x) for name, x in row["class_iou"].items()]
    for row in metrics["intervals"]:
        for key, value in row.items():
            if isinstance(value, dict):
                rows += [("interval", row["interval"], f"{key}_{window}", "", x) for window, x in value.items()]
            elif key != "interval":
                rows.append(("interval", row["interval"], key, "", value))
    rows += [("all", "", key, "", metrics[key]) for key, _ in AVERAGES]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
