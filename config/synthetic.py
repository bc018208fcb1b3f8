"""Synthetic streets: made by this program, with the classes, ids and folders of Cityscapes."""
import math
from dataclasses import replace

from config.cityscapes import CITYSCAPES

# Share of each class among the pixels of the default training sequences, in per cent, in class order.
_PIXEL_SHARES = (30.8, 2.8, 12.3, 1.0, 1.6, 3.7, 1.1, 1.2, 6.2, 1.0, 16.5, 1.5, 1.2, 3.4, 7.2, 2.0, 3.2, 2.4, 1.0)

SYNTHETIC = replace(
    CITYSCAPES,
    name="synthetic",
    default_path="./data/synthetic",
    crop=(192, 384),
    # Bounded inverse log-frequency (Paszke et al., ENet), the kind of weights that the Cityscapes recipe has.
    class_weights=tuple(1 / math.log(1.02 + share / 100) for share in _PIXEL_SHARES),
)
