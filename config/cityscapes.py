"""Cityscapes (Cordts et al., CVPR 2016): 19 evaluated classes, colours of the data set itself."""
from config.schema import DatasetConfig

_CLASSES = (  # name, label id, colour, class weight of the released recipe
    ("road", 7, (128, 64, 128), 3.03871497),
    ("sidewalk", 8, (244, 35, 232), 13.01999212),
    ("building", 11, (70, 70, 70), 4.53008444),
    ("wall", 12, (102, 102, 156), 38.00898985),
    ("fence", 13, (190, 153, 153), 35.35990217),
    ("pole", 17, (153, 153, 153), 31.14247824),
    ("traffic light", 19, (250, 170, 30), 45.82106668),
    ("traffic sign", 20, (220, 220, 0), 39.44451896),
    ("vegetation", 21, (107, 142, 35), 6.00002668),
    ("terrain", 22, (152, 251, 152), 32.64759009),
    ("sky", 23, (70, 130, 180), 17.34725897),
    ("person", 24, (220, 20, 60), 31.45715227),
    ("rider", 25, (255, 0, 0), 47.0853521),
    ("car", 26, (0, 0, 142), 11.70166965),
    ("truck", 27, (0, 0, 70), 44.50966853),
    ("bus", 28, (0, 60, 100), 44.80501487),
    ("train", 31, (0, 80, 100), 45.63057065),
    ("motorcycle", 32, (0, 0, 230), 48.21080448),
    ("bicycle", 33, (119, 11, 32), 41.21912833),
)
_NAMES, _IDS, _COLOURS, _WEIGHTS = zip(*_CLASSES)

CITYSCAPES = DatasetConfig(
    name="cityscapes_2k",
    classes=_NAMES,
    label_ids=_IDS,
    colours=_COLOURS,
    class_weights=_WEIGHTS,
    default_path="./data/cityscapes",
    movable=("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    ground=("road", "sidewalk", "terrain"),
    sky=("sky",),
    segmenter_weights=(
        0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023, 0.9539, 0.9843, 1.1116, 0.9037,
        1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
    ),
    border=6,
    void=tuple(i for i in range(34) if i not in _IDS),
)
