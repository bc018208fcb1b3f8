"""What the command line starts: chooses device and ranks, then trains, evaluates, or runs the demonstration."""
from pathlib import Path

import torch
from torch import Tensor

from config.errors import UserError
from config.options import Options
from dataloaders.build import prepare_data
from trainer.benchmark import run_benchmark
from trainer.demo import run_demo
from trainer.evaluate import Evaluation, Predictions, table_lines
from trainer.networks import networks_for_evaluation
from trainer.runs import new_experiment
from trainer.trainer import Stopped, Trainer
from utils.distributed import Ranks, join, leave, wait_for_all
from utils.logging import logger, start_console, write_json
from utils.visualize import write_picture


def run(options: Options) -> int:
    """Do what the options say; returns the exit status. Raises UserError for what the user can mend."""
    device = choose_device(options)
    ranks = join(options.local_rank, device.type == "cuda")
    start_console(quiet=not ranks.first)
    try:
        if options.demo:
            run_demo(options, device)
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
    if options.device == "cpu" or options.device == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: no usable GPU here; use --device cpu or auto")
    if options.local_rank >= torch.cuda.device_count():
        raise UserError(f"--local-rank {options.local_rank}: only {torch.cuda.device_count()} GPUs here")
    return torch.device("cuda", options.local_rank)


def run_evaluation(options: Options, device: torch.device, ranks: Ranks) -> dict:
    """Evaluate, print the table, write metrics.json (and predictions); returns the metrics."""
    if options.stage == "segnet" and options.method == "gsv":
        raise UserError("--stage segnet --evaluate 1 wants --method per-frame or copy; gsv belongs to --stage gsv")
    evaluation = Evaluation(options, device, ranks)
    net = networks_for_evaluation(options).to(device)
    folder = new_experiment(options) if ranks.first and options.visualization else None
    writers = []
    if options.save_predictions:
        writers.append(evaluation.writer_of_predictions(Path(options.save_predictions)))
    if folder is not None:
        def write_panel(name: str, clip: Tensor, label: Tensor, predictions: Predictions) -> None:
            picture = evaluation.panel(clip, label, predictions[options.method])
            write_picture(folder / "visualization" / f"{name}.png", picture)
        writers.append(write_panel)

    def on_frame(*seen) -> None:
        for writer in writers:
            writer(*seen)

    metrics = evaluation.run(net, methods=(options.method,), on_frame=on_frame)[options.method]
    if ranks.first:
        for line in table_lines(metrics):
            logger.info("%s", line)
        folder = folder or new_experiment(options)
        for path in {folder / "metrics.json", Path(options.metrics_file or folder / "metrics.json")}:
            write_json(path, metrics)
            logger.info("metrics: %s", path)
    return metrics
