"""The training stages by the names of the command line."""
from config.datasets import UNLABELLED
from config.options import Options
from config.segmenters import VIDEO_NETWORKS
from evaluation.metrics_json import Metrics
from evaluation.tables import AVERAGES, averages, positions_table
from trainer.stages.distillation import DistillationStage
from trainer.stages.flow_network import FlowErrors, FlowStage
from trainer.stages.keyframe_segmenter import SegmenterStage
from trainer.stages.propagation import PropagationStage
from trainer.stages.video_networks import AccelStage, TDNetStage

STAGES: dict[str, type[PropagationStage] | type[SegmenterStage] | type[FlowStage]] = {
    "gsv": PropagationStage, "segnet": SegmenterStage, "flow": FlowStage, "tdnet": TDNetStage, "accel": AccelStage,
}


def stage_of(options: Options) -> type[PropagationStage] | type[SegmenterStage] | type[FlowStage]:
    """The stage that the options train."""
    if options.stage == "segnet":
        return STAGES[VIDEO_NETWORKS.get(options.segnet, "segnet")]
    return DistillationStage if options.dataset == UNLABELLED else STAGES[options.stage]


def report_of(metrics: Metrics | FlowErrors) -> tuple[list[str], dict[str, float]]:
    """An evaluation's metrics -> lines for the console, and the values to plot, by name."""
    if isinstance(metrics, FlowErrors):
        errors = metrics.to_json()
        return [f"{key.replace('_', ' ')}: {value:.4f} grid pixels" for key, value in errors.items()], errors
    values = {f"miou_position_{row.position}": row.miou for row in metrics.positions}
    values |= {key: getattr(metrics, key) for key, _ in AVERAGES}
    lines = [*positions_table(metrics).console()[1:], *averages(metrics)]
    return lines, {name: value for name, value in values.items() if value is not None}


def score_of(metrics: Metrics | FlowErrors) -> float:
    """What "best" means: the higher the better."""
    return -metrics.end_point_error if isinstance(metrics, FlowErrors) else metrics.avg_miou or 0.0
