"""Segmenting a video from end to end: `--video IN --output OUT`."""
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch

from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from config.schema import DatasetConfig
from dataloaders.images import id_table
from inference.engine_choice import choose_engine
from inference.keyframe_schedule import NEVER, build_schedule
from inference.stream import VideoSegmenter
from inference.threads import WriteBehind, read_ahead
from inference.video_input import Frames, open_frames
from inference.video_writer import ENDINGS, LabelFolder, VideoFile, check_output, is_video, silence_codecs
from models.gsvnet import GSVNet
from models.load import chosen_by_val, networks_for_inference
from models.load_segmenter import classes_of
from models.methods.base import SeenFrame
from utils.interrupts import Interrupt
from utils.logging import logger, progress_bar
from utils.visualize import colourise, overlay

# How the video shows a frame (H,W,3) and its labels (H,W).
STYLES: dict[str, Callable[..., np.ndarray]] = {
    "overlay": overlay,
    "colour": lambda image, labels, colours: colourise(labels, colours),
    "side-by-side": lambda image, labels, colours: np.hstack([image, colourise(labels, colours)]),  # (H,2W,3)
}
KINDS = ", ".join(ENDINGS)
MISLEADING = {".mov", ".webm", ".m4v", ".gif", ".png", ".jpg", ".jpeg"}  # endings that a folder would not have


def run_video(options: Options, device: torch.device) -> int:
    """Segment `--video` into `--output`. Returns the exit status; an interrupt completes the outputs up to its frame.

    Raises UserError.
    """
    if not options.debug:
        silence_codecs()
    frames = open_frames(options.video, options.fps, bits=dataset_config(options.dataset, options.data_path).bits)
    video, folder = outputs(options, frames)
    if "method" not in options.given:
        options = chosen_by_val(options)
    net = networks_for_inference(options).eval()
    classes, segmenter = classes_of(options, net.segmenter), segmenter_of(net, options, frames, device)
    height, width = frames.size
    if "method" not in options.given:
        carried = f", carrying {options.carry}" if options.method == "warp" else ""
        logger.info("--method auto: %s, %s flow%s", options.method, options.optical_flow_network, carried)
    logger.info("%s: %d x %d pixels, %.5g frames a second", frames.name, width, height, frames.fps)
    began = time.perf_counter()
    with Interrupt() as interrupt, ExitStack() as stack:
        writers = list(_writers(options, classes, frames, video, folder, stack))
        count, keyframes, inference = segment(frames, segmenter, writers, interrupt)
    seconds = time.perf_counter() - began
    _report(count, keyframes, seconds, inference, ", ".join(str(path) for path in (video, folder) if path))
    if interrupt.number:
        logger.info("stopped by signal %d; the frames segmented until then are written", interrupt.number)
    return interrupt.status


def _report(count: int, keyframes: int, seconds: float, inference: float, written: str) -> None:
    if not count:
        logger.info("no frame was segmented; nothing has been written")
        return
    logger.info(
        "%d frames (%d keyframes) in %.1f s: %.2f FPS with reading and writing, %.2f the segmenter alone; written: %s",
        count, keyframes, seconds, count / seconds, count / inference, written,
    )


def segmenter_of(net: GSVNet, options: Options, frames: Frames, device: torch.device) -> VideoSegmenter:
    """The stream that the options ask for, with an engine for these frames. Raises UserError."""
    interval = {"per-frame": 1, "tdnet": NEVER}.get(options.method, options.interval)
    engine = choose_engine(
        options.engine, net, size=frames.size, interval=interval, scale=options.scale, device=device, amp=options.amp,
        method=options.method, carry=options.carry, frames=frames.count,
    )
    return VideoSegmenter(net, engine=engine, schedule=build_schedule(options))


def outputs(options: Options, frames: Frames) -> tuple[Path | None, Path | None]:
    """The video and the folder of label maps that `--output` names, each or None. Raises UserError."""
    paths = [Path(name) for name in options.output]
    for path in paths:
        if path.suffix.lower() in MISLEADING:
            raise UserError(f"--output {path}: not a name for a video or a folder; a video ends in {KINDS}")
    videos, folders = [path for path in paths if is_video(path)], [path for path in paths if not is_video(path)]
    if len(videos) > 1 or len(folders) > 1:
        raise UserError(f"--output {' '.join(options.output)}: takes one video ({KINDS}), one folder, or both")
    if folders and not videos and {"style", "ids"} <= {*options.given}:
        raise UserError("--style and --ids: a folder holds pictures or ids; drop one of the two")
    read = {path.resolve() for path in frames.files}
    for path in (*videos, *(LabelFolder(folder).file(name) for folder in folders for name in frames.names)):
        if path.resolve() in read:
            raise UserError(f"--output: {path} is read by --video and would be overwritten; choose another name")
    for path in paths:
        check_output(path, frames.fps)
    return next(iter(videos), None), next(iter(folders), None)


def segment(
    frames: Frames, segmenter: VideoSegmenter, writers: Sequence[WriteBehind], interrupt: Interrupt
) -> tuple[int, int, float]:
    """Segment the frames until they end or an interrupt comes, while threads read ahead and write behind.

    Returns the number of frames, of keyframes among them, and the seconds that the segmenter took for them.
    """
    number, keyframes, seconds = 0, 0, 0.0
    segmenter.reset()
    with (
        closing(read_ahead(frames)) as images,
        closing(read_ahead(_seen(images, segmenter))) as seen_images,
        progress_bar(total=frames.count, description=frames.name, unit="frame") as bar,
    ):
        for image, seen, spent in seen_images:
            began = time.perf_counter() - spent
            labels = segmenter.labels_of(seen, began=began)
            seconds += time.perf_counter() - began
            for writer in writers:
                writer.put(frames.title(number), image, labels)
            number += 1
            keyframes += segmenter.was_keyframe
            bar.update()
            if interrupt.number:
                break
    return number, keyframes, seconds


def _seen(images: Iterable[np.ndarray], segmenter: VideoSegmenter) -> Iterator[tuple[np.ndarray, SeenFrame, float]]:
    """The frames, each with what the segmenter sees of it, a classical flow included, and the seconds it took."""
    seen = None
    for image in images:
        began = time.perf_counter()
        seen = segmenter.see(image, seen)
        yield image, seen, time.perf_counter() - began


def _writers(
    options: Options, dataset: DatasetConfig, frames: Frames, video: Path | None, folder: Path | None, stack: ExitStack
) -> Iterator[WriteBehind]:
    """The writers of the outputs, each in a thread; `stack` completes them, or removes them after an error.

    They take a frame's title, the frame, RGB (H,W,3) uint8, and its labels (H,W) uint8 class indices.
    """
    if video:
        file, paint = stack.enter_context(VideoFile(video, frames.fps)), STYLES[options.style]
        yield stack.enter_context(WriteBehind(
            lambda title, image, labels: file.write(paint(image, labels, dataset.colours), title)
        ))
    if folder:
        table = id_table(dataset) if options.ids == "dataset" else np.arange(256, dtype=np.uint8)
        maps, style = LabelFolder(folder), STYLES[options.style] if "style" in options.given and not video else None
        yield stack.enter_context(WriteBehind(lambda title, image, labels: maps.write(
            title, style(image, labels, dataset.colours) if style else table[labels]
        )))
