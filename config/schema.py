"""What differs between data sets, as plain values."""
from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetConfig:
    """Names, ids, colours and recipe of one data set.

    label_ids: the id that label files (and written predictions) use for each class, in class order; every other id
    is ignored. also: further ids of the label files, as pairs (id, class index). void: ids that are known to have no
    class. label_colours: pairs (colour, id) of label files that are coloured. bits: of frames whose 16-bit files hold
    fewer, 0 for files that use all. crop: training crop (H, W) of the propagation recipe, None for the command line's
    own default.
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
    void: tuple[int, ...] = ()
    label_colours: tuple[tuple[tuple[int, int, int], int], ...] = ()  # RGB
    bits: int = 0
    segmenter_weights: tuple[float, ...] = ()  # by class, of PIDNet's and DDRNet's cross-entropy; empty: all 1
    border: int = 0  # pixels at the frame's rim that labels leave out, where PIDNet looks for no boundaries

    @property
    def class_of(self) -> dict[int, int]:
        """Class index by id of the label files."""
        return {label_id: index for index, label_id in enumerate(self.label_ids)} | dict(self.also)

    @property
    def colour_ids(self) -> dict[int, int]:
        """Ids by the colours of coloured label files, packed as 0xRRGGBB."""
        return {red << 16 | green << 8 | blue: label_id for (red, green, blue), label_id in self.label_colours}

    @property
    def unknown_id(self) -> int:
        """An id that no class has and that is not void; it stands for colours without an id."""
        return next((i for i in range(255, -1, -1) if i not in self.class_of and i not in self.void), 255)

    @property
    def num_classes(self) -> int:
        return len(self.classes)
