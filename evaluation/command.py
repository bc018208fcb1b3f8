"""`--evaluate 1`: evaluates, prints the tables, writes metrics, tables, report and pictures."""
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from config.options import Options
from config.schema import DatasetConfig
from dataloaders.images import id_table
from evaluation.evaluate import Evaluation
from evaluation.evaluated_frames import EvaluatedFrame
from evaluation.example_frames import ExampleFrames, example_frame, panel
from evaluation.frame_times import FRAMES, frame_times
from evaluation.metrics_json import Fraction, Metrics
from evaluation.report import report
from evaluation.tables import as_csv, console, markdown
from models.flow_dis import DISFlow
from models.gsvnet import GSVNet
from models.load import networks_for_inference
from models.load_segmenter import classes_of
from utils.distributed import Ranks, from_all_ranks
from utils.files import check_writable, write_json, write_text
from utils.logging import logger
from utils.run_folder import new_experiment
from utils.visualize import write_picture


def run_evaluation(
    options: Options, device: torch.device, ranks: Ranks, folder: Path | None = None
) -> Metrics:
    """Evaluate one method; print the tables, write metrics, tables, report and, if asked, predictions and overlays into
    `folder`, or a new run folder."""
    if options.reference == "segmenter":
        net = networks_for_inference(options).to(device)
        classes = classes_of(options, net.segmenter)
        evaluation = Evaluation(options, device, ranks, temporal=options.temporal, dataset=classes)
    else:
        evaluation = Evaluation(options, device, ranks, temporal=options.temporal)
        net = networks_for_inference(options).to(device)
    if ranks.first and options.metrics_file:
        check_writable(Path(options.metrics_file), "--metrics-file")
    if ranks.first and options.save_predictions:
        check_writable(Path(options.save_predictions) / "position_0" / "any.png", "--save-predictions")
    method, dataset = options.method, evaluation.dataset
    engines = evaluation.engines(net, [method])  # before there is a folder, since some do not work everywhere
    folder = folder or from_all_ranks(new_experiment(options) if ranks.first else None)[0]
    tally, examples = evaluation.tally([method]), ExampleFrames(method, evaluation.positions)
    for frame in evaluation.frames(engines):
        tally.add(frame)
        examples.add(frame)
        write_pictures(frame, options, dataset, folder)
    worst, others = examples.worst(), examples.random()
    metrics = replace(evaluation.metrics(tally)[method], worst=tuple(example.worst_frame() for example in worst))
    if isinstance(net.flow, DISFlow) and method in ("gsv", "warp"):
        metrics = replace(metrics, flow_settings=net.flow.settings)
    if ranks.first and options.reference == "segmenter" and options.schedule == "fixed":
        metrics = replace(metrics, milliseconds=milliseconds_of(evaluation, net))
    if ranks.first:
        for line in console(metrics):
            logger.info("%s", line)
        write_json(folder / "metrics.json", metrics.to_json())
        if options.metrics_file:
            write_json(Path(options.metrics_file), metrics.to_json())
        write_text(folder / "metrics.csv", as_csv(metrics))
        write_text(folder / "metrics.md", markdown(metrics))
        write_text(folder / "report.html", report(metrics, worst, others, dataset))
        logger.info("metrics.json, metrics.csv, metrics.md, report.html: %s", folder)
    return metrics


def write_pictures(frame: EvaluatedFrame, options: Options, dataset: DatasetConfig, folder: Path) -> None:
    """Write a labelled frame's predictions and its overlay, as far as the options ask for them."""
    method, labelled = options.method, frame.source.labelled
    if labelled is None:
        return
    if options.save_predictions:
        for position, prediction in frame.predictions[method].items():
            path = Path(options.save_predictions) / f"position_{position}" / labelled.prediction
            write_picture(path, id_table(dataset)[prediction.cpu().numpy()])  # at the label's size
    if options.visualization:
        picture = panel(example_frame(frame, method), dataset.colours)
        write_picture(folder / "visualization" / f"{labelled.name}.png", picture)


def milliseconds_of(evaluation: Evaluation, net: GSVNet) -> dict[str, Fraction] | None:
    """`frame_times` on the first frames that are evaluated, by the method of the options."""
    options, first = evaluation.options, [item["image"] for item in islice(evaluation.loader, FRAMES)]
    settings: dict[str, Any] = dict(method=options.method, carry=options.carry, scale=options.scale)
    return frame_times(net, first, device=evaluation.device, **settings) if len(first) > 1 else None
