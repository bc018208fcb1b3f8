"""--benchmark loader: what the loader delivers, beside the published way."""
import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.measure import rates
from benchmarks.published_way import PlainClips
from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from dataloaders.cache import Decode, PictureCache
from dataloaders.clips import ClipDataset, SizedDataset
from dataloaders.images import read_image
from dataloaders.loaders import labelled_frames
from models.build import SEGMENTERS

LOADER_CLIPS, DECODER_FRAMES = 8, 12


def benchmark_loader(options: Options, device: torch.device) -> dict:
    """Frames per second of one core: decoders, then whole loaders (decode, label, stack), reference and ours."""
    dataset, interval = dataset_config(options.dataset, options.data_path), options.multi_step[0]
    frames = labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="train", past=interval)
    clips = ClipDataset(frames, interval, dataset)
    if not len(clips):
        raise UserError(f"{options.data_path}: no train clip of {interval + 1} frames to measure with; see --multi-step")
    torch.set_num_threads(1)
    count = min(LOADER_CLIPS, len(clips))
    paths = sorted({path for frame in clips.frames[:count] for path in frame.frames})[:DECODER_FRAMES]
    decoders: dict[str, Decode] = {
        "Pillow": lambda path: np.array(Image.open(path).convert("RGB")),
        "OpenCV": opencv_image,
        "ours (OpenCV for PNG, torchvision.io for JPEG)": read_image,
    }
    decode = rates({name: partial(read_all, read, paths) for name, read in decoders.items()}, len(paths))
    segmenter = SEGMENTERS[options.segnet]
    with tempfile.TemporaryDirectory(dir=options.cache_dir or None) as folder:
        loaders: dict[str, SizedDataset] = {
            "reference (Pillow, float frames, label loop)": PlainClips(
                frames, interval, dataset, segmenter.pixel_mean, segmenter.pixel_std
            ),
            "ours": clips,
            "ours, decoded frames cached": ClipDataset(frames, interval, dataset, PictureCache(Path(folder))),
        }
        whole = rates({name: partial(load_all, data, count) for name, data in loaders.items()}, count * (interval + 1))
    first = next(iter(whole.values()))
    size = read_image(paths[0]).shape
    table = [f"frames of {size[1]} x {size[0]}, one core", f"{'decoder':<46}{'frames/s':>10}"]
    table += [f"{name:<46}{value:>10.1f}" for name, value in decode.items()]
    table += [f"{'loader, clips of ' + str(interval + 1) + ' frames and a label':<46}{'frames/s':>10}{'ratio':>8}"]
    table += [f"{name:<46}{value:>10.1f}{value / first:>8.2f}" for name, value in whole.items()]
    return {"frame": list(size), "decoders": decode, "loaders": whole, "table": table}


def read_all(read: Decode, paths: list[Path]) -> list[np.ndarray]:
    return [read(path) for path in paths]


def load_all(data: SizedDataset, count: int) -> list[dict]:
    return [data[i] for i in range(count)]


def opencv_image(path: Path) -> np.ndarray:
    """RGB (H,W,3) uint8."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise UserError(f"{path}: OpenCV cannot read it; restore the file from the data set")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
