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
        found = {n: x.mean_miou for n in intervals if (x := over_interval(metrics.positions, n)) and x.mean_miou}
        if not found:
            last = max(row.position for row in metrics.positions)
            raise UserError(f"--results {path}: ends at position {last}, before the interval does; evaluate further")
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
