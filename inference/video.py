"""Segmenting videos from end to end: `--video IN --output OUT`."""
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch

from config.datasets import dataset_config
from config.errors import UserError
from config.options import Options, flag
from config.schema import DatasetConfig
from dataloaders.images import id_table
from inference.calibration import calibration_pairs
from inference.containers import USUAL_RATE, Frames
from inference.engine_choice import choose_engine
from inference.keyframe_schedule import NEVER, build_schedule
from inference.segment import Result, Segmentation
from inference.stream import VideoSegmenter
from inference.video_input import open_frames, title_of, videos_in
from inference.video_writer import ENDINGS, VideoFile, check_output, is_video, silence_codecs
from models.gsvnet import GSVNet
from models.load import chosen_by_val, networks_for_inference
from models.load_segmenter import classes_of
from utils.distributed import Ranks, from_all_ranks
from utils.interrupts import Interrupt, Stopped
from utils.logging import logger
from utils.visualize import colourise, overlay, write_picture

# How the video shows a frame (H,W,3) and its labels (H,W).
STYLES: dict[str, Callable[..., np.ndarray]] = {
    "overlay": overlay,
    "colour": lambda image, labels, colours: colourise(labels, colours),
    "side-by-side": lambda image, labels, colours: np.hstack([image, colourise(labels, colours)]),  # (H,2W,3)
}
KINDS = ", ".join(ENDINGS)
MISLEADING = {".mov", ".webm", ".m4v", ".gif", ".png", ".jpg", ".jpeg"}  # endings that a folder would not have


def run_video(options: Options, device: torch.device, ranks: Ranks) -> int:
    """Segment `--video` into `--output`; of several videos, this rank's share. Returns the exit status; an interrupt
    completes the outputs up to its frame.

    Raises UserError.
    """
    if not options.debug:
        silence_codecs()
    sources = videos_in(options.video)
    if sources != [options.video]:
        return _run_several(options, device, ranks, sources)
    if not ranks.first:
        return 0
    frames = _opened(options, options.video)
    places = outputs(options, frames)
    if status := _Videos(options, device).segment(frames, *places):
        logger.info("stopped by signal %d; the frames segmented until then are written", status - 128)
    return status


def _opened(options: Options, source: str) -> Frames:
    bits, end = dataset_config(options.dataset, options.data_path).bits, options.end or None
    return open_frames(source, options.fps, bits=bits, start=options.start, end=end, stride=options.stride)


def _run_several(options: Options, device: torch.device, ranks: Ranks, sources: Sequence[str]) -> int:
    """Segment this rank's share of `sources` into the folder `--output`. Raises UserError once all are tried."""
    places = output_videos(options, sources)
    there = [place for place in places if place.exists()]
    if there:
        counts, folder = f"{len(there)} of {len(places)}", options.output[0]
        logger.info("%s videos are in %s already; delete one to segment it again", counts, folder)
    mine = [*places.items()][ranks.rank :: ranks.count]
    left = [(place, source) for place, source in mine if place not in there]
    if not left and ranks.count == 1:
        return 0
    videos, failed = _Videos(options, device), list[str]()
    for place, source in left:
        try:
            status = videos.segment(_opened(options, source), place, None, whole=True)
        except UserError as error:
            failed.append(error.line)
        except Stopped as stop:
            logger.info("%s; %s is not finished, and not kept", stop, place)
            return stop.status
        else:
            if status:  # while the video was being completed
                logger.info("stopped by signal %d; %s is finished", status - 128, place)
                return status
    failed = [line for each in from_all_ranks(failed) for line in each]
    if failed and ranks.first:
        done = ", the others are done" if len(failed) < len(sources) else ""
        raise UserError(f"{len(failed)} of {len(sources)} videos failed{done}: {'; '.join(failed)}")
    return 2 if failed else 0


class _Videos:
    """Segments videos one after the other, with the same networks and, where they have one size, engine."""

    def __init__(self, options: Options, device: torch.device):
        self.options = options if "method" in options.given else chosen_by_val(options)
        self.net, self.device, self.size = networks_for_inference(self.options).eval(), device, (0, 0)

    def segment(self, frames: Frames, video: Path | None, folder: Path | None, whole: bool = False) -> int:
        """Segment into a video, a folder of label maps, or both. Returns the exit status. Raises UserError, and Stopped
        where an interrupt leaves a video unfinished that is wanted `whole`."""
        options = self.options
        if frames.size != self.size:
            self.segmenter, self.size = segmenter_of(self.net, options, frames, self.device), frames.size
        if "method" not in options.given:
            carried = f", carrying {options.carry}" if options.method == "warp" else ""
            logger.info("--method auto: %s, %s flow%s", options.method, options.optical_flow_network, carried)
        logger.info("%s: %d x %d pixels, %.5g frames a second", frames.name, *frames.size[::-1], frames.fps)
        classes, began = classes_of(options, self.net.segmenter), time.perf_counter()
        with Interrupt() as interrupt, ExitStack() as stack:
            writers = list(_writers(options, classes, frames, video, folder, stack))
            done = stack.enter_context(Segmentation(
                frames, self.segmenter, colours=classes.colours, stop=lambda: bool(interrupt.number)
            ))
            done.into(*writers)
            if whole and interrupt.number:
                raise Stopped(interrupt.status)
        _report(done, time.perf_counter() - began, ", ".join(str(path) for path in (video, folder) if path))
        return interrupt.status


def _report(done: Segmentation, seconds: float, written: str) -> None:
    if not done.count:
        logger.info("no frame was segmented; nothing has been written")
        return
    logger.info(
        "%d frames (%d keyframes) in %.1f s: %.2f FPS with reading and writing, %.2f the segmenter alone; written: %s",
        done.count, done.keyframes, seconds, done.count / seconds, done.count / done.spent, written,
    )
    if done.latencies:
        median, late = 1e3 * np.percentile(done.latencies, (50, 95))
        logger.info(
            "from a frame's arrival to its labels: median %.0f ms, 95th percentile %.0f ms; %d frames that came "
            "meanwhile were dropped", median, late, done.dropped,
        )


def output_videos(options: Options, sources: Sequence[str]) -> dict[Path, str]:
    """The videos in the folder `--output` that several `sources` become, each with its source. Raises UserError."""
    folder = Path(options.output[0])
    if len(options.output) > 1 or is_video(folder):
        raise UserError(f"--output {' '.join(options.output)}: of several videos, takes one folder for all")
    if "ids" in options.given:
        raise UserError("--ids: several videos become videos, not label maps; drop it, or segment one at a time")
    if folder.is_dir() and folder.resolve() == Path(options.video).resolve():
        raise UserError(f"--output {folder}: the folder of --video, whose videos it would join; choose another")
    places: dict[Path, str] = {}
    for source in sources:
        place = folder / f"{title_of(source)}.mp4"
        if place in places:
            both = f"{options.video}: {places[place]} and {source} would both become {place}"
            raise UserError(f"{both}; rename one, or segment them apart")
        if place.resolve() == Path(source).resolve():
            raise UserError(f"--output {folder}: {place} is read by --video and would be overwritten; choose another")
        places[place] = source
    check_output(folder, USUAL_RATE)
    return places


def segmenter_of(net: GSVNet, options: Options, frames: Frames, device: torch.device) -> VideoSegmenter:
    """The stream that the options ask for, with an engine for these frames. Raises UserError."""
    interval = {"per-frame": 1, "tdnet": NEVER}.get(options.method, options.interval)
    bits = dataset_config(options.dataset, options.data_path).bits
    source = options.calibrate or ("" if frames.live else frames.name)
    engine = choose_engine(
        options.engine, net, size=frames.size, interval=interval, scale=options.scale, device=device,
        precision=options.precision, method=options.method, carry=options.carry, frames=frames.count,
        calibrate=partial(calibration_pairs, source, bits=bits, seed=options.seed),
        agreement=options.agreement,
    )
    return VideoSegmenter(net, engine=engine, schedule=build_schedule(options))


def outputs(options: Options, frames: Frames) -> tuple[Path | None, Path | None]:
    """The video and the folder of label maps that `--output` names, each or None. Raises UserError."""
    paths = [Path(name) for name in options.output]
    if not all(options.output):
        raise UserError("--output: an empty name; name a video or a folder")
    for path in paths:
        if path.suffix.lower() in MISLEADING:
            raise UserError(f"--output {path}: not a name for a video or a folder; a video ends in {KINDS}")
    videos, folders = [path for path in paths if is_video(path)], [path for path in paths if not is_video(path)]
    if len(videos) > 1 or len(folders) > 1:
        raise UserError(f"--output {' '.join(options.output)}: takes one video ({KINDS}), one folder, or both")
    unused = sorted({"codec", "quality", "audio"} & {*options.given})
    if unused and not videos:
        raise UserError(f"{flag(unused[0])} is for a video, and --output names only a folder of label maps; drop it")
    if folders and not videos and {"style", "ids"} <= {*options.given}:
        raise UserError("--style and --ids: a folder holds pictures or ids; drop one of the two")
    read = {path.resolve() for path in frames.files}
    for path in (*videos, *(folder / f"{name}.png" for folder in folders for name in frames.names)):
        if path.resolve() in read:
            raise UserError(f"--output: {path} is read by --video and would be overwritten; choose another name")
    for path in paths:
        check_output(path, frames.fps)
    return next(iter(videos), None), next(iter(folders), None)


def _writers(
    options: Options, dataset: DatasetConfig, frames: Frames, video: Path | None, folder: Path | None, stack: ExitStack
) -> Iterator[Callable[[Result], object]]:
    """The writers of the outputs; `stack` completes them, or removes them after an error."""
    paint = STYLES[options.style]
    if video:
        given = {"codec": options.codec, "quality": None if options.quality < 0 else options.quality}
        file = stack.enter_context(VideoFile(
            video, frames.fps, **frames.kept | given | ({} if options.audio else {"sound": None})
        ))
        yield lambda x: file.write(paint(x.image, x.labels, dataset.colours), x.title, x.time, x.duration)
    if folder:
        table = id_table(dataset) if options.ids == "dataset" else np.arange(256, dtype=np.uint8)
        painted = "style" in options.given and not video
        yield lambda x: write_picture(
            folder / f"{x.title}.png", paint(x.image, x.labels, dataset.colours) if painted else table[x.labels]
        )
