"""The demonstration: everything the program does, on synthetic streets, in a few minutes on two CPU cores.

It trains faster than the published recipes (config/recipes.py: demo-...), so it shows the order of the methods, not the
accuracy that they can reach.
"""
import time
from dataclasses import replace
from pathlib import Path

import cv2
import torch

from config.datasets import DATASETS
from config.options import Options
from config.recipes import RECIPES
from dataloaders.loaders import prepare_data
from evaluation.evaluate import Evaluation, Seen
from inference.video_writer import VideoFile
from models.load import networks_for_inference
from trainer.trainer import Trainer
from utils.distributed import Ranks
from utils.files import write_json
from utils.logging import logger
from utils.run_folder import BEST, LATEST
from utils.visualize import grid, overlay, with_caption, write_picture

FOLDER = Path("demo")
METHODS = ("per-frame", "copy", "warp", "gsv")
POSITIONS = (1, 2)  # in addition to position 0
TITLES = {
    "per-frame": "every frame segmented", "copy": "keyframe's labels copied", "warp": "warped only", "gsv": "GSVNet",
}


def run_demo(options: Options, device: torch.device) -> None:
    """Render the streets, train the three stages, evaluate, and write tables, pictures and a video to `demo/`."""
    started = time.monotonic()
    path = DATASETS["synthetic"].default_path
    common = replace(
        options, demo=False, data_path=path, checkname="demo", log_folder=str(FOLDER / "logs"), resume="0"
    )
    _heading("synthetic streets", started)
    prepare_data(dataset="synthetic", root=Path(path))
    _heading("keyframe segmenter", started)
    segnet = Trainer(replace(common, **RECIPES["demo-segmenter"].settings), device, Ranks()).train() / BEST
    _heading("flow network, on true flow", started)
    flow = Trainer(replace(common, **RECIPES["demo-flow"].settings), device, Ranks()).train() / BEST
    _heading("propagation", started)
    common = replace(
        common, segnet_weights=str(segnet), flow_weights=str(flow), **RECIPES["demo-propagation"].settings
    )
    trained = Trainer(common, device, Ranks()).train() / LATEST
    _heading("evaluation on streets not trained on", started)
    evaluate_demo(replace(common, resume=str(trained)), device)
    logger.info("done in %.1f minutes; the results are in %s/", (time.monotonic() - started) / 60, FOLDER)
    logger.info("\nto try next:\n%s", "\n".join(f"  {line}" for line in next_commands(segnet, flow, trained)))


def next_commands(segnet: Path, flow: Path, trained: Path) -> list[str]:
    """Commands that use the trained files: evaluate, segment a video, train the propagation for two more epochs."""
    weights = f"--dataset synthetic --segnet-weights {segnet}"
    resumed = f"--checkname demo --log-folder {FOLDER / 'logs'} --resume auto"
    return [
        f"python main.py --evaluate 1 {weights} --resume {trained}",
        f"python main.py --video demo --output {FOLDER / 'street.mp4'} {weights} --resume {trained}",
        f"python main.py --recipe demo-propagation --epoch 4 {weights} --flow-weights {flow} {resumed}",
    ]


def evaluate_demo(options: Options, device: torch.device) -> None:
    """Evaluate all methods in one pass; print and write the table, overlays and the side-by-side video."""
    evaluation = Evaluation(options, device, Ranks())
    net = networks_for_inference(options).to(device)
    scenes = Scenes(evaluation)
    metrics = evaluation.run(net, methods=METHODS, on_frame=scenes)
    scenes.close()
    for line in comparison(metrics):
        logger.info("%s", line)
    write_json(FOLDER / "metrics.json", metrics["gsv"])
    for method in METHODS:
        write_json(FOLDER / f"metrics_{method}.json", metrics[method])


def comparison(metrics: dict[str, dict]) -> list[str]:
    """The methods' metrics -> a console table: mIoU and pixel accuracy by position, average and minimum."""
    positions = [row["position"] for row in metrics["gsv"]["positions"]]
    head = "".join(f"  position {k}: mIoU  pixel acc." for k in positions)
    lines = [f"{'':<26}{head}   average  minimum"]
    for method in METHODS:
        rows = {row["position"]: row for row in metrics[method]["positions"]}
        cells = "".join(f"{100 * rows[k]['miou']:>18.2f}{100 * rows[k]['pixel_accuracy']:>12.2f}" for k in positions)
        total = f"{100 * metrics[method]['avg_miou']:>10.2f}{100 * metrics[method]['min_miou']:>9.2f}"
        lines.append(f"{TITLES[method]:<26}{cells}{total}")
    return lines


class Scenes:
    """Write, while frames are evaluated, overlay pictures of some and a side-by-side video of all at position 2."""

    def __init__(self, evaluation: Evaluation, every: int = 40):
        self.colours, self.every, self.seen = evaluation.dataset.colours, every, 0
        self.video = VideoFile(FOLDER / "side_by_side.mp4", fps=8)

    def __call__(self, seen: Seen) -> None:
        position = max(seen.predictions["gsv"])
        if position < max(POSITIONS):
            return
        height, width = seen.label.shape
        image = cv2.resize(seen.image.cpu().numpy(), (width, height))
        maps = {"label": seen.label, **{TITLES[method]: seen.predictions[method][position] for method in ("copy", "warp", "gsv")}}
        panels = [with_caption(overlay(image, ids.cpu().numpy(), self.colours), title) for title, ids in maps.items()]
        picture = grid([panels[:2], panels[2:]])
        self.video.write(picture)
        if self.seen % self.every == 0:
            write_picture(FOLDER / "overlays" / f"{seen.frame.name}_position_{position}.png", picture)
        self.seen += 1

    def close(self) -> None:
        self.video.close()


def _heading(text: str, started: float) -> None:
    logger.info("\n[%4.0f s] %s", time.monotonic() - started, text)
