"""The data sets by the names of the command line."""
from config.camvid import CAMVID
from config.cityscapes import CITYSCAPES
from config.synthetic import SYNTHETIC

DATASETS = {config.name: config for config in (CITYSCAPES, CAMVID, SYNTHETIC)}
