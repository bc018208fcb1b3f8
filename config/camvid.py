"""CamVid (Brostow et al., 2008): the usual 11 classes, and which frame belongs to which split."""
from config.schema import DatasetConfig

_CLASSES = (  # name, colour, class weight of the released recipe
    ("sky", (128, 128, 128), 6.088367253290739),
    ("building", (128, 0, 0), 4.519555764402027),
    ("pole", (192, 192, 128), 33.97442457184865),
    ("road", (128, 64, 128), 3.892793490946617),
    ("sidewalk", (0, 0, 192), 12.472488354029295),
    ("tree", (128, 128, 0), 8.53161322681152),
    ("sign", (192, 128, 128), 47.70112012347462),
    ("fence", (64, 64, 128), 29.66528556102586),
    ("car", (64, 0, 128), 18.998198498821438),
    ("pedestrian", (64, 64, 0), 38.38783950878698),
    ("bicyclist", (0, 128, 192), 40.105909294306784),
)
_NAMES, _COLOURS, _WEIGHTS = zip(*_CLASSES)
VOID = len(_NAMES)
# The 32 colours of the original labels, by the class that they are usually merged into (as for SegNet).
_MERGED = {
    "sky": [(128, 128, 128)],
    "building": [(128, 0, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64), (64, 192, 0)],  # archway, bridge, tunnel, wall
    "pole": [(192, 192, 128), (0, 0, 64)],  # traffic cone
    "road": [(128, 64, 128), (128, 0, 192), (192, 0, 64)],  # lane markings
    "sidewalk": [(0, 0, 192), (64, 192, 128), (128, 128, 192)],  # parking block, road shoulder
    "tree": [(128, 128, 0), (192, 192, 0)],  # other vegetation
    "sign": [(192, 128, 128), (128, 128, 64), (0, 64, 64)],  # text, traffic light
    "fence": [(64, 64, 128)],
    "car": [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)],  # SUV, truck, train, others
    "pedestrian": [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],  # child, pram, animal
    "bicyclist": [(0, 128, 192), (192, 0, 192)],  # motorcycle
}

CAMVID = DatasetConfig(
    name="camvid",
    classes=_NAMES,
    label_ids=tuple(range(len(_NAMES))),
    colours=_COLOURS,
    class_weights=_WEIGHTS,
    default_path="./data/camvid",
    crop=(352, 480),
    movable=("car", "pedestrian", "bicyclist"),
    ground=("road", "sidewalk"),
    sky=("sky",),
    void=(VOID,),
    label_colours=(
        *((colour, _NAMES.index(name)) for name, colours in _MERGED.items() for colour in colours), ((0, 0, 0), VOID),
    ),
)

# The classes of PIDNet's own CamVid files.
PIDNET_ORDER = (
    "bicyclist", "building", "car", "pole", "fence", "pedestrian", "road", "sidewalk", "sign", "sky", "tree",
)
