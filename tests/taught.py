"""Small trainings without labels, for tests."""
from pathlib import Path

import numpy as np
import torch

from config.cityscapes import CITYSCAPES
from config.command_line import parse
from config.options import Options
from dataloaders.taught_clips import ARRAYS, TaughtVideo
from evaluation.unlabelled import video_parts
from inference.engines import Engine, build_engine
from models.gsvnet import GSVNet
from trainer.teacher_cache import Pass, plan, prepare, teacher_folder

SIZE = (48, 64)
SEGMENTER = f"""
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 19, 1)
    return nn.Sequential(*parts), dict(classes={[*CITYSCAPES.classes]})
"""


def words_of(data: Path, weights: Path, folder: Path, *more: object) -> list[str]:
    """Words that train on small videos without labels, with logs in `folder`; 15 frames are 8 steps an epoch."""
    return [
        "--dataset", "unlabelled", "--data-path", str(data), "--weights-dir", str(weights), "--log-folder",
        str(folder / "logs"), "--device", "cpu", "--num-worker", "0", "--crop-height", "32", "--crop-width", "48",
        "--batch-size", "2", "--multi-step", "1", "2", "--eval-multi-step", "1", "--epoch", "1", *map(str, more),
    ]


def tiny_segmenter(folder: Path) -> str:
    """The --segnet of a segmenter that takes no time."""
    (folder / "net.py").write_text(SEGMENTER)
    return f"{folder / 'net.py'}:build"


def options_of(data: Path, weights: Path, folder: Path, *more: object) -> Options:
    return parse(words_of(data, weights, folder, *more))


def engine_of(net: GSVNet, options: Options) -> Engine:
    return build_engine("eager", net, scale=options.scale, device=torch.device("cpu"))


def prepared(net: GSVNet, options: Options, *, pictures: bool = False) -> list[Pass]:
    """The planned passes, with files that hold nothing yet."""
    passes = plan(net, video_parts(options, "train"), options, teacher_folder(options), pictures)
    prepare(passes, teacher_folder(options))
    return passes


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made_video(folder: Path, states: list[int], grid: tuple[int, int] = (3, 4), classes: int = 2) -> TaughtVideo:
    """A video whose arrays hold the number of their row everywhere, plus 0.5 in the flow."""
    folder.mkdir(parents=True)
    rows = np.arange(len(states), dtype=np.float16).reshape(-1, 1, 1, 1)
    for name, channels in zip(ARRAYS, (classes, 3, 2)):
        shift = 0.5 if name == "flow" else 0
        np.save(folder / f"{name}.npy", np.broadcast_to(rows + np.float16(shift), (len(states), channels, *grid)))
    np.save(folder / "state.npy", np.array(states, np.uint8))
    return TaughtVideo(folder, (8 * grid[0], 8 * grid[1]), [f"{folder.name}/{i:03}" for i in range(len(states))])
