"""What the command line starts: chooses device and ranks, then trains, evaluates, or runs the demonstration."""
from pathlib import Path

import torch

from config.errors import UserError
from config.options import Options
from dataloaders.build import prepare_data
from trainer.benchmarks.run import run_benchmark
from trainer.demo import run_demo
from trainer.evaluate import Evaluation, OnFrame, Seen, writer_of_predictions
from trainer.export import run_export
from trainer.gallery import Gallery, panel
from trainer.networks import networks_for_evaluation
from trainer.remedies import OF_LIBRARIES, as_user_error
from trainer.report import report
from trainer.runs import new_experiment
from trainer.tables import as_csv, console, markdown
from trainer.trainer import Stopped, Trainer
from trainer.video import run_video
from utils.distributed import Ranks, from_all_ranks, join, leave, wait_for_all
from utils.logging import logger, refuse_unwritable, start_console, write_json, write_text
from utils.visualize import write_picture

WITHOUT_DATA = ("table", "video")  # benchmarks that look at no data set


def run(options: Options) -> int:
    """Do what the options say; returns the exit status. Raises UserError for what the user can mend."""
    device = choose_device(options)
    try:
        return _run(options, device)
    except OF_LIBRARIES as error:
        mendable = as_user_error(error, options, device)
        if mendable is None:
            raise
        raise mendable from error


def _run(options: Options, device: torch.device) -> int:
    ranks = join(options.local_rank, device.type == "cuda")
    start_console(quiet=not ranks.first)
    try:
        if options.demo:
            run_demo(options, device)
            return 0
        if options.export:
            if ranks.first:
                run_export(networks_for_evaluation(options), options)
            return 0
        if options.video:
            return run_video(options, device)
        if options.benchmark in WITHOUT_DATA:
            run_benchmark(options, device)
            return 0
        if ranks.first:  # before the others look for it: it may have to be made
            prepare_data(dataset=options.dataset, root=Path(options.data_path))
        wait_for_all()
        if options.benchmark:
            run_benchmark(options, device)
        elif options.evaluate:
            run_evaluation(options, device, ranks)
        else:
            Trainer(options, device, ranks).run()
    except Stopped as stop:
        logger.info("%s; continue with --resume auto", stop)
        return stop.status
    finally:
        leave()
    return 0


def choose_device(options: Options) -> torch.device:
    """`--device`, with auto for the GPU where there is one. Raises UserError for a GPU that is not there."""
    if options.device == "cpu" or (options.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: no usable GPU here; use --device cpu or auto")
    if options.local_rank >= torch.cuda.device_count():
        raise UserError(f"--local-rank {options.local_rank}: only {torch.cuda.device_count()} GPUs here")
    return torch.device("cuda", options.local_rank)


def run_evaluation(options: Options, device: torch.device, ranks: Ranks) -> dict:
    """Evaluate, print the tables, write metrics.json, tables and report (and predictions); returns the metrics."""
    evaluation = Evaluation(options, device, ranks, temporal=options.temporal)
    net = networks_for_evaluation(options).to(device)
    if ranks.first and options.metrics_file:
        refuse_unwritable(Path(options.metrics_file), "--metrics-file")
    if ranks.first and options.save_predictions:
        refuse_unwritable(Path(options.save_predictions) / "position_0" / "any.png", "--save-predictions")
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
