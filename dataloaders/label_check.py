"""Check that labels and frames are what the data set's description says, before any work: from others, a network learns
nothing, or wrong classes."""
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from config.camvid import CAMVID
from config.cityscapes import CITYSCAPES
from config.errors import UserError
from config.schema import DatasetConfig
from dataloaders.clips import LabelledFrame
from dataloaders.images import check_bits, colour_counts
from dataloaders.reader import Reader
from utils.logging import logger

FIRST = 100  # labels and frames of a split that are looked at
SHOWN = 8  # ids in a line
LABEL_IDS = dict(zip(CITYSCAPES.classes, CITYSCAPES.label_ids))
TRAIN_IDS = {name: index for index, name in enumerate(CITYSCAPES.classes)}
NOT_EVALUATED = set(range(7))  # as labelIds; as trainIds they are road, building and others that every picture shows
MOST_UNKNOWN = 0.95  # share of pixels without a class that is still taken for sparse labels
STRAY = 0.001  # share of pixels below which a class may be stray pixels, as at the rim of a mask
LEAST_UNDECLARED = 0.01  # share of pixels that shows that undeclared ids are no accident
SURE = 0.2  # share of road and building, as trainIds, that labelIds never have for ids 0 and 2
SIMILAR = 3  # classes of Cityscapes by which a description is known to follow it


def wrong_kind(ids: np.ndarray, dataset: DatasetConfig) -> str:
    """Return why a label with these counts of pixels, (256,) by id, seems of another kind; empty if it is right."""
    present = set(np.flatnonzero(ids).tolist())
    if not present & {*dataset.class_of}:
        return f"holds no id of a class of {dataset.name}, only {_some(present)}"
    train_ids = 255 in present and present <= {*TRAIN_IDS.values(), 255} and present & NOT_EVALUATED
    if dataset.label_ids == CITYSCAPES.label_ids and train_ids:
        return "looks like trainIds (0 to 18, 255); labelIds are required"
    return ""


def other_convention(ids: np.ndarray, dataset: DatasetConfig) -> str:
    """Return which convention the ids of many labels, (256,) pixels by id, follow in place of the description's, and
    what the description would have to be; empty if none is known that fits better."""
    present, classes = set(np.flatnonzero(ids).tolist()), dataset.num_classes
    share = ids / max(1, ids.sum())
    undeclared = sum(share[i] for i in present if i not in dataset.class_of and i not in dataset.void)
    named = {name: i for name, i in zip(dataset.classes, dataset.label_ids) if name in LABEL_IDS}
    like_labels, like_train = (sum(named[x] == ids[x] for x in named) >= SIMILAR for ids in (LABEL_IDS, TRAIN_IDS))
    small, only_camvid = present <= {*range(20), 255}, dataset.name == CAMVID.name and undeclared >= LEAST_UNDECLARED
    road = share[0] + share[2] >= SURE and len(present & NOT_EVALUATED) >= SIMILAR
    # Of few classes: road or sidewalk by their trainIds, but neither they nor buildings by the description's ids.
    street = {named.get(name, 255) for name in ("road", "sidewalk", "building")}
    road |= sum(share[i] for i in (0, 1) if i not in dataset.void) >= SURE and not present & street
    if small and ((like_labels and max(named.values()) > 19 and road)
                  or (only_camvid and len(present & {*range(12, 19)}) >= SIMILAR)):
        return _instead("trainIds of Cityscapes (0 to 18), or the ids of another data set", TRAIN_IDS, named)
    if present <= {*range(34), 255} and undeclared >= LEAST_UNDECLARED and not small and (like_train or only_camvid):
        return _instead("labelIds of Cityscapes (0 to 33)", LABEL_IDS, named)
    counted = {*range(classes)}
    if {*dataset.class_of} == counted and 0 not in present and classes in present:
        if present <= counted | {classes, 255, *dataset.void}:
            return _instead("ids that start at 1", {name: i + 1 for i, name in enumerate(dataset.classes)})
    if present == {0, 255} and 255 not in {*dataset.class_of, *dataset.void}:
        name = next((name for name, i in zip(dataset.classes, dataset.label_ids) if i != 0), dataset.classes[-1])
        return _instead("masks of 0 and 255", {name: 255})
    return ""


def _instead(found: str, ids: Mapping[str, int], names: Collection[str] = ()) -> str:
    right = [f"{name}: {{id: {i}}}" for name, i in ids.items() if name in (names or ids)]
    rest = ", ..." if len(right) > SHOWN else ""
    return f"holds {found}, not the ids of the description; right would be {', '.join(right[:SHOWN])}{rest}"


def check_labels(frames: Sequence[LabelledFrame], reader: Reader, split: str) -> None:
    """Look at the first labels of a split and log which share of their pixels has a class.

    Raises UserError where they follow another convention, almost nothing has a class, or only one class occurs next to
    ids that the description does not mention. Unreadable labels are reported when they are needed.
    """
    dataset, counts, first = reader.dataset, np.zeros(256, np.int64), None
    reasons = []
    for label, ids in _readable(frames, reader):
        counts += ids
        first = first or label
        reasons.append(wrong_kind(ids, dataset))
    if first is None:
        return
    total, own = int(counts.sum()), [*dataset.class_of]
    unknown = [i for i in np.flatnonzero(counts) if i not in own and i not in dataset.void]
    share, undeclared = (counts[ids].sum() / total for ids in (own, unknown))
    found = f"{100 * undeclared:.1f} % of the pixels of the first {len(reasons)} labels of {split} have"
    what = f"{found} no class, by ids {_some({*unknown})}"
    if colours := unknown_colours(frames, dataset) if reader.coloured and dataset.unknown_id in unknown else []:
        what = f"{found} colours of no class: {', '.join(colours)}"
    hint = "give classes these colours" if colours else "declare them (ignore: [...]) or add classes"
    if unknown == [dataset.num_classes] and 0 in own and dataset.num_classes - 1 in own:
        hint += "; or do ids start at 1, and 0 is void? Then every class is wrong by one"
    found_ids = {*np.flatnonzero(counts).tolist()} - {255, *dataset.void}
    if len(own) > 2 and {*own} in ({i + 1 for i in found_ids}, {i - 1 for i in found_ids}):
        hint += "; or is every id of the description wrong by one?"
    hint += "; count ids with --check 1"
    reason = other_convention(counts, dataset)
    if all(reasons) and not (reason and reasons[0].startswith("holds no id")):
        raise UserError(f"{first}: {reasons[0]}; no label of the split is better; count their ids with --check 1")
    if reason:
        raise UserError(f"{first}: {reason}; count ids with --check 1")
    common = np.count_nonzero(counts[own] >= STRAY * total)
    if undeclared >= MOST_UNKNOWN or (common == 1 and undeclared >= LEAST_UNDECLARED):
        only = "" if undeclared >= MOST_UNKNOWN else f", and all others are {_classes(counts, dataset)}"
        raise UserError(f"{first}: {what}{only}; {hint}")
    present = {index for i, index in dataset.class_of.items() if counts[i]}
    absent = [name for index, name in enumerate(dataset.classes) if index not in present]
    never = f"; none is {', '.join(absent)}" if absent else ""
    count = len(reasons)
    logger.info("%s: %.1f %% of the pixels of the first %d labels have a class%s", split, 100 * share, count, never)
    if unknown:
        logger.warning("%s; %s", what, hint)


def check_frames(frames: Sequence[LabelledFrame], reader: Reader) -> None:
    """Raise UserError where the first frames of a split are 16-bit files whose values have fewer bits.

    They would be nearly black. Unreadable frames are reported when they are needed.
    """
    if check_bits([frame.frames[-1] for frame in frames[:FIRST]], reader.dataset.bits):
        logger.info("frames of %d bits in 16-bit files: scaled to 8 bits", reader.dataset.bits)


def _readable(frames: Sequence[LabelledFrame], reader: Reader) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the first labels that can be read, and their pixels by id, (256,)."""
    for frame in frames[:FIRST]:
        try:
            yield str(frame.label), np.bincount(reader.ids(frame.label).ravel(), minlength=256)
        except UserError:
            continue


def unknown_colours(frames: Sequence[LabelledFrame], dataset: DatasetConfig) -> list[str]:
    """Return the commonest colours without a class in the first labels that hold colours, as text."""
    counts: dict[int, int] = {}
    for frame in frames[:FIRST]:
        try:
            for colour, count in colour_counts(frame.label).items():
                if colour not in dataset.colour_ids:
                    counts[colour] = counts.get(colour, 0) + count
        except UserError:
            continue
    common = sorted(counts, key=lambda colour: -counts[colour])
    shown = [f"({x >> 16}, {x >> 8 & 255}, {x & 255}) {counts[x]} pixels" for x in common[:SHOWN]]
    return [*shown, *([f"{len(common) - SHOWN} more"] if len(common) > SHOWN else [])]


def _classes(counts: np.ndarray, dataset: DatasetConfig) -> str:
    return ", ".join(dataset.classes[index] for i, index in dataset.class_of.items() if counts[i])


def _some(ids: set) -> str:
    return ", ".join(map(str, sorted(ids)[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")
