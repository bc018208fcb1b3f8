"""The training stages by the names of the command line."""
from evaluation.tables import averages, positions_table
from trainer.stages.flow_network import FlowStage
from trainer.stages.keyframe_segmenter import SegmenterStage
from trainer.stages.propagation import PropagationStage

STAGES = {"gsv": PropagationStage, "segnet": SegmenterStage, "flow": FlowStage}


def report_of(metrics: dict) -> tuple[list[str], dict[str, float]]:
    """An evaluation's metrics -> lines for the console, and the values to plot, by name."""
    if "end_point_error" in metrics:
        return [f"{key.replace('_', ' ')}: {value:.4f} grid pixels" for key, value in metrics.items()], metrics
    values = {f"miou_position_{row['position']}": row["miou"] for row in metrics["positions"]}
    values |= {key: metrics[key] for key in ("avg_miou", "pooled_miou", "min_miou")}
    lines = [*positions_table(metrics).console()[1:], *averages(metrics)]
    return lines, {name: value for name, value in values.items() if value is not None}


def score_of(metrics: dict) -> float:
    """What "best" means: the higher the better."""
    if "end_point_error" in metrics:
        return -metrics["end_point_error"]
    return metrics["avg_miou"] if metrics["avg_miou"] is not None else 0.0
