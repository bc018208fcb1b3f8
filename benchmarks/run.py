"""Run a benchmark by its name: measure, print a table, write JSON."""
from pathlib import Path
from typing import Any

import torch

from benchmarks.cameras import benchmark_cameras
from benchmarks.carrying import benchmark_carry
from benchmarks.class_counts import benchmark_classes
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
    "video": benchmark_video, "classes": benchmark_classes, "schedule": benchmark_schedule,
    "carry": benchmark_carry, "cameras": benchmark_cameras,
}
DRY_RUN = "dry run (--early-stop 1): little work, timed once; no figures to report"


def run_benchmark(options: Options, device: torch.device) -> dict:
    """Run the benchmark that `--benchmark` names, print its table and write it as JSON; returns the JSON's content.

    Keys: `benchmark` (name), `machine` (see `measure.machine`), `dry_run`, and those that the benchmark returns, of
    which `markdown` (lines) and `figure` become files next to the JSON.
    """
    if options.early_stop:
        torch.set_num_threads(1)  # on a busy machine, threads wait for each other longer than small frames take
    content: dict[str, Any] = {
        "benchmark": options.benchmark, "machine": machine(device), "dry_run": options.early_stop,
        **BENCHMARKS[options.benchmark](options, device),
    }
    head = [machine_line(content["machine"]), *([DRY_RUN] if options.early_stop else [])]
    for line in [*head, *content["table"]]:
        logger.info("%s", line)
    path = Path(options.metrics_file or Path(options.log_folder) / f"benchmark_{options.benchmark}.json")
    path = path.with_suffix(".json")
    if "markdown" in content:
        write_text(path.with_suffix(".md"), "\n".join([*head, "", *content.pop("markdown")]))
    if "figure" in content:
        write_chart(path.with_suffix(".png"), content.pop("figure"))
    write_json(path, content)
    logger.info("written: %s", path)
    return content
