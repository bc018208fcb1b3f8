"""An evaluation as one self-contained HTML page: averages, charts, tables, and frames to look through."""
import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from config.schema import DatasetConfig
from evaluation.example_frames import ExampleFrame
from evaluation.metrics_json import Metrics
from evaluation.tables import AVERAGES, heading, interval_columns, notes, percent, tables
from utils.charts import Line, class_bars, lines, svg, trend
from utils.visualize import overlay

WIDTH, QUALITY = 640, 85  # of the pictures: pixels at most; JPEG
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)
WRONG, UNLABELLED = (222, 38, 38), (28, 28, 32)  # RGB of the error map, whose other pixels are light grey


def report(
    metrics: Metrics, worst: Sequence[ExampleFrame], others: Sequence[ExampleFrame], dataset: DatasetConfig
) -> str:
    """Render the page, in ASCII. worst, others: frames to show, kept by the evaluation that found `metrics`."""
    others = [example for example in others if example.path not in [x.path for x in worst]]
    sections = [(title, x) for title, x in (("Frames that lost most", worst), ("Other frames", others)) if x]
    ends = [metrics.positions[i] for i in dict.fromkeys((0, len(metrics.positions) - 1))]  # the first and the last
    bars = [(f"position {row.position}", [_per_cent(row.class_iou[x]) for x in metrics.classes]) for row in ends]
    class_chart = svg(class_bars(metrics.classes, dataset.colours, bars, x_label="IoU (%)"), "IoU by class")
    page = TEMPLATES.get_template("report.html").render(
        heading=heading(metrics), averages=[(text, percent(getattr(metrics, key))) for key, text in AVERAGES],
        charts=dict(_charts(metrics)), class_chart=Markup(class_chart), tables=tables(metrics),
        notes=notes(metrics), sections={title: [_frame(x, dataset) for x in examples] for title, examples in sections},
        positions=sorted({k for example in (*worst, *others) for k in example.predictions}),
        legends={
            "Label and prediction": list(zip(dataset.classes, dataset.colours)),
            "Errors": [("wrong", WRONG), ("unlabelled", UNLABELLED)],
        },
    )
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")  # the same in whatever encoding it is written


def _charts(metrics: Metrics) -> Iterator[tuple[str, Markup]]:
    """Titles and charts by position and, where consistency over time was measured, by interval."""
    rows, title = metrics.positions, "mIoU by position"
    figure = trend(
        [row.position for row in rows], [_per_cent(row.miou) for row in rows], average=_per_cent(metrics.avg_miou),
        x_label="position (frames since the keyframe)", y_label="mIoU (%)",
    )
    yield title, Markup(svg(figure, title))
    if any(row.temporal is not None for row in metrics.intervals) and metrics.steady is None:
        columns, at = interval_columns(metrics), [row.interval for row in metrics.intervals]
        del columns["pooled mIoU"]
        drawn = [  # columns come in pairs of one hue
            Line(name.replace("min ", "minimum "), at, [_per_cent(x) for x in values], hue=i // 2, dashed=i % 2 == 1)
            for i, (name, values) in enumerate(columns.items()) if any(x is not None for x in values)
        ]
        figure = lines(drawn, x_label="keyframe interval", y_label="%")
        yield "Accuracy and consistency over time by keyframe interval", Markup(svg(figure, "Consistency by interval"))


def _per_cent(x: float | None) -> float | None:
    return None if x is None else 100 * x


def _frame(example: ExampleFrame, dataset: DatasetConfig) -> dict:
    """What the template shows of a frame: pictures of frame and label, and by position mIoU, prediction and errors."""
    height, width = example.label.shape
    size = min(width, WIDTH), max(1, round(height * min(1, WIDTH / width)))
    image = cv2.resize(example.image, size, interpolation=cv2.INTER_AREA)  # (h,w,3)

    def painted(label: np.ndarray) -> dict:
        return _picture(overlay(image, cv2.resize(label, size, interpolation=cv2.INTER_NEAREST), dataset.colours))

    return {
        "name": example.name, "image": _picture(image), "label": painted(example.label),
        "by_position": {
            k: {
                "miou": percent(example.miou[k]), "prediction": painted(x),
                "errors": _picture(error_map(image, example.label, x, dataset.num_classes)),
            }
            for k, x in example.predictions.items()
        },
    }


def error_map(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Mark where class indices (H,W) differ, on a light grey copy of the RGB frame (h,w,3), all uint8. Pixels of a
    smaller frame mix colours in proportion."""
    unlabelled = label >= classes
    wrong = ~unlabelled & (label != prediction)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * 0.55 + 105
    picture = np.repeat(grey[..., None], 3, axis=2)  # (h,w,3)
    for mask, colour in ((wrong, WRONG), (unlabelled, UNLABELLED)):
        share = cv2.resize(mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_AREA)  # (h,w)
        picture += share[..., None] * (np.asarray(colour, np.float32) - picture)
    return picture.round().astype(np.uint8)


def _picture(image: np.ndarray) -> dict:
    """RGB (h,w,3) uint8 -> JPEG for the page."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return {"width": image.shape[1], "height": image.shape[0], "base64": base64.b64encode(encoded.tobytes()).decode()}
