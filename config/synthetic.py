"""Synthetic streets: made by this program, with the classes, ids and folders of Cityscapes."""
from dataclasses import replace

from config.cityscapes import CITYSCAPES

SYNTHETIC = replace(
    CITYSCAPES,
    name="synthetic",
    default_path="./data/synthetic",
    crop=(192, 384),
)
