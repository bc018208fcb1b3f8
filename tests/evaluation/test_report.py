"""The report of an evaluation: its content, that it is self-contained, and that it works in a real browser."""
import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from config.camvid import CAMVID
from config.errors import UserError
from config.synthetic import SYNTHETIC
from evaluation.example_frames import ExampleFrame
from evaluation.metrics_json import Metrics, TemporalScores
from evaluation.report import report
from evaluation.tables import AVERAGES, heading, notes, percent, tables
from main import main
from utils.charts import Line, lines, scatter_figure, svg, write_chart
from utils.metrics import ConfusionMatrix, confusion_counts, scores
from utils.text_table import Table

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome here")


class Page(HTMLParser):
    """A page's elements, as (tag, attributes), its text, its tables, and its elements by class attribute."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.texts, self.tables = [], [], []
        self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        self._cell = tag if tag in ("td", "th", "caption") else self._cell
        if tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append("")

    def handle_endtag(self, tag):
        self._cell = None if tag == self._cell else self._cell

    def handle_data(self, data):
        self.texts.append(data)
        if self._cell == "caption":
            self.tables[-1]["caption"] += data
        elif self._cell:
            self.tables[-1]["rows"][-1][-1] += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    def shown_positions(self, tag: str) -> list[str]:
        """Positions of those elements of a kind that belong to a position and are not hidden."""
        return [x["data-position"] for x in self.all(tag) if "data-position" in x and "hidden" not in x]

    def read_tables(self) -> list[Table]:
        return [Table(x["caption"], tuple(x["rows"][0]), tuple(map(tuple, x["rows"][1:]))) for x in self.tables]


@pytest.fixture(scope="module")
def evaluated(streets, weights, tmp_path_factory):
    """The run folder of an evaluation."""
    logs = tmp_path_factory.mktemp("logs")
    words = ["--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights),
             "--log-folder", str(logs), "--num-worker", "0", "--device", "cpu", "--evaluate", "1",
             "--resume", "1", "--eval-multi-step", "1", "2"]
    assert main(words) == 0
    return logs / "run" / "synthetic" / "swiftnet_test" / "experiment_0"


def made_up(positions, dataset=SYNTHETIC, size=(20, 40), image_size=None, name="street_000001"):
    """Metrics of one frame, and the frame itself: correct in the upper half, wrong below, the left edge unlabelled."""
    rng = np.random.default_rng(5)
    label = torch.zeros(size, dtype=torch.uint8)
    label[:, : size[1] // 10] = dataset.ignore
    matrices, predictions, mious = {}, {}, {}
    for k in positions:
        prediction = torch.zeros(size, dtype=torch.uint8)
        prediction[size[0] // 2 + len(positions) - k :] = 1
        matrices[k] = ConfusionMatrix(dataset.num_classes)
        matrices[k].add(label, prediction)
        predictions[k] = prediction.numpy()
        mious[k] = scores(confusion_counts(label, prediction, dataset.num_classes)).miou
    image = rng.integers(0, 256, (*(image_size or size), 3), dtype=np.uint8)
    example = ExampleFrame(name, Path(f"val/{name}.png"), image, label.numpy(), predictions, mious)
    metrics = Metrics.from_matrices(
        matrices, classes=dataset.classes, dataset=dataset.name, segnet="swiftnet", flow="light", method="gsv",
        scale=0.75, worst=(example.worst_frame(),),
    )
    return metrics, example


def pictures(page: Page, start: str) -> list[np.ndarray]:
    """The RGB pictures whose description begins with `start`."""
    data = [x["src"].removeprefix("data:image/jpeg;base64,") for x in page.all("img") if x["alt"].startswith(start)]
    decoded = [cv2.imdecode(np.frombuffer(base64.b64decode(x), np.uint8), cv2.IMREAD_COLOR) for x in data]
    return [x[..., ::-1].astype(int) for x in decoded]


def test_page_shows_what_the_evaluation_found(evaluated):
    metrics = Metrics.from_json(json.loads((evaluated / "metrics.json").read_text()))
    page = Page((evaluated / "report.html").read_text())
    assert page.read_tables() == tables(metrics)
    assert [table.title for table in page.read_tables()][-1] == "Frames that lost most"
    assert page.texts.count(heading(metrics)) == 2  # title and headline
    for line in [*notes(metrics), *(percent(getattr(metrics, key)) for key, _ in AVERAGES)]:
        assert line in page.texts
    for name in SYNTHETIC.classes:
        assert page.texts.count(name) >= 3, name  # chart, table, legend
    assert "TC visible" in page.texts and "Accuracy and consistency over time by keyframe interval" in page.texts
    described = [x["alt"] for x in page.all("img")]
    frames = len(page.all("article"))
    assert frames > len(metrics.worst) > 0 and len(described) == len(set(described)) == frames * (2 + 2 * 3)
    assert page.shown_positions("img") == ["2"] * 2 * frames
    assert [(x["min"], x["max"], x["data-positions"]) for x in page.all("input")] == [("0", "2", "0 1 2")] * 2


def test_page_is_plain_text_that_loads_nothing(evaluated):
    content = (evaluated / "report.html").read_bytes()
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", content.decode("ascii"))
    assert not re.search(r"https?:|@import|<link|<iframe|url\((?!#)|\bfetch\b|XMLHttpRequest", text)
    page = Page(text)
    for _, attributes in page.elements:
        for key in {"src", "href", "xlink:href", "srcset", "data"} & set(attributes):
            assert attributes[key].startswith(("data:image/jpeg;base64,", "#")), attributes[key][:80]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_names_cannot_become_markup():
    name = "<b>$x$ & \"y\" $heading</b>"
    dataset = replace(SYNTHETIC, classes=(name, *SYNTHETIC.classes[1:]))
    metrics, example = made_up((0, 1), dataset, name="<script>alert(1)</script>")
    text = report(metrics, [example], [], dataset)
    page = Page(text)
    assert "<b>" not in text and text.count("<script>") == 1
    assert page.texts.count(name) == 3
    assert page.read_tables() == tables(metrics)
    assert page.all("img")[0]["alt"] == "frame <script>alert(1)</script>"


def test_single_position_has_nothing_to_slide():
    metrics, example = made_up((2,))
    page = Page(report(metrics, [], [example], SYNTHETIC))
    assert not page.all("input") and "All at position 2." in page.texts
    assert page.shown_positions("img") == ["2", "2"] and len(page.all("img")) == 4
    assert "position 2" in page.texts and "change" not in page.texts


def test_page_without_frames_without_time_and_with_unknown_figures():
    metrics, _ = made_up((0, 1))
    positions = (metrics.positions[0], replace(metrics.positions[1], miou=None))
    metrics = replace(metrics, worst=(), min_miou=None, positions=positions, intervals=metrics.intervals[:1])
    page = Page(report(metrics, [], [], SYNTHETIC))
    assert page.read_tables() == tables(metrics)
    assert not page.all("img") and "Frames" not in page.texts
    assert "Accuracy and consistency over time by keyframe interval" not in page.texts
    assert page.texts.count("-") == 2 + 2 * 17  # in the headline, of the position, and of the classes that never occur


def test_frame_without_labelled_pixels_has_no_figure():
    metrics, example = made_up((0, 1))
    example = replace(example, label=np.full_like(example.label, SYNTHETIC.ignore), miou=dict.fromkeys((0, 1)))
    page = Page(report(metrics, [], [example], SYNTHETIC))
    assert page.texts.count("mIoU at position 1: ") == 1
    assert page.texts[page.texts.index("mIoU at position 1: ") + 1] == "-"
    assert all(x.mean() < 45 for x in pictures(page, "errors"))


def test_consistency_that_could_not_be_measured_is_omitted():
    metrics, example = made_up((0, 1))
    unknown = {"8": None, "16": None}
    windows = {"8": 0, "16": 0}
    temporal = TemporalScores(pairs=2, tc=0.5, tc_visible=0.6, mvc=unknown, mvc_right=unknown, windows=windows)
    metrics = replace(metrics, intervals=tuple(replace(row, temporal=temporal) for row in metrics.intervals))
    chart = Page(report(metrics, [example], [], SYNTHETIC)).texts
    assert chart.count("TC visible") == 2 and "mVC8" not in chart  # table and chart


@pytest.mark.parametrize("size, image_size, expected", [
    ((20, 40), None, (20, 40)), ((20, 40), (45, 80), (20, 40)), ((500, 1000), (250, 500), (320, 640)),
    ((30, 41), None, (30, 41)),
])
def test_pictures_have_the_labels_shape_and_are_never_wide(size, image_size, expected):
    metrics, example = made_up((0, 1), size=size, image_size=image_size)
    page = Page(report(metrics, [example], [], SYNTHETIC))
    for word in ("frame", "label", "prediction", "errors"):
        assert {x.shape[:2] for x in pictures(page, word)} == {expected}, word
    assert {(x["height"], x["width"]) for x in page.all("img")} == {tuple(map(str, expected))}


def test_errors_are_red_on_grey_and_unlabelled_pixels_dark():
    metrics, example = made_up((0, 1), CAMVID, size=(200, 400))
    page = Page(report(metrics, [example], [], CAMVID))
    for errors in pictures(page, "errors"):
        wrong, right, unlabelled = errors[150:, 60:], errors[:90, 60:], errors[:, :30]
        assert (np.abs(wrong.mean((0, 1)) - (222, 38, 38)) < 12).all()
        assert unlabelled.mean() < 45
        assert right.mean() > 105 and np.ptp(right.mean((0, 1))) < 12
    (label,), (prediction, _) = pictures(page, "label"), pictures(page, "prediction")
    assert np.abs(label[:80, 60:] - prediction[:80, 60:]).mean() < 1 < np.abs(label[150:] - prediction[150:]).mean()


def dom(page: Path, address: str, folder: Path) -> Page:
    """The page as a browser has it after running its script."""
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={folder}", "--dump-dom", page.as_uri() + address]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return Page(done.stdout)


@in_a_browser
@pytest.mark.parametrize(
    "address, position", [("", "2"), ("#position=0", "0"), ("#position=1", "1"), ("#position=7", "2")]
)
def test_address_chooses_the_position(evaluated, tmp_path, address, position):
    found = dom(evaluated / "report.html", address, tmp_path)
    for tag in ("img", "p", "span"):
        shown = found.shown_positions(tag)
        assert shown and set(shown) == {position}, tag
    assert {x["aria-valuetext"] for x in found.all("input")} == {f"position {position}"}


@in_a_browser
def test_slider_changes_picture_caption_and_address(evaluated, tmp_path):
    moved = """<script>
        const slider = document.querySelectorAll("input")[1];
        slider.value = 1;
        slider.dispatchEvent(new Event("input"));
        document.title = location.hash + " " + sliders[0].value;
        </script></body>"""
    page = tmp_path / "moved.html"
    page.write_text((evaluated / "report.html").read_text().replace("</body>", moved))
    found = dom(page, "", tmp_path / "browser")
    for tag in ("img", "p", "span"):
        assert set(found.shown_positions(tag)) == {"1"}, tag
    assert "#position=1 1" in found.texts  # the other slider follows
    assert "1 frame after the keyframe" in found.texts


def test_scatter_plot_names_its_points_and_can_be_written(tmp_path):
    points = [("every frame", 8.0, 45.7), ("copy, $l$=3", 20.0, 42.9), ("<GSVNet>", 19.0, 45.5)]
    figure = scatter_figure(points, x_label="frames per second", y_label="mIoU (%)")
    text = svg(figure, "Accuracy & speed")
    assert text.startswith('<svg role="img" aria-label="Accuracy &amp; speed"')
    assert {f"{number}  {name}" for number, (name, _, _) in enumerate(points, 1)} <= set(Page(text).texts)
    assert Page(text).texts.count("2") == 1  # next to its point
    assert "20" in Page(text).texts  # figures along the axis
    write_chart(tmp_path / "new" / "chart.png", figure)
    assert cv2.imread(str(tmp_path / "new" / "chart.png")).shape[1] > 800
    with pytest.raises(UserError, match="chart.nothing: charts cannot be written as .nothing; use .png or .svg"):
        write_chart(tmp_path / "chart.nothing", figure)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="chart.png: cannot be written"):
        write_chart(tmp_path / "file" / "chart.png", figure)


def test_same_chart_is_same_text_and_a_gap_draws_nothing(capsys):
    def draw(y):
        return svg(lines([Line("a", [1, 2, 3], y, hue=0)], x_label="x", y_label="y"), "Lines")

    assert draw([1, None, 3]) == draw([1, float("nan"), 3]) != draw([1, 2, 3])
    assert capsys.readouterr() == ("", "")
