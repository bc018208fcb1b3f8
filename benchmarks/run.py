"""What --benchmark names: measures, prints a table, writes JSON."""
from pathlib import Path
from typing import Any

import torch

from benchmarks.comparison import benchmark_table
from benchmarks.evaluation_pass import benchmark_evaluation
from benchmarks.frame_loading import benchmark_loader
from benchmarks.measure import machine, machine_line
from benchmarks.scene_cuts import benchmark_schedule
from benchmarks.training_step import benchmark_train
from benchmarks.video_stream import benchmark_video
from config.options import Options
from utils.charts import write_chart
from utils.files import write_json, write_text
from utils.logging import logger

BENCHMARKS = {
    "train": benchmark_train, "loader": benchmark_loader, "eval": benchmark_evaluation, "table": benchmark_table,
    "video": benchmark_video, "schedule": benchmark_schedule,
}


def run_benchmark(options: Options, device: torch.device) -> dict:
    """Run the benchmark that `--benchmark` names, print its table, write it as JSON; returns the JSON's content.

    Where it gives `markdown` and a `figure`, they are written beside the JSON.
    """
    content: dict[str, Any] = {"benchmark": options.benchmark, "machine": machine(device)}
    content |= BENCHMARKS[options.benchmark](options, device)
    for line in [machine_line(content["machine"]), *content["table"]]:
        logger.info("%s", line)
    path = Path(options.metrics_file or Path(options.log_folder) / f"benchmark_{options.benchmark}.json").with_suffix(".json")
    if "markdown" in content:
        write_text(path.with_suffix(".md"), "\n".join([machine_line(content["machine"]), "", *content.pop("markdown")]))
    if "figure" in content:
        write_chart(path.with_suffix(".png"), content.pop("figure"))
    write_json(path, content)
    logger.info("written: %s", path)
    return content
