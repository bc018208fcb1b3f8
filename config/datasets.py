"""The data sets by the names of the command line."""
from config.camvid import CAMVID
from config.cityscapes import CITYSCAPES
from config.custom import read_custom
from config.schema import DatasetConfig
from config.synthetic import SYNTHETIC

DATASETS = {config.name: config for config in (CITYSCAPES, CAMVID, SYNTHETIC)}
CUSTOM = "custom"  # described by the user's own file
UNLABELLED = "unlabelled"  # videos and folders of frames; the classes are the segmenter's
NAMES = (*DATASETS, CUSTOM, UNLABELLED)
_NO_CLASSES = DatasetConfig(
    name=UNLABELLED, classes=(), label_ids=(), colours=(), class_weights=(), default_path=f"data/{UNLABELLED}"
)


def dataset_config(name: str, path: str) -> DatasetConfig:
    """Return the configuration of a data set; path: its folder, or a custom one's description. Raises UserError."""
    if name == UNLABELLED:
        return _NO_CLASSES
    return read_custom(path).config if name == CUSTOM else DATASETS[name]
