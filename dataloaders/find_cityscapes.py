"""Cityscapes video sequences, and every data set in their folder layout."""
import re
from collections.abc import Iterator
from pathlib import Path

from config.errors import UserError
from config.folders import CITYSCAPES, advice, contents, listed, nearest
from dataloaders.clips import LabelledFrame

FRAMES, STILLS, LABELS, FLOW, AHEAD = "leftImg8bit_sequence", "leftImg8bit", "gtFine", "flow", "flow_ahead"
LABEL_NAME = re.compile(r"(?P<city>.+)_(?P<seq>\d{6})_(?P<frame>\d{6})_gtFine_labelIds\.png")


def find_cityscapes(root: Path, split: str, past: int) -> list[LabelledFrame]:
    """Scan `root` for the labelled frames of `split`, each with up to `past` frames before it.

    Layout: leftImg8bit_sequence/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png and
    gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png; leftImg8bit in place of leftImg8bit_sequence holds stills. Raises
    UserError where the folders, or the frame of a label, are missing.
    """
    labels = root / LABELS / split
    if not labels.is_dir():
        raise UserError(
            f"{labels}: no such folder; --data-path wants the layout {LABELS}/{split}/CITY/*_gtFine_labelIds.png beside "
            f"{FRAMES}/{split}/CITY/*_leftImg8bit.png; {contents(nearest(labels))}{advice(root, CITYSCAPES)}"
        )
    found: list[LabelledFrame] = []
    cities = [path for path in listed(labels) if path.is_dir()]
    for city in cities:
        found.extend(_find_city(root, split, city, past))
    if not found:
        raise UserError(f"{labels}: holds no CITY/*_gtFine_labelIds.png; {contents(cities[0] if cities else labels)}")
    return found


def _find_city(root: Path, split: str, city: Path, past: int) -> Iterator[LabelledFrame]:
    # Without the video sequences, the stills of the usual download serve what needs no past.
    kind = FRAMES if (root / FRAMES / split).is_dir() or not (root / STILLS / split).is_dir() else STILLS
    folder = root / kind / split / city.name
    present = {path.name for path in listed(folder)} if folder.is_dir() else set()
    for label in listed(city):
        match = LABEL_NAME.fullmatch(label.name)
        if match is None:
            continue
        prefix, last = f"{match['city']}_{match['seq']}", int(match["frame"])
        names = []
        for number in range(last, max(-1, last - past - 1), -1):
            name = f"{prefix}_{number:06d}_leftImg8bit.png"
            if name not in present:
                break
            names.append(name)
        if not names:
            missing = folder / f"{prefix}_{last:06d}_leftImg8bit.png"
            raise UserError(f"{missing}: missing, but {label} labels it; restore it, or remove the label")
        frame = f"{prefix}_{last:06d}"
        flow, ahead = (root / kind / split / city.name / f"{frame}_flow.png" for kind in (FLOW, AHEAD))
        yield LabelledFrame(
            name=frame,
            frames=tuple(folder / name for name in reversed(names)),
            label=label,
            prediction=f"{frame}_pred_labelIds.png",
            flow=flow if flow.is_file() else None,
            ahead=ahead if ahead.is_file() else None,
        )
