"""Check that label files hold the ids of their data set: from others, a network learns nothing, or wrong classes."""
from collections.abc import Sequence

import numpy as np

from config.cityscapes import CITYSCAPES
from config.errors import UserError
from config.schema import DatasetConfig
from dataloaders.clips import LabelledFrame
from dataloaders.images import read_ids

SHOWN = 8  # ids in a line
TRAIN_IDS = {*range(CITYSCAPES.num_classes), 255}
NOT_EVALUATED = set(range(7))  # as labelIds; as trainIds they are road, building and others that every picture shows


def wrong_kind(ids: np.ndarray, dataset: DatasetConfig) -> str:
    """Return why a label with these counts of pixels, (256,) by id, seems of another kind; empty if it is right."""
    present = set(np.flatnonzero(ids).tolist())
    if not present & {*dataset.label_ids, *(label_id for label_id, _ in dataset.also)}:
        some = ", ".join(map(str, sorted(present)[:SHOWN])) + (", ..." if len(present) > SHOWN else "")
        return f"holds no id of a class of {dataset.name}, only {some}"
    train_ids = 255 in present and present <= TRAIN_IDS and present & NOT_EVALUATED
    if dataset.label_ids == CITYSCAPES.label_ids and train_ids:
        return "looks like trainIds (0 to 18, 255); labelIds are required"
    return ""


def check_label_kind(frames: Sequence[LabelledFrame], dataset: DatasetConfig) -> None:
    """Raise UserError where every readable label of a split seems to be of another kind.

    Reads labels until one is right, as a rule the first. Unreadable labels are reported when they are needed.
    """
    first = ""
    for frame in frames:
        try:
            reason = wrong_kind(np.bincount(read_ids(frame.label).ravel(), minlength=256), dataset)
        except UserError:
            continue
        if not reason:
            return
        first = first or f"{frame.label}: {reason}"
    if first:
        raise UserError(f"{first}; no label of the split is better; count their ids with --check 1")
