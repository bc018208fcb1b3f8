"""The demonstration: everything the program does, on synthetic streets, in a few minutes on two CPU cores.

It trains faster than the published recipes (config/recipes.py: demo-...), so it shows the order of the methods, not the
accuracy that they can reach.
"""
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.datasets import DATASETS
from config.options import Options
from config.recipes import RECIPES
from dataloaders.loaders import prepare_data
from evaluation.evaluate import Evaluation
from evaluation.evaluated_frames import EvaluatedFrame
from evaluation.example_frames import captioned_overlays
from evaluation.metrics_json import Metrics
from evaluation.tables import percent
from inference.engines import build_engine
from inference.video_writer import VideoFile
from models.flow_dis import DISFlow
from models.gsvnet import GSVNet
from models.load import networks_for_inference
from trainer.trainer import Trainer
from utils.distributed import Ranks
from utils.files import write_json
from utils.logging import logger
from utils.run_folder import BEST, LATEST
from utils.text_table import Table
from utils.visualize import grid, write_picture

FOLDER = Path("demo")
METHODS = ("per-frame", "copy", "warp", "gsv")
MOVED = "moved"  # the way without training: labels moved along DIS
OVERLAY_EVERY = 40  # frames
POSITIONS = (1, 2)  # in addition to position 0
TITLES = {
    "per-frame": "every frame segmented", "copy": "keyframe's labels copied", "warp": "warped only", "gsv": "GSVNet",
    MOVED: "labels moved along DIS, no training",
}


def run_demo(options: Options, device: torch.device) -> None:
    """Render the streets, train the three stages, evaluate, and write tables, pictures and a video to `demo/`."""
    started = time.monotonic()
    path = DATASETS["synthetic"].default_path
    common = replace(options, demo=False, data_path=path, checkname="demo", log_folder=str(FOLDER / "logs"), resume="0")
    _heading("synthetic streets", started)
    prepare_data(dataset="synthetic", root=Path(path))
    _heading("keyframe segmenter", started)
    segnet = Trainer(replace(common, **RECIPES["demo-segmenter"].settings), device, Ranks()).train() / BEST
    _heading("flow network, on true flow", started)
    flow = Trainer(replace(common, **RECIPES["demo-flow"].settings), device, Ranks()).train() / BEST
    _heading("propagation", started)
    common = replace(common, segnet_weights=str(segnet), flow_weights=str(flow), **RECIPES["demo-propagation"].settings)
    trained = Trainer(common, device, Ranks()).train() / LATEST
    _heading("evaluation on streets not trained on", started)
    evaluate_demo(replace(common, resume=str(trained)), device)
    logger.info("done in %.1f minutes; the results are in %s/", (time.monotonic() - started) / 60, FOLDER)
    logger.info("\nto try next:\n%s", "\n".join(f"  {line}" for line in next_commands(trained)))


def next_commands(trained: Path) -> list[str]:
    """Commands that use the trained files: evaluate, segment a video, train the propagation for two more epochs."""
    python = os.path.relpath(sys.executable)  # perhaps .venv/bin/python, which is not on the path
    return [
        f"{python} main.py --evaluate 1 --resume {trained}",
        f"{python} main.py --video demo --output {FOLDER / 'street.mp4'} --resume {trained}",
        f"{python} main.py --dataset synthetic --checkname demo --log-folder {FOLDER / 'logs'} --resume auto --epoch 4",
    ]


def evaluate_demo(options: Options, device: torch.device) -> None:
    """Evaluate all methods in one pass; print the table; write metrics, overlays and the side-by-side video."""
    evaluation = Evaluation(options, device, Ranks())
    net = networks_for_inference(options).to(device)
    engines = evaluation.engines(net, METHODS)
    classical = GSVNet(net.segmenter, DISFlow(), net.guided, net.grid)
    settings: dict[str, Any] = dict(scale=options.scale, device=device, method="warp", carry="labels")
    engines[MOVED] = build_engine("eager", classical, **settings)
    tally, count = evaluation.tally([*engines]), 0
    with VideoFile(FOLDER / "side_by_side.mp4", fps=8) as video:
        for frame in evaluation.frames(engines):
            tally.add(frame)
            if frame.source.labelled is None or max(POSITIONS) not in frame.positions:
                continue
            picture = side_by_side(frame, max(POSITIONS), evaluation.dataset.colours)
            video.write(picture)
            if count % OVERLAY_EVERY == 0:
                name = f"{frame.source.labelled.name}_position_{max(POSITIONS)}.png"
                write_picture(FOLDER / "overlays" / name, picture)
            count += 1
    metrics = evaluation.metrics(tally)
    metrics[MOVED] = replace(metrics[MOVED], method="warp", flow="dis", carry="labels")
    for line in comparison(metrics).console():
        logger.info("%s", line)
    write_json(FOLDER / "metrics.json", metrics["gsv"].to_json())
    for method in engines:
        write_json(FOLDER / f"metrics_{method}.json", metrics[method].to_json())


def comparison(metrics: Mapping[str, Metrics]) -> Table:
    """The methods' mIoU and pixel accuracy by position, average and minimum."""
    titles = [f"position {row.position}: {name}" for row in metrics["gsv"].positions for name in ("mIoU", "pixel acc.")]
    rows = []
    for method, title in TITLES.items():
        found = metrics[method]
        by_position = [percent(x) for row in found.positions for x in (row.miou, row.pixel_accuracy)]
        rows.append((title, *by_position, percent(found.avg_miou), percent(found.min_miou)))
    return Table("Per cent", ("", *titles, "average", "minimum"), tuple(rows))


def side_by_side(frame: EvaluatedFrame, position: int, colours: Sequence[Sequence[int]]) -> np.ndarray:
    """Label and three methods' predictions at a position, each over the frame: RGB (H,W,3) uint8."""
    maps = {TITLES[method]: frame.predictions[method][position] for method in ("copy", "warp", "gsv")}
    arrays = {title: ids.cpu().numpy() for title, ids in ({"label": frame.label} | maps).items()}
    panels = captioned_overlays(frame.image.cpu().numpy(), arrays, colours)
    return grid([panels[:2], panels[2:]])


def _heading(text: str, started: float) -> None:
    logger.info("\n[%4.0f s] %s", time.monotonic() - started, text)
