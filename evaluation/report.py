"""An evaluation as one HTML page that needs nothing else: figures, charts, tables, and frames to look through."""
import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np

from config.schema import DatasetConfig
from evaluation.example_frames import Shown
from evaluation.tables import AVERAGES, heading, notes, percent, tables
from utils.charts import Line, class_bars, lines, svg, trend
from utils.metrics import scores
from utils.text_table import Table
from utils.visualize import overlay

WIDTH, QUALITY = 640, 85  # of the pictures: at most so many pixels wide; JPEG
WRONG, UNLABELLED = (222, 38, 38), (28, 28, 32)  # RGB of the error map, whose other pixels are light grey


def report(metrics: dict, worst: Sequence[Shown], usual: Sequence[Shown], dataset: DatasetConfig) -> str:
    """The page. metrics: content of metrics.json; worst, usual: frames to show, kept by the evaluation that made `metrics`."""
    template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        heading=escape(heading(metrics)), headline=_headline(metrics), charts=_charts(metrics, dataset),
        tables="\n".join(map(_table, tables(metrics))), viewer=_viewer(metrics["method"], worst, usual, dataset),
        notes="\n".join(f"<p>{escape(line)}</p>" for line in notes(metrics)),
    )
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")  # the same in whatever encoding it is written


def _headline(metrics: dict) -> str:
    return "\n".join(
        f'<div class="card"><dt>mIoU, {escape(text)}</dt><dd>{percent(metrics[key])}<small> %</small></dd></div>'
        for key, text in AVERAGES
    )


def _table(table: Table) -> str:
    """Scrolls by itself where the window is too narrow. Tables of paths get the whole width."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for first, *cells in table.rows
    )
    wide = " wide" if any(len(row[0]) > 40 for row in table.rows) else ""
    title = escape(table.title)
    return (
        f'<div class="card scroll{wide}" role="region" aria-label="{title}" tabindex="0"><table>\n<caption>{title}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


# Charts


def _charts(metrics: dict, dataset: DatasetConfig) -> str:
    """By position and by interval in one column, by class in the other."""
    rows = metrics["positions"]
    by_position = trend(
        [row["position"] for row in rows], [_per_cent(row["miou"]) for row in rows], average=_per_cent(metrics["avg_miou"]),
        x_label="position (frames since the keyframe)", y_label="mIoU (%)",
    )
    column = [_chart("mIoU by position", svg(by_position, "mIoU by position"))]
    over_time = _over_time(metrics["intervals"])
    if over_time:
        figure = lines(over_time, x_label="keyframe interval", y_label="%")
        column.append(_chart("Accuracy and consistency over time by keyframe interval", svg(figure, "Consistency by interval")))
    ends = [rows[0], rows[-1]] if len(rows) > 1 else rows
    bars = [(f"position {row['position']}", [_per_cent(row["class_iou"][name]) for name in metrics["classes"]]) for row in ends]
    by_class = class_bars(metrics["classes"], dataset.colours, bars, x_label="IoU (%)")
    return f'<div class="column">{"".join(column)}</div>\n{_chart("IoU by class", svg(by_class, "IoU by class"))}'


def _chart(title: str, picture: str) -> str:
    return f'<figure class="card"><figcaption>{escape(title)}</figcaption>{picture}</figure>\n'


def _over_time(intervals: Sequence[dict]) -> list[Line]:
    """mIoU, TC, and mVC of every window, by keyframe interval; only what was measured, and nothing but together with mIoU."""
    rows = [row for row in intervals if "tc" in row]
    at = [row["interval"] for row in rows]
    drawn = [
        Line("mean mIoU", at, [_per_cent(row["mean_miou"]) for row in rows], hue=0),
        Line("minimum mIoU", at, [_per_cent(row["min_miou"]) for row in rows], hue=0, dashed=True),
        Line("TC", at, [_per_cent(row["tc"]) for row in rows], hue=1),
        Line("TC visible", at, [_per_cent(row["tc_visible"]) for row in rows], hue=1, dashed=True),
    ]
    for hue, window in enumerate(rows[0]["mvc"] if rows else (), start=2):
        drawn += [
            Line(f"mVC{window}", at, [_per_cent(row["mvc"][window]) for row in rows], hue=hue),
            Line(f"mVC{window} right", at, [_per_cent(row["mvc_right"][window]) for row in rows], hue=hue, dashed=True),
        ]
    return [line for line in drawn if any(y is not None for y in line.y)]


def _per_cent(x: float | None) -> float | None:
    return None if x is None or x != x else 100 * x


# Frames to look through


def _viewer(method: str, worst: Sequence[Shown], usual: Sequence[Shown], dataset: DatasetConfig) -> str:
    """The sections of frames, each with a slider over all positions that a frame was evaluated at; no frame is shown twice."""
    others = [x for x in usual if x.seen.frame not in [y.seen.frame for y in worst]]
    positions = sorted({k for x in (*worst, *others) for k in x.seen.predictions[method]})
    if not positions:
        return ""
    sections = []
    for title, frames in (("Frames that lost most", worst), ("Other frames", others)):
        if frames:
            cards = "\n".join(_frame(x, method, positions[-1], dataset) for x in frames)
            sections.append(f"<section>\n<h3>{title}</h3>\n{_slider(title, positions)}\n{cards}\n</section>")
    return f'<h2>Frames</h2>\n<div class="card">{_legend(dataset)}</div>\n' + "\n".join(sections)


def _slider(title: str, positions: Sequence[int]) -> str:
    """A slider over positions, with what it says; nothing to slide where there is one position only."""
    if len(positions) == 1:
        return f'<p class="faint">All at position {positions[0]}.</p>'
    name, last = "position-" + title.lower().replace(" ", "-"), len(positions) - 1
    texts = "".join(
        f'<span data-position="{k}"{_hidden(k, positions[-1])}>{k} {"frame" if k == 1 else "frames"} after the keyframe</span>'
        for k in positions
    )
    return (
        f'<div class="position"><label for="{name}">Position</label><input type="range" id="{name}" min="0" max="{last}" step="1" '
        f'value="{last}" autocomplete="off" data-positions="{" ".join(map(str, positions))}"><output for="{name}">{texts}</output></div>'
    )


def _legend(dataset: DatasetConfig) -> str:
    classes = zip(dataset.classes, dataset.colours)
    errors = (("wrong", WRONG), ("unlabelled", UNLABELLED))
    return f'<p class="faint">Label and prediction</p>{_swatches(classes)}<p class="faint">Errors</p>{_swatches(errors)}'


def _swatches(named: Iterable[tuple[str, tuple[int, int, int]]]) -> str:
    items = (
        f'<li><span class="swatch" style="background:rgb({r},{g},{b})"></span>{escape(name)}</li>' for name, (r, g, b) in named
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _frame(shown: Shown, method: str, start: int, dataset: DatasetConfig) -> str:
    """A card: the frame, its label, and by position, of which `start` shows at first, the prediction and its errors."""
    seen, name = shown.seen, escape(shown.seen.frame.name)
    label, height, width = seen.label.cpu().numpy(), *_size(seen.label.shape)
    image = cv2.resize(seen.image.cpu().numpy(), (width, height), interpolation=cv2.INTER_AREA)
    still = {
        "Frame": (image, f"frame {name}"),
        "Label": (_painted(image, label, dataset), f"label of {name}"),
    }
    captions, predictions, errors = "", "", ""
    for k, found in sorted(seen.predictions[method].items()):
        where = f' data-position="{k}"{_hidden(k, start)}'
        prediction = found.cpu().numpy()
        miou = scores(seen.counts[method][k])["miou"]
        captions += f"<p{where}>mIoU at position {k}: <strong>{percent(None if miou != miou else miou)}</strong> %</p>"
        predictions += _picture(_painted(image, prediction, dataset), f"prediction for {name}, position {k}", where)
        errors += _picture(_error_map(image, label, prediction, dataset.num_classes), f"errors in {name}, position {k}", where)
    pictures = {title: _picture(picture, text) for title, (picture, text) in still.items()}
    pictures |= {"Prediction": predictions, "Errors": errors}
    figures = "\n".join(f"<figure>{x}<figcaption>{title}</figcaption></figure>" for title, x in pictures.items())
    return f'<article class="card frame">\n<header><h4>{name}</h4>{captions}</header>\n<div class="pictures">\n{figures}\n</div></article>'


def _hidden(position: int, start: int) -> str:
    return "" if position == start else " hidden"


def _size(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of pictures of something (H,W): at most WIDTH wide, never larger than it is."""
    height, width = shape
    return max(1, round(height * min(1, WIDTH / width))), min(width, WIDTH)


def _painted(image: np.ndarray, label: np.ndarray, dataset: DatasetConfig) -> np.ndarray:
    """Class indices (H,W) laid over RGB (h,w,3), both uint8."""
    size = image.shape[1::-1]
    return overlay(image, cv2.resize(label, size, interpolation=cv2.INTER_NEAREST), dataset.colours)


def _error_map(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Where class indices (H,W) differ, over a light grey RGB frame (h,w,3), all uint8; a pixel that stands for several has
    its share of each colour."""
    unlabelled = label >= classes
    wrong = ~unlabelled & (label != prediction)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * 0.55 + 105
    picture = np.repeat(grey[..., None], 3, axis=2)  # (h,w,3)
    for mask, colour in ((wrong, WRONG), (unlabelled, UNLABELLED)):
        share = cv2.resize(mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None]  # (h,w,1)
        picture += share * (np.asarray(colour, np.float32) - picture)
    return picture.round().astype(np.uint8)


def _picture(image: np.ndarray, text: str, where: str = "") -> str:
    """RGB (h,w,3) uint8 -> <img>; text: escaped, what is in it."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    data = base64.b64encode(encoded.tobytes()).decode("ascii")
    height, width = image.shape[:2]
    return f'<img{where} width="{width}" height="{height}" alt="{text}" src="data:image/jpeg;base64,{data}">'
