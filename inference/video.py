"""Segmenting a video from end to end: `--video IN --output OUT`."""
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options
from dataloaders.images import id_table
from inference.engine_choice import choose_engine
from inference.keyframe_schedule import Budget, FixedInterval, SceneCut, Schedule
from inference.stream import VideoSegmenter
from inference.threads import WriteBehind, read_ahead
from inference.video_input import Frames, open_frames
from inference.video_writer import ENDINGS, LabelFolder, VideoFile, check_output, is_video, silence_codecs
from models.load import networks_for_inference
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


@dataclass(frozen=True)
class SegmentedFrame:
    """One frame, RGB (H,W,3) uint8, and its labels (H,W) uint8 class indices, to be written."""

    title: str
    image: np.ndarray
    labels: np.ndarray


@dataclass
class Tally:
    """Frames done, keyframes among them, and the seconds that the segmenter took for them."""

    frames: int = 0
    keyframes: int = 0
    inference: float = 0.0


def run_video(options: Options, device: torch.device) -> int:
    """Segment `--video` into `--output`. Returns the exit status; an interrupt completes the outputs up to its frame.

    Raises UserError.
    """
    if not options.debug:
        silence_codecs()
    frames = open_frames(options.video, options.fps)
    video, folder = outputs(options, frames)
    segmenter = segmenter_of(options, frames, device)
    height, width = frames.size
    logger.info("%s: %d x %d pixels, %.5g frames a second", frames.name, width, height, frames.fps)
    began = time.perf_counter()
    with Interrupt() as interrupt, ExitStack() as stack:
        writers = list(_writers(options, frames, video, folder, stack))
        tally = segment(frames, segmenter, writers, interrupt)
    _report(tally, time.perf_counter() - began, [str(path) for path in (video, folder) if path])
    if interrupt.number:
        logger.info("stopped by signal %d; the frames segmented until then are written", interrupt.number)
    return interrupt.status


def segmenter_of(options: Options, frames: Frames, device: torch.device) -> VideoSegmenter:
    """The segmenter that the options ask for, with an engine for these frames. Raises UserError."""
    net = networks_for_inference(options).eval()
    engine = choose_engine(
        options.engine, net, size=frames.size, interval=1 if options.method == "per-frame" else options.interval,
        scale=options.scale, device=device, amp=options.amp, frames=frames.count,
    )
    return VideoSegmenter(net, engine=engine, schedule=schedule_of(options))


def schedule_of(options: Options) -> Schedule:
    """The schedule that --schedule names; with --method per-frame, every frame is a keyframe."""
    if options.method == "per-frame":
        return FixedInterval(1)
    if options.schedule == "cut":
        return SceneCut(options.interval, options.cut_threshold)
    if options.schedule == "budget":
        return Budget(options.budget)
    return FixedInterval(options.interval)


def outputs(options: Options, frames: Frames) -> tuple[Path | None, Path | None]:
    """The video and the folder of label maps that `--output` names, each or None. Raises UserError."""
    paths = [Path(name) for name in options.output]
    for path in paths:
        if path.suffix.lower() in MISLEADING:
            raise UserError(f"--output {path}: not a name for a video or a folder; a video ends in {KINDS}")
    videos, folders = [path for path in paths if is_video(path)], [path for path in paths if not is_video(path)]
    if len(videos) > 1 or len(folders) > 1:
        raise UserError(f"--output {' '.join(options.output)}: takes one video ({KINDS}), one folder, or both")
    video, folder = next(iter(videos), None), next(iter(folders), None)
    read = {path.resolve() for path in frames.files}
    written = [video] if video else []
    if folder:
        written += [LabelFolder(folder).file(name) for name in frames.names]
    for path in written:
        if path.resolve() in read:
            raise UserError(f"--output: {path} is read by --video and would be overwritten; choose another name")
    for path in paths:
        check_output(path, frames.fps)
    return video, folder


def segment(
    frames: Frames, segmenter: VideoSegmenter, writers: Sequence[WriteBehind[SegmentedFrame]], interrupt: Interrupt
) -> Tally:
    """Segment the frames until they end or an interrupt comes, while threads read ahead and write behind."""
    tally = Tally()
    segmenter.reset()
    with (
        closing(read_ahead(frames)) as images,
        progress_bar(total=frames.count, description=frames.name, unit="frame") as bar,
    ):
        for image in images:
            began = time.perf_counter()
            labels = segmenter(image)
            tally.inference += time.perf_counter() - began
            for writer in writers:
                writer.put(SegmentedFrame(frames.title(tally.frames), image, labels))
            tally.frames += 1
            tally.keyframes += segmenter.was_keyframe
            bar.update()
            if interrupt.number:
                break
    return tally


def _writers(
    options: Options, frames: Frames, video: Path | None, folder: Path | None, stack: ExitStack
) -> Iterator[WriteBehind[SegmentedFrame]]:
    """The writers of the outputs, each in a thread; `stack` completes them, or removes them after an error."""
    dataset = dataset_config(options.dataset, options.data_path)
    if video:
        file, paint = stack.enter_context(VideoFile(video, frames.fps)), STYLES[options.style]
        yield stack.enter_context(WriteBehind(
            lambda frame: file.write(paint(frame.image, frame.labels, dataset.colours), frame.title)
        ))
    if folder:
        table = id_table(dataset) if options.ids == "dataset" else np.arange(256, dtype=np.uint8)
        maps = LabelFolder(folder)
        yield stack.enter_context(WriteBehind(lambda frame: maps.write(frame.title, table[frame.labels])))


def _report(tally: Tally, seconds: float, written: list[str]) -> None:
    if not tally.frames:
        logger.info("no frame was segmented; nothing has been written")
        return
    logger.info(
        "%d frames (%d keyframes) in %.1f s: %.2f FPS with reading and writing, %.2f the segmenter alone; written: %s",
        tally.frames, tally.keyframes, seconds, tally.frames / seconds, tally.frames / tally.inference,
        ", ".join(written),
    )
