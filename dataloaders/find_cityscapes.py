"""Cityscapes video sequences, and every data set in their folder layout."""
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from config.folders import CITYSCAPES, advice, contents, listed, nearest
from dataloaders.clips import LabelledFrame
from dataloaders.split_scan import NO_FRAME, SplitScan

FRAMES, STILLS, LABELS, FLOW, AHEAD = "leftImg8bit_sequence", "leftImg8bit", "gtFine", "flow", "flow_ahead"
LABEL_END = "_gtFine_labelIds.png"
LABEL_NAME = re.compile(rf"(?P<city>.+)_(?P<seq>\d{{6}})_(?P<frame>\d{{6}}){re.escape(LABEL_END)}")


def find_cityscapes(root: Path, split: str, past: int, scan: SplitScan | None = None) -> list[LabelledFrame]:
    """Scan `root` for the labelled frames of `split`, each with up to `past` frames before it.

    Layout: leftImg8bit_sequence/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png and
    gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png; leftImg8bit in place of leftImg8bit_sequence holds stills.
    Reports missing folders and labels without a frame to `scan`; without one, raises the first as a UserError.
    """
    scan, labels = scan or SplitScan(), root / LABELS / split
    if not labels.is_dir():
        scan.report(
            f"{labels}: no such folder; --data-path must hold {LABELS}/{split}/CITY/*{LABEL_END} and "
            f"{FRAMES}/{split}/CITY/*_leftImg8bit.png; {contents(nearest(labels))}{advice(root, CITYSCAPES)}"
        )
        return []
    found: list[LabelledFrame] = []
    # Without video sequences, the stills of the usual download are enough for what needs no past.
    kind = FRAMES if (root / FRAMES / split).is_dir() or not (root / STILLS / split).is_dir() else STILLS
    cities = [path for path in listed(labels) if path.is_dir()]
    for city in cities:
        with scan.reporting():
            found.extend(_find_city(root, f"{kind}/{split}/{city.name}", city, past, scan))
    if not found and not scan.problems:
        scan.report(f"{labels}: holds no CITY/*{LABEL_END}; {contents(cities[0] if cities else labels)}")
        return []
    frames = (root / kind / split).glob("*/*_leftImg8bit.png")
    scan.count_unlabelled(frames, {frame.frames[-1] for frame in found}, video=kind == FRAMES)
    return found


def _find_city(root: Path, frames: str, city: Path, past: int, scan: SplitScan) -> Iterator[LabelledFrame]:
    """Labelled frames of the labels in the folder `city`, whose frames are in the folder `frames` of `root`."""
    folder, split = root / frames, city.parent.name
    present = {path.name for path in listed(folder)} if folder.is_dir() else set()
    for label in listed(city):
        match = LABEL_NAME.fullmatch(label.name)
        if match is None:
            if label.name.endswith(LABEL_END) and scan.collect:  # training ignores it
                scan.report(f"{label}: not named CITY_SEQ_FRAME{LABEL_END}, so it is not used; rename it", NO_FRAME)
            continue
        prefix, last = f"{match['city']}_{match['seq']}", int(match["frame"])
        earlier = (f"{prefix}_{n:06d}_leftImg8bit.png" for n in range(last, max(-1, last - past - 1), -1))
        names, frame = [*itertools.takewhile(present.__contains__, earlier)][::-1], f"{prefix}_{last:06d}"
        if not names:
            scan.report_missing(folder / f"{frame}_leftImg8bit.png", label)
            continue
        flow, ahead = (root / kind / split / city.name / f"{frame}_flow.png" for kind in (FLOW, AHEAD))
        yield LabelledFrame(
            name=frame, frames=tuple(folder / name for name in names), label=label,
            prediction=f"{frame}_pred_labelIds.png",
            flow=flow if flow.is_file() else None, ahead=ahead if ahead.is_file() else None,
        )
