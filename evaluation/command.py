"""`--evaluate 1`: evaluates, prints the tables, writes metrics, tables, report and pictures."""
from pathlib import Path

import torch

from config.options import Options
from evaluation.evaluate import Evaluation, OnFrame, Seen, writer_of_predictions
from evaluation.example_frames import Gallery, panel
from evaluation.report import report
from evaluation.tables import as_csv, console, markdown
from models.load import networks_for_inference
from utils.distributed import Ranks, from_all_ranks
from utils.files import check_writable, write_json, write_text
from utils.logging import logger
from utils.run_folder import new_experiment
from utils.visualize import write_picture


def run_evaluation(options: Options, device: torch.device, ranks: Ranks) -> dict:
    """Evaluate, print the tables, write metrics.json, tables and report (and predictions); returns the metrics."""
    evaluation = Evaluation(options, device, ranks, temporal=options.temporal)
    net = networks_for_inference(options).to(device)
    if ranks.first and options.metrics_file:
        check_writable(Path(options.metrics_file), "--metrics-file")
    if ranks.first and options.save_predictions:
        check_writable(Path(options.save_predictions) / "position_0" / "any.png", "--save-predictions")
    folder = from_all_ranks(new_experiment(options) if ranks.first else None)[0]
    gallery = Gallery(options.method, evaluation.positions)
    writers: list[OnFrame] = [gallery]
    if options.save_predictions:
        writers.append(writer_of_predictions(Path(options.save_predictions), evaluation))
    if options.visualization:
        writers.append(writer_of_panels(folder / "visualization", evaluation, options.method))

    def on_frame(seen: Seen) -> None:
        for writer in writers:
            writer(seen)

    metrics = evaluation.run(net, methods=(options.method,), on_frame=on_frame)[options.method]
    worst, usual = gallery.worst(), gallery.usual()
    metrics["worst"] = [shown.row() for shown in worst]
    if ranks.first:
        for line in console(metrics):
            logger.info("%s", line)
        write_json(folder / "metrics.json", metrics)
        if options.metrics_file:
            write_json(Path(options.metrics_file), metrics)
        write_text(folder / "metrics.csv", as_csv(metrics))
        write_text(folder / "metrics.md", markdown(metrics))
        write_text(folder / "report.html", report(metrics, worst, usual, evaluation.dataset))
        logger.info("metrics.json, metrics.csv, metrics.md, report.html: %s", folder)
    return metrics


def writer_of_panels(folder: Path, evaluation: Evaluation, method: str) -> OnFrame:
    """An `on_frame` that writes FOLDER/NAME.png: label and predictions over the frame, side by side."""

    def write(seen: Seen) -> None:
        write_picture(folder / f"{seen.frame.name}.png", panel(seen, method, evaluation.dataset.colours))

    return write
