"""The training stages by the names of the command line."""
from trainer.stages.flow_network import FlowStage
from trainer.stages.keyframe_segmenter import SegmenterStage
from trainer.stages.propagation import PropagationStage

STAGES = {"gsv": PropagationStage, "segnet": SegmenterStage, "flow": FlowStage}


def score_of(metrics: dict) -> float:
    """What "best" means: the higher the better."""
    if "end_point_error" in metrics:
        return -metrics["end_point_error"]
    return metrics["avg_miou"] if metrics["avg_miou"] is not None else 0.0
