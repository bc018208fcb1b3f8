"""Charts, as SVG text for a page or as picture files. Matplotlib draws them, through its objects, never through pyplot.

Values are drawn in the caller's unit (per cent, frames per second); None and NaN are gaps.
"""
import html
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import UserError

if TYPE_CHECKING:  # matplotlib is slow to import; only drawing needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every common kind of colour vision. Markers differ as well.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
COLOURS, MARKERS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY), "osD^vP"
INK, FAINT = "#22272e", "#6b7280"
STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud, and set in the page's font
    "svg.hashsalt": "chart",  # the same chart is the same text
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "xtick.color": FAINT, "ytick.color": FAINT,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.edgecolor": "#9aa1ab", "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e4e7eb", "grid.linewidth": 0.8, "lines.linewidth": 2, "lines.markersize": 6,
    "legend.frameon": False,
}


@contextmanager
def _style() -> Iterator[None]:
    """The style for all drawing: independent of any matplotlibrc, and invisible to other users of matplotlib."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs about its font cache, to standard error
    from matplotlib import style

    with warnings.catch_warnings(), style.context(["default", STYLE]):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # browsers look further for a glyph
        yield


def _axes(width: float, height: float) -> tuple["Figure", "Axes"]:
    """A new figure and the axes alone in it; width and height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def svg(figure: "Figure", title: str) -> str:
    """The figure as an <svg> element for a page that may hold several; `title` is for screen readers."""
    text = io.StringIO()
    with _style():
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    element = text.getvalue()[text.getvalue().index("<svg") :]  # without XML declaration and document type
    prefix = re.sub(r"[^a-z0-9]+", "-", title.lower())  # ids are unique only within a figure
    element = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", element)
    return element.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def write_chart(path: Path, figure: "Figure") -> None:
    """Write the figure as the file type of `path`. Raises UserError if that fails."""
    if path.suffix.lstrip(".").lower() not in figure.canvas.get_supported_filetypes():
        kind = path.suffix or "a file without ending"
        raise UserError(f"{path}: charts cannot be written as {kind}; use .png or .svg")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _style():
            figure.savefig(path, dpi=160)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if x is None else x for x in values]


@_style()
def trend(
    x: Sequence[int], y: Sequence[float | None], *, average: float | None, x_label: str, y_label: str
) -> "Figure":
    """One value at each of a few whole numbers, every point with its figure; average and minimum marked."""
    (figure, axes), y = _axes(6.4, 3.4), _gaps(y)
    axes.plot(x, y, color=BLUE, marker="o", zorder=3)
    known = [(value, place) for place, value in zip(x, y) if value == value]
    for i, (value, place) in enumerate(known):
        # Next to a falling line there is room on the right.
        falls = known[max(i - 1, 0)][0] > value or known[min(i + 1, len(known) - 1)][0] < value
        axes.annotate(f"{value:.2f}", (place, value), (6, 5) if falls else (0, 8), textcoords="offset points",
                      ha="left" if falls else "center", zorder=4)
    if known:
        least, place = min(known)
        axes.plot([place], [least], "o", markersize=12, markerfacecolor="none", markeredgecolor=VERMILION,
                  markeredgewidth=1.6)
        _level(axes, least, f"minimum {least:.2f}", VERMILION, ":", below=True)
        if average is not None:
            _level(axes, average, f"average {average:.2f}", INK, "--", below=False)
        span = max(max(known)[0] - least, 1)  # a tenth of a point is no cliff
        axes.set_ylim(least - 0.2 * span, least + 1.3 * span)
    _whole_numbers(axes, x)
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure


def _level(axes: "Axes", value: float, text: str, colour: str, dashes: str, *, below: bool) -> None:
    """A horizontal line through the axes, its text right of them."""
    axes.axhline(value, color=colour, linestyle=dashes, linewidth=1.2, zorder=2)
    axes.annotate(text, (1, value), (5, -2 if below else 2), xycoords=("axes fraction", "data"),
                  textcoords="offset points", color=colour, va="top" if below else "bottom")


def _whole_numbers(axes: "Axes", x: Sequence[int]) -> None:
    axes.set_xticks(sorted(set(x)))
    axes.set_xlim(min(x) - 0.4, max(x) + 0.4)
    axes.grid(axis="x", visible=False)


@dataclass(frozen=True)
class Line:
    """One line of a chart: y[i] at x[i]. Lines of one `hue` share colour and marker; one of them may be `dashed`."""

    label: str
    x: Sequence[int]
    y: Sequence[float | None]
    hue: int
    dashed: bool = False


@_style()
def lines(drawn: Sequence[Line], *, x_label: str, y_label: str) -> "Figure":
    """Several lines over a few whole numbers, with a legend on their right."""
    figure, axes = _axes(6.4, 3.4)
    for line in drawn:
        colour, marker = COLOURS[line.hue % len(COLOURS)], MARKERS[line.hue % len(MARKERS)]
        axes.plot(line.x, _gaps(line.y), color=colour, marker=marker, label=line.label,
                  linestyle=(0, (4, 2)) if line.dashed else "-", markerfacecolor="white" if line.dashed else colour)
    _whole_numbers(axes, [place for line in drawn for place in line.x])
    axes.margins(y=0.12)
    axes.set(xlabel=x_label, ylabel=y_label)
    figure.legend(loc="outside right upper", handlelength=2.6)
    return figure


@_style()
def class_bars(
    names: Sequence[str], colours: Sequence[Sequence[int]], bars: Sequence[tuple[str, Sequence[float | None]]], *,
    x_label: str,
) -> "Figure":
    """Per class a swatch of its colour (RGB 0..255) and one or two bars, 0..100; between two, the change in figures.

    bars: (label, value of each class). A class without a value has no bar but a dash.
    """
    height = 0.76 / len(bars)
    figure, axes = _axes(6.4, 1.2 + len(names) * (0.2 + 0.12 * len(bars)))
    rows = range(len(names))
    next_to = axes.get_yaxis_transform()  # x as a fraction of the axes' width, y in classes
    drawn = [_gaps(values) for _, values in bars]
    for i, values in enumerate(drawn):
        places = [row + (i - (len(bars) - 1) / 2) * height for row in rows]
        lengths = [0 if x != x else x for x in values]
        axes.barh(places, lengths, height, color=(BLUE, ORANGE)[i % 2], label=bars[i][0])
        for place, value in zip(places, values):
            if value != value:
                axes.annotate("\N{EN DASH}", (0, place), (4, 0), textcoords="offset points", va="center", color=FAINT)
    if len(bars) == 2:
        axes.text(1.04, -0.9, "change", transform=next_to, ha="left", color=FAINT)
        for row, first, last in zip(rows, *drawn):
            change = round(last - first, 1)
            if change == change:
                text = f"{change:+.1f}".replace("-", "\N{MINUS SIGN}") if change else "0.0"
                axes.text(1.04, row, text, transform=next_to, va="center")
    axes.scatter([-0.025] * len(names), rows, s=70, marker="s", color=[[x / 255 for x in colour] for colour in colours],
                 edgecolors=FAINT, linewidths=0.6, transform=next_to, clip_on=False)
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0, pad=16)
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6), xlabel=x_label)
    figure.legend(loc="outside upper left", ncols=len(bars))
    return figure


@_style()
def scatter_figure(points: Sequence[tuple[str, float, float]], *, x_label: str, y_label: str) -> "Figure":
    """points: (label, x, y), numbered; the labels stand in a list on the right, where they cover nothing."""
    from matplotlib.transforms import Bbox

    figure, axes = _axes(9.6, 4.8)
    axes.scatter([x for _, x, _ in points], [y for _, _, y in points], s=46, color=BLUE, edgecolors="white", zorder=3)
    axes.margins(0.12)
    axes.set(xlabel=x_label, ylabel=y_label)
    lines = [f"{number}  {label}" for number, (label, _, _) in enumerate(points, 1)]
    axes.text(1.03, 1, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=8, linespacing=1.6)
    figure.draw_without_rendering()  # settles where the axes are
    dots = [axes.transData.transform((x, y)) for _, x, y in points]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in dots]
    for number, (_, x, y) in enumerate(points, 1):
        text = axes.annotate(str(number), (x, y), (0, 0), textcoords="offset points", va="center", zorder=4)
        for right, up in ((9, 0), (-9, 0), (0, 10), (0, -10), (9, 10), (9, -10), (-9, 10), (-9, -10)):
            text.set(position=(right, up), ha="center")
            if not any(text.get_window_extent().overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent())
    return figure
