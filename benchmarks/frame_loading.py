"""--benchmark loader: frames per second of image decoders and of whole loaders, one of them the published way."""
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Rounds, turns
from benchmarks.published_way import PlainClips
from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from dataloaders.cache import Decode, PictureCache
from dataloaders.clips import ClipDataset, SizedDataset
from dataloaders.images import read_image
from dataloaders.loaders import labelled_frames
from models.build import segmenter_class
from utils.text_table import Table

ROUNDS = 5
CLIPS, DRY_RUN_CLIPS = 8, 1
DECODER_FRAMES = 12


def benchmark_loader(options: Options, device: torch.device) -> dict:
    """Time decoding, then loading clips (decode, map labels, stack), on one core and without loader processes.

    Returns `frame` (H,W,3), `decoders` and `loaders` (name -> frames per second), `table` (lines).
    """
    dataset, interval = dataset_config(options.dataset, options.data_path), options.multi_step[0]
    frames = labelled_frames(dataset=options.dataset, root=Path(options.data_path), split="train", past=interval)
    clips, rounds = ClipDataset(frames, interval, dataset), Rounds.of(options, ROUNDS)
    if not len(clips):
        raise UserError(f"{options.data_path}: no train clip has {interval + 1} frames; choose a smaller --multi-step")
    torch.set_num_threads(1)
    count = min(DRY_RUN_CLIPS if options.early_stop else CLIPS, len(clips))
    paths = sorted({path for frame in clips.frames[:count] for path in frame.frames})[:DECODER_FRAMES]
    decoders: dict[str, Decode] = {
        "Pillow": lambda path: np.array(Image.open(path).convert("RGB")),
        "OpenCV": lambda path: cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2RGB),
        "ours (OpenCV for PNG, torchvision.io for JPEG)": read_image,
    }
    decode = rates({name: partial(apply, read, paths) for name, read in decoders.items()}, len(paths), rounds)
    segmenter = segmenter_class(options.segnet)
    plain = PlainClips(frames, interval, dataset, segmenter.pixel_mean, segmenter.pixel_std)
    with tempfile.TemporaryDirectory(dir=options.cache_dir or None) as folder:
        cached = ClipDataset(frames, interval, dataset, PictureCache(Path(folder)))
        loaders: dict[str, SizedDataset] = {
            "published way (Pillow, float frames, label loop)": plain, "ours": clips,
            "ours, decoded frames cached": cached,
        }
        works = {name: partial(apply, data.__getitem__, range(count)) for name, data in loaders.items()}
        whole = rates(works, count * (interval + 1), rounds)
    size, first = read_image(paths[0]).shape, next(iter(whole.values()))
    rows = [(f"decode: {name}", f"{rate:.1f}", "") for name, rate in decode.items()]
    rows += [(f"load: {name}", f"{rate:.1f}", f"{rate / first:.2f}") for name, rate in whole.items()]
    title = f"Frames of {size[1]} x {size[0]} in clips of {interval + 1}, one core"
    table = Table(title, ("", "frames/s", "ratio"), tuple(rows))
    return {"frame": list(size), "decoders": decode, "loaders": whole, "table": table.console()}


def rates(works: Mapping[str, Callable[[], object]], frames: int, rounds: Rounds) -> dict[str, float]:
    """Frames per second of each work, which handles `frames` of them: median, the works taking turns."""
    return {name: frames / statistics.median(seconds) for name, seconds in turns(works, rounds).items()}


def apply(function: Callable[[Any], object], items: Sequence) -> None:
    """Call the function for every item."""
    for item in items:
        function(item)
