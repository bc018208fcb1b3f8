"""The teacher's pass over unlabelled videos: each frame is segmented once, as in inference, and kept on disk."""
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from config.options import OF_AMP, Options
from config.schema import DatasetConfig
from dataloaders.clips import LabelledFrame
from dataloaders.images import id_table
from dataloaders.taught_clips import BEGINS, FOLLOWS, REPEATS, UNKNOWN
from evaluation.unlabelled import VideoPart
from inference.engines import Engine, build_engine
from inference.keyframe_schedule import Residual
from models.flow_dis import DISFlow
from models.gsvnet import GSVNet
from models.methods.base import SeenFrame
from trainer.teacher_cache import Pass, RowFiles, pictures_of, plan, prepare, teacher_folder
from utils.distributed import Ranks, wait_for_all
from utils.logging import progress_bar
from utils.visualize import write_picture

Keep = Callable[[Pass, Engine, int, SeenFrame], dict[str, Tensor]]  # keeps a row; what it returns is for the arrays
REPEATED = 0.25  # grey levels: a frame whose small picture differs less, on average, from the last one's repeats it
PAUSE = 4  # so many repetitions end a scene: together they may have changed much
RUN_IN = PAUSE + 2  # frames before a process's share that are looked at, so that all are judged alike in any share


def teacher_pass(
    net: GSVNet, parts: Sequence[VideoPart], options: Options, device: torch.device, ranks: Ranks,
    dataset: DatasetConfig, *, pictures: bool,
) -> list[Pass]:
    """The videos with the segmenter's logits of every frame that is trained on; what is not in the cache yet is
    computed, split over the ranks. pictures: instead, as PNG files, frames of video files, and label maps with the
    ids of `dataset`. Raises UserError where the disk is too small, and for unreadable frames."""
    folder = teacher_folder(options)
    net = GSVNet(net.segmenter, DISFlow(options.dis_side, options.dis_preset), net.guided, net.grid)
    engine = build_engine("eager", net, scale=options.scale, device=device,
                          precision=OF_AMP[options.amp])
    passes = plan(net, parts, options, folder, pictures)
    keep = partial(keep_pictures, ids=id_table(dataset)) if pictures else keep_arrays
    if ranks.first:
        prepare(passes, folder)
    wait_for_all()
    left = sum(int((each.states() == UNKNOWN).sum()) for each in passes)
    total = sum(len(each.numbers) for each in passes)
    wait_for_all()  # before the first rank writes, all have counted
    with progress_bar(total=total, done=total - left, description="teacher", unit="frame",
                      show=ranks.first and left > 0) as bar:
        for each in passes:
            share = range(*(len(each.numbers) * rank // ranks.count for rank in (ranks.rank, ranks.rank + 1)))
            for _ in run(each, engine, share, keep):
                bar.update(ranks.count)
    wait_for_all()
    return passes


def run(each: Pass, engine: Engine, share: range, keep: Keep) -> Iterator[int]:
    """Compute the rows of a share that are not there yet; yields each when it is done."""
    states = each.states()
    todo = [row for row in share if states[row] == UNKNOWN]
    if not todo:
        return
    first = max(0, todo[0] - RUN_IN)
    rows = {number: row for row, number in enumerate(each.numbers) if row >= first and row < share.stop}
    judge, last = Judge(), -1
    before: SeenFrame | None = None
    with RowFiles(each) as files:
        for number, image in enumerate(each.part.images()):
            if number not in rows:
                continue
            row, before = rows[number], before if number == last + 1 else None
            seen = engine.see(image[None], before)
            state, before, last = judge(before, seen), seen, number
            if row >= todo[0] and states[row] == UNKNOWN:
                files.write(row, state, {} if state == REPEATS else keep(each, engine, row, seen))
                yield row
            if row == todo[-1]:
                return


class Judge:
    """Finds repetitions, and where a scene begins; looks back no further than RUN_IN frames."""

    def __init__(self) -> None:
        self.cuts, self.repeated = Residual(math.inf), 0

    def __call__(self, before: SeenFrame | None, seen: SeenFrame) -> int:
        """The state of a frame; before: the one that it follows, if any."""
        repeated, self.repeated = self.repeated, 0
        if before is None:
            self.cuts.reset()
            return BEGINS
        if float(cv2.absdiff(before.looks[0], seen.looks[0]).mean()) < REPEATED:
            self.repeated = repeated + 1
            return REPEATS
        return BEGINS if self.cuts.needs_keyframe(1, before, seen) or repeated >= PAUSE else FOLLOWS


def keep_arrays(each: Pass, engine: Engine, row: int, seen: SeenFrame) -> dict[str, Tensor]:
    """What is kept of a frame in arrays."""
    logits = engine.first(seen).logits[0]  # (C,h,w)
    flow = torch.zeros(2, *logits.shape[1:]) if seen.flow is None else seen.flow[0]
    return {"logits": logits, "view": seen.view[0], "flow": flow}


def keep_pictures(each: Pass, engine: Engine, row: int, seen: SeenFrame, *, ids: np.ndarray) -> dict[str, Tensor]:
    """Write label map and frame as pictures; a frame that is a picture itself stays where it is."""
    frame, label = pictures_of(each, row)
    write_picture(label, ids[engine.labels(engine.first(seen), seen.size).numpy()])
    if frame.is_relative_to(each.video.folder):
        write_picture(frame, seen.image[0].numpy())
    return {}


def labelled_by_teacher(passes: Sequence[Pass], past: int) -> list[LabelledFrame]:
    """The kept frames as labelled ones, each with up to `past` frames of its scene before it."""
    found = []
    for each in passes:
        rows, before = each.video.kept()
        for number, row in enumerate(rows):
            clip = [pictures_of(each, int(x))[0] for x in rows[number - min(past, before[number]) : number + 1]]
            label, name = pictures_of(each, int(row))[1], each.video.names[row]
            found.append(LabelledFrame(name, tuple(clip), label, f"{name}_pred.png"))
    return found
