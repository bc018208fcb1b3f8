"""Named settings: the stages' released defaults, and recipes with what they reach, on what, and how long they take."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Where a stage's published settings differ from the options' defaults, which are those of the propagation with SGD.
STAGE_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
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
    # The released program steps the learning rates for SGD alone, and decays weights less with Adam.
    ("gsv", "adam"): dict(weight_decay=1e-4, lr_gamma=1.0),
}


@dataclass(frozen=True)
class Recipe:
    """What `--recipe NAME` sets, as if it were given; the command; and what it is expected to reach, in how long.

    Capitals in the command are yours to fill in: a data set's folder, or an earlier run's model_best.pth.tar.
    """

    settings: Mapping[str, Any]
    command: str
    expected: str
    time: str


_DEMO = dict(
    dataset="synthetic", pretrained_backbone=False, num_worker=2, scale=0.75, multi_step=(1, 2), eval_multi_step=(1, 2),
    crop_height=192, crop_width=384,
)
_DEMO_MACHINE = "two cores of an x86-64 virtual machine, no GPU, 24 November 2026"
_STREETS_MACHINE = "two cores of an AMD EPYC virtual machine, no GPU, 24 November 2026"
_CAMVID_MACHINE = "one core of an AMD EPYC virtual machine, no GPU, 24 November 2026"
_CAMVID_PROPAGATION = dict(
    stage="gsv", dataset="camvid", clip_source="stills", train_optical_flow=False, optim="adam", weight_decay=0.0,
    batch_size=8, crop_height=192, crop_width=288, random_scale=(0.6, 1.1),
)

RECIPES: dict[str, Recipe] = {
    # The three trainings of `make demo`: quick ones (small crops, few epochs, a flow network that learns true flow first).
    "demo-segmenter": Recipe(
        settings=_DEMO | dict(
            stage="segnet", optim="adam", lr=2e-3, weight_decay=1e-4, batch_size=8, epoch=5, flip=0.5, crop_height=128,
            crop_width=256, random_scale=(0.5, 1.0), eval_interval=5,
        ),
        command="python main.py --recipe demo-segmenter",
        expected="synthetic streets, mIoU 45.89 % (position 0)",
        time=f"part of make demo's 6.9 minutes, {_DEMO_MACHINE}",
    ),
    "demo-flow": Recipe(
        settings=_DEMO | dict(
            stage="flow", optim="adam", lr=2e-3, weight_decay=0.0, batch_size=16, epoch=6, eval_interval=6,
        ),
        command="python main.py --recipe demo-flow",
        expected="synthetic streets, mIoU 43.33 % at position 2 by warping alone",
        time=f"part of make demo's 6.9 minutes, {_DEMO_MACHINE}",
    ),
    # The paper's losses and passes; Adam, small batches and a quick decay, which learn most in few steps.
    "demo-propagation": Recipe(
        settings=_DEMO | dict(
            stage="gsv", optim="adam", lr=1e-3, guide_lr=2e-3, optical_flow_lr=1e-4, lr_gamma=0.6, weight_decay=0.0,
            batch_size=4, epoch=2, eval_interval=2, crop_height=160, crop_width=320, random_scale=(1.0, 1.0),
        ),
        command="python main.py --recipe demo-propagation --segnet-weights SEGNET --flow-weights FLOW",
        expected="synthetic streets, mIoU 45.62 % at position 2, average 45.98 %",
        time=f"part of make demo's 6.9 minutes, {_DEMO_MACHINE}",
    ),
    # Synthetic streets at length: python -m streets --root STREETS --train 90 --val 20 --length 20 --seed 5
    "streets-segmenter": Recipe(
        settings=dict(
            stage="segnet", dataset="synthetic", pretrained_backbone=False, epoch=14, lr=2e-3, batch_size=8, crop_height=160,
            crop_width=320, random_scale=(0.5, 1.0), scale=0.75, eval_interval=7, checkname="streets",
        ),
        command="python main.py --recipe streets-segmenter --data-path STREETS",
        expected="mIoU 70.27 % (position 0)",
        time=f"24 minutes, {_STREETS_MACHINE}",
    ),
    "streets-flow": Recipe(
        settings=dict(stage="flow", dataset="synthetic", epoch=6, lr=2e-3, batch_size=16, checkname="streets"),
        command="python main.py --recipe streets-flow --data-path STREETS",
        expected="mIoU 60.72 % at position 2 by warping, with the propagation's fine-tuning",
        time=f"7 minutes, {_STREETS_MACHINE}",
    ),
    "streets-propagation": Recipe(
        settings=dict(
            stage="gsv", dataset="synthetic", optim="adam", lr=1e-3, guide_lr=2e-3, optical_flow_lr=1e-4, lr_gamma=0.9,
            weight_decay=0.0, batch_size=4, epoch=2, crop_height=160, crop_width=320, random_scale=(1.0, 1.0),
            checkname="streets",
        ),
        command="python main.py --recipe streets-propagation --data-path STREETS --segnet-weights SEGNET --flow-weights FLOW",
        expected="mIoU 63.74 % at position 2, mean 67.06 % at interval 3",
        time=f"45 minutes, {_STREETS_MACHINE}",
    ),
    # CamVid's 367 training stills of the 360 x 480 download, without ImageNet weights; clips are made from stills.
    "camvid-segmenter": Recipe(
        settings=dict(
            stage="segnet", dataset="camvid", pretrained_backbone=False, epoch=60, lr=1e-3, batch_size=8, crop_height=192,
            crop_width=256, random_scale=(0.45, 1.1), scale=0.75, eval_interval=10, checkname="camvid",
        ),
        command="python main.py --recipe camvid-segmenter --data-path CAMVID",
        expected="mIoU 61.60 % (position 0)",
        time=f"32 minutes, {_CAMVID_MACHINE}",
    ),
    "camvid-flow": Recipe(
        settings=dict(
            stage="flow", clip_source="stills", dataset="camvid", epoch=40, lr=2e-3, batch_size=16, checkname="stills"
        ),
        command="python main.py --recipe camvid-flow --data-path CAMVID",
        expected="end-point error 0.248 pixels of the 1/8 grid on clips made from val (0.584 for no motion)",
        time=f"7 minutes, {_CAMVID_MACHINE}",
    ),
    "camvid-propagation": Recipe(
        settings=_CAMVID_PROPAGATION | dict(lr=1e-3, guide_lr=2e-3, lr_gamma=0.6, epoch=3, checkname="first"),
        command="python main.py --recipe camvid-propagation --data-path CAMVID --segnet-weights SEGNET --flow-weights FLOW",
        expected="mIoU 59.01 % at position 2, mean 60.38 % at interval 3",
        time=f"10 minutes, {_CAMVID_MACHINE}",
    ),
    # Continues camvid-propagation on the long intervals alone.
    "camvid-propagation-long": Recipe(
        settings=_CAMVID_PROPAGATION | dict(
            lr=4e-4, guide_lr=8e-4, lr_gamma=0.4, epoch=2, multi_step=(3, 4), checkname="second"
        ),
        command="python main.py --recipe camvid-propagation-long --data-path CAMVID --segnet-weights SEGNET "
        "--flow-weights FLOW --resume FIRST",
        expected="mIoU 59.74 % at position 2, mean 60.74 % at interval 3",
        time=f"4 minutes, {_CAMVID_MACHINE}",
    ),
}
