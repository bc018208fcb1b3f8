"""What propagation is worth for a segmenter: cost of a frame by keyframe interval, compared with segmenting each."""
from typing import Any

from benchmarks.complexity import stream_gmac
from models.gsvnet import GSVNet
from utils.text_table import Table

INTERVALS = range(1, 9)
WORTH = 1.1  # gain, however long the interval, below which propagation does not pay


def break_even(
    net: GSVNet, size: tuple[int, int], scale: float, row: dict[str, Any], method: str = "gsv"
) -> dict[str, Any]:
    """Costs at frames of `size` (H,W). row: an engine's `figures`, of interval 2 at least.

    Returns `keyframe_gmac`, `propagated_gmac`, and `rows`: `interval`, `gmac` and `milliseconds` of a frame on average,
    end to end, `gain` in time and `gmac_gain` over segmenting every frame.
    """
    key, carried = stream_gmac(net, *size, scale, method)
    alone, propagated = row["per_frame_ms"][0], row["propagated_ms"][0]
    rows = []
    for interval in INTERVALS:
        gmac, time = ((first + (interval - 1) * x) / interval for first, x in ((key, carried), (alone, propagated)))
        rows.append(
            {"interval": interval, "gmac": gmac, "milliseconds": time, "gain": alone / time, "gmac_gain": key / gmac}
        )
    return {"keyframe_gmac": key, "propagated_gmac": carried, "rows": rows}


def break_even_table(engine: str, found: dict[str, Any]) -> Table:
    """The rows of `break_even`."""
    keys = {"interval": "d", "gmac": ".2f", "gmac_gain": ".2f", "milliseconds": ".1f", "gain": ".2f"}
    cells = [tuple(f"{row[key]:{form}}" for key, form in keys.items()) for row in found["rows"]]
    head = ("keyframe interval", "GMAC a frame", "x less", "ms a frame", "x faster than every frame segmented")
    return Table(f"Break-even, engine {engine}, end to end", head, tuple(cells))


def verdict(found: dict[str, Any], row: dict[str, Any]) -> str:
    """In words, whether propagation pays."""
    bound = row["per_frame_ms"][0] / row["propagated_ms"][0]
    costs = (
        f"a keyframe has {found['keyframe_gmac']:.2f} GMAC, a propagated frame {found['propagated_gmac']:.2f}; in time "
        f"it takes {100 / bound:.0f} % of a keyframe's"
    )
    if bound < WORTH:
        return f"propagation does not pay here: {costs}; segment every frame (--method per-frame)"
    return f"propagation pays: {costs}, so no interval can be more than {bound:.1f} times as fast"
