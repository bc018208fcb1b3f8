"""Whether label files hold the ids of their data set: labels of another kind would teach nothing, or the wrong thing."""
from collections.abc import Sequence

import numpy as np

from config.cityscapes import CITYSCAPES
from config.errors import UserError
from config.schema import DatasetConfig
from dataloaders.clips import LabelledFrame
from dataloaders.images import read_ids

SHOWN = 8  # ids in a line
TRAIN_IDS = {*range(CITYSCAPES.num_classes), 255}
NO_CITYSCAPES_CLASS = set(range(7))  # label ids; as trainIds they are road, building and others that every picture shows


def strangeness(ids: np.ndarray, dataset: DatasetConfig) -> str:
    """Why a label with these pixels of each id, (256,), seems to be of another kind; empty where it does not."""
    seen = set(np.flatnonzero(ids).tolist())
    if not seen & {*dataset.label_ids, *(label_id for label_id, _ in dataset.also)}:
        some = ", ".join(map(str, sorted(seen)[:SHOWN])) + (", ..." if len(seen) > SHOWN else "")
        return f"holds no id of a class of {dataset.name}, but {some}"
    if dataset.label_ids == CITYSCAPES.label_ids and 255 in seen and seen <= TRAIN_IDS and seen & NO_CITYSCAPES_CLASS:
        return "looks like trainIds (0 to 18, 255); wanted are labelIds"
    return ""


def refuse_strange_labels(frames: Sequence[LabelledFrame], dataset: DatasetConfig) -> None:
    """Raise UserError where every label of a split seems to be of another kind. Labels are read until one does not: the first,
    as a rule. Those that cannot be read are left to whoever needs them."""
    first = ""
    for frame in frames:
        try:
            reason = strangeness(np.bincount(read_ids(frame.label).ravel(), minlength=256), dataset)
        except UserError:
            continue
        if not reason:
            return
        first = first or f"{frame.label}: {reason}"
    if first:
        raise UserError(f"{first}; the other labels are no better; python -m dataloaders.dataset_check counts the ids of all")
