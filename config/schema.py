"""What differs between data sets, as plain values."""
from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetConfig:
    """Names, ids, colours and recipe of one data set.

    label_ids: the id that label files (and written predictions) use for each class, in class order; every other id
    is ignored. also: further ids of the label files, as pairs (id, class index). crop: training crop (H, W) of the
    propagation recipe, None for the command line's own default.
    """

    name: str
    classes: tuple[str, ...]
    label_ids: tuple[int, ...]
    colours: tuple[tuple[int, int, int], ...]  # RGB
    class_weights: tuple[float, ...]  # of the propagation's cross-entropy
    default_path: str
    crop: tuple[int, int] | None = None
    ignore: int = 250
    movable: tuple[str, ...] = ()  # names of classes whose regions move by themselves, in clips made from stills
    ground: tuple[str, ...] = ()
    sky: tuple[str, ...] = ()
    also: tuple[tuple[int, int], ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.classes)
