"""The accuracy that evaluations found of what a benchmark measures: metrics.json files, named by --results."""
from collections.abc import Sequence
from pathlib import Path

from config.errors import UserError
from config.options import Options
from evaluation.metrics_json import Metrics, over_interval, read_metrics
from inference.engines import Candidate, shown
from models.flow_dis import DISFlow
from models.gsvnet import GSVNet

Scores = dict[int, dict[str, float]]  # mean mIoU by keyframe interval and `shown` engine and precision


def accuracy(
    options: Options, net: GSVNet, tried: Sequence[Candidate], intervals: Sequence[int]
) -> tuple[Scores, str]:
    """The scores over the positions of each interval, the last file's where several are alike, and the name of their
    data set. Raises UserError for a file that is not of these networks and engines, and for several data sets."""
    scores: Scores = {n: {} for n in intervals}
    read = {path: read_metrics(Path(path)) for path in options.results}
    for path, metrics in read.items():
        name = shown((metrics.engine, metrics.precision))
        if reason := mismatch(options, net, metrics):
            raise UserError(f"--results {path}: {reason}; drop it")
        if name not in map(shown, tried):
            raise UserError(f"--results {path}: computed by {name}, which is not measured here; drop it")
        known = {n: over_interval(metrics.positions, n) for n in intervals}
        found = {n: x.mean_miou for n, x in known.items() if x is not None and x.mean_miou is not None}
        if not found:
            wanted = f"positions 0 to {min(intervals) - 1}" if min(intervals) > 1 else "position 0"
            raise UserError(f"--results {path}: has no mIoU of {wanted}; evaluate these, or drop it")
        for n, value in found.items():
            scores[n][name] = value
    names = sorted({metrics.dataset for metrics in read.values()})
    if len(names) > 1:
        raise UserError(f"--results: of several data sets, {', '.join(names)}; name files of one")
    return scores, "".join(names)


def mismatch(options: Options, net: GSVNet, metrics: Metrics) -> str:
    """What metrics are of, if not of these networks and this way to carry on; "" if they are."""
    way = {"segnet": options.segnet, "method": options.method, "carry": options.carry, "scale": options.scale}
    if options.method in ("gsv", "warp"):
        settings = net.flow.settings if isinstance(net.flow, DISFlow) else None
        way |= {"flow": options.optical_flow_network, "flow_settings": settings}
    if options.method == "gsv":
        way |= {"intra": options.intra, "edge": options.edge}
    way |= {"grid": net.grid, "split": "val", "reference": "labels", "schedule": None}
    for name, value in way.items():
        if (found := getattr(metrics, name)) != value:
            return f"its {name} is {found}, and that of the benchmark {value}"
    return ""
