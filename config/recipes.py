"""Named settings: the stages' published recipes."""
from typing import Any

# Where a stage's published recipe differs from the flags' defaults (which are the propagation's).
RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("segnet", "swiftnet"): dict(
        optim="adam", lr=4e-4, weight_decay=1e-4, batch_size=14, epoch=250, crop_height=768, crop_width=768, flip=0.5,
        random_scale=(0.5, 2.0), scale=1.0,
    ),
    ("segnet", "bisenet"): dict(
        optim="sgd", lr=0.025, weight_decay=5e-4, batch_size=16, epoch=431, crop_height=1024, crop_width=1024, flip=0.5,
        random_scale=(0.75, 2.0), scale=1.0,
    ),
    ("flow", "light"): dict(optim="adam", lr=1e-3, weight_decay=0.0, multi_step=(1,)),
    ("flow", "flownet"): dict(optim="adam", lr=1e-4, weight_decay=0.0, multi_step=(1,)),
}
