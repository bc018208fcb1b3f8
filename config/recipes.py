"""Named settings: the stages' published defaults, and recipes with the figures they reach, and in how much time."""
from dataclasses import dataclass
from typing import Any

# Where a stage's published settings differ from the options' defaults, which are those of the propagation with SGD.
_DUAL = dict(  # of PIDNet and DDRNet
    optim="sgd", lr=0.01, weight_decay=5e-4, batch_size=12, epoch=484, crop_height=1024, crop_width=1024, flip=0.5,
    random_scale=(0.5, 2.1), scale=1.0, pretrained_backbone=False,
)
_DEEPLAB = dict(  # of Accel's two networks; published with frozen BatchNorm, from weights of ImageNet
    optim="sgd", lr=5e-4, weight_decay=5e-4, batch_size=1, epoch=53, crop_height=768, crop_width=1024, flip=0.5,
    random_scale=(1.0, 1.0), scale=1.0, pretrained_backbone=False,
)
_TDNET = dict(  # 40,000 iterations, in epochs of Cityscapes' 2,975 pictures; scales are of the whole frame
    optim="sgd", lr=0.01, weight_decay=1e-4, batch_size=8, epoch=108, crop_height=768, crop_width=1536, flip=0.5,
    random_scale=(0.5625, 1.5), scale=0.75, pretrained_backbone=False, multi_step=(1, 2),
    eval_multi_step=(1, 2, 3, 4, 5, 6),  # the frames with less memory, then each sub-network once
)
STAGE_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("segnet", "swiftnet"): dict(
        optim="adam", lr=4e-4, weight_decay=1e-4, batch_size=14, epoch=250, crop_height=768, crop_width=768, flip=0.5,
        random_scale=(0.5, 2.0), scale=1.0,
    ),
    ("segnet", "bisenet"): dict(
        optim="sgd", lr=0.025, weight_decay=5e-4, batch_size=16, epoch=431, crop_height=1024, crop_width=1024, flip=0.5,
        random_scale=(0.75, 2.0), scale=1.0,
    ),
    **{("segnet", name): _DUAL for name in ("pidnet-s", "pidnet-m", "pidnet-l", "ddrnet23-slim", "ddrnet23")},
    # 140,000 and 150,000 iterations, in epochs of Cityscapes' 2,975 pictures.
    ("segnet", "bisenet-xception39"): dict(
        optim="sgd", lr=0.01, weight_decay=5e-4, batch_size=16, epoch=753, crop_height=768, crop_width=1536, flip=0.5,
        random_scale=(0.5, 1.75), scale=1.0, pretrained_backbone=False,
    ),
    ("segnet", "bisenetv2"): dict(
        optim="sgd", lr=5e-3, weight_decay=5e-4, batch_size=16, epoch=807, crop_height=512, crop_width=1024, flip=0.5,
        random_scale=(0.25, 2.0), scale=1.0, pretrained_backbone=False,
    ),
    **{("segnet", name): _DEEPLAB for name in ("deeplab101", "deeplab18")},
    ("segnet", "accel18"): _DEEPLAB | dict(flip=0.0, multi_step=(4,), interval=5),
    ("segnet", "td4-bise18"): _TDNET,
    ("segnet", "td4-psp18"): _TDNET | dict(crop_height=769, crop_width=1537),
    ("flow", "light"): dict(optim="adam", lr=1e-3, weight_decay=0.0, multi_step=(1,)),
    ("flow", "flownet"): dict(optim="adam", lr=1e-4, weight_decay=0.0, multi_step=(1,)),
    # The released program steps the learning rates for SGD alone, and decays weights less with Adam.
    ("gsv", "adam"): dict(weight_decay=1e-4, lr_gamma=1.0),
}

# --dataset unlabelled: the propagation on a segmenter's own maps, over a flow that needs no training.
OF_UNLABELLED: dict[str, Any] = dict(
    optical_flow_network="dis", optim="adam", lr=1e-3, guide_lr=2e-3, lr_gamma=0.8, weight_decay=0.0, batch_size=4,
    epoch=4, eval_interval=4, crop_height=384, crop_width=768,
)


@dataclass(frozen=True)
class Recipe:
    """What `--recipe NAME` sets, as if each option were given; what it is expected to reach; and how long it takes.

    words: what else to give. Capitals stand for a data set's folder, or the model_best.pth.tar of an earlier run.
    """

    name: str
    settings: dict[str, Any]
    words: str
    expected: str
    time: str

    @property
    def command(self) -> str:
        return f"python main.py --recipe {self.name} {self.words}".strip()


_NETWORKS = "--segnet-weights SEGNET --flow-weights FLOW"
_DEMO_TIME = "part of `make demo`, 7 minutes on 2 cores of an x86-64 machine without GPU, 24 and 27 November 2026"
_STREETS_TIME = "{} minutes on 2 cores of an AMD EPYC virtual machine without GPU, 24 November 2026"
_CAMVID_TIME = "{} minutes on 1 core of an AMD EPYC virtual machine without GPU, November 2026"
_DEMO = dict(
    dataset="synthetic", pretrained_backbone=False, num_worker=2, scale=0.75, multi_step=(1, 2), eval_multi_step=(1, 2),
    crop_height=192, crop_width=384,
)
_CAMVID = dict(  # the propagation, on clips made from the stills
    dataset="camvid", clip_source="stills", train_optical_flow=False, optim="adam", weight_decay=0.0, batch_size=8,
    crop_height=192, crop_width=288, random_scale=(0.6, 1.1),
)
RECIPES = {recipe.name: recipe for recipe in (
    # `make demo`: quick, with small crops and few epochs.
    Recipe("demo-segmenter", _DEMO | dict(
        stage="segnet", optim="adam", lr=2e-3, weight_decay=1e-4, batch_size=8, epoch=5, flip=0.5, crop_height=128,
        crop_width=256, random_scale=(0.5, 1.0), eval_interval=5,
    ), "", "mIoU 46.75 % (position 0)", _DEMO_TIME),
    # On true flow, before the propagation trains it further.
    Recipe("demo-flow", _DEMO | dict(
        stage="flow", optim="adam", lr=2e-3, weight_decay=0.0, batch_size=16, epoch=6, eval_interval=6,
    ), "", "mIoU 44.19 % at position 2 by warping alone, after demo-propagation", _DEMO_TIME),
    # The paper's losses and passes; Adam, small batches and a quick decay, which learn most in few steps.
    Recipe("demo-propagation", _DEMO | dict(
        optim="adam", lr=1e-3, guide_lr=2e-3, optical_flow_lr=1e-4, lr_gamma=0.6, weight_decay=0.0, batch_size=4,
        epoch=2, eval_interval=2, crop_height=160, crop_width=320, random_scale=(1.0, 1.0),
    ), _NETWORKS, "mIoU 46.62 % at position 2, mean 46.89 %", _DEMO_TIME),
    # Synthetic streets at length: python -m streets --root STREETS --train 90 --val 20 --length 20 --seed 5
    Recipe("streets-segmenter", dict(
        stage="segnet", dataset="synthetic", pretrained_backbone=False, epoch=14, lr=2e-3, batch_size=8, scale=0.75,
        crop_height=160, crop_width=320, random_scale=(0.5, 1.0), eval_interval=7, checkname="streets",
    ), "--data-path STREETS", "mIoU 70.27 % (position 0)", _STREETS_TIME.format(24)),
    Recipe("streets-flow", dict(
        stage="flow", dataset="synthetic", epoch=6, lr=2e-3, batch_size=16, checkname="streets",
    ), "--data-path STREETS", "mIoU 60.72 % at position 2 by warping alone, after streets-propagation",
        _STREETS_TIME.format(7)),
    Recipe("streets-propagation", dict(
        dataset="synthetic", optim="adam", lr=1e-3, guide_lr=2e-3, optical_flow_lr=1e-4, lr_gamma=0.9, weight_decay=0.0,
        batch_size=4, epoch=2, crop_height=160, crop_width=320, random_scale=(1.0, 1.0), checkname="streets",
    ), f"--data-path STREETS {_NETWORKS}", "mIoU 63.74 % at position 2, mean 67.06 % at interval 3",
        _STREETS_TIME.format(45)),
    # CamVid: the 367 training stills of the 360 x 480 download, a second apart; no ImageNet weights.
    Recipe("camvid-segmenter", dict(
        stage="segnet", dataset="camvid", pretrained_backbone=False, epoch=60, lr=1e-3, batch_size=8, scale=0.75,
        crop_height=192, crop_width=256, random_scale=(0.45, 1.1), eval_interval=10, checkname="camvid",
    ), "--data-path CAMVID", "mIoU 61.60 % (position 0)", _CAMVID_TIME.format(32)),
    Recipe("camvid-flow", dict(
        stage="flow", clip_source="stills", dataset="camvid", epoch=40, lr=2e-3, batch_size=16, checkname="stills",
    ), "--data-path CAMVID", "end-point error 0.248 pixels of the 1/8 grid (no motion: 0.584)", _CAMVID_TIME.format(7)),
    Recipe("camvid-propagation", _CAMVID | dict(
        lr=1e-3, guide_lr=2e-3, lr_gamma=0.6, epoch=3, checkname="first",
    ), f"--data-path CAMVID {_NETWORKS}", "mIoU 59.01 % at position 2, mean 60.38 % at interval 3",
        _CAMVID_TIME.format(10)),
    # Continues the one before on long intervals alone.
    Recipe("camvid-propagation-long", _CAMVID | dict(
        lr=4e-4, guide_lr=8e-4, lr_gamma=0.4, epoch=2, multi_step=(3, 4), checkname="second",
    ), "--data-path CAMVID --segnet-weights SEGNET --resume FIRST",
        "mIoU 59.74 % at position 2, mean 60.74 % at interval 3", _CAMVID_TIME.format(4)),
    # What --dataset unlabelled sets by itself.
    Recipe("unlabelled", dict(dataset="unlabelled", **OF_UNLABELLED),
           "--data-path VIDEOS --segnet torchvision:deeplabv3_resnet50",
           "94.51 % of the pixels agree at position 2; labels moved along DIS: 94.73 %",
           "7 minutes on 2 cores of an AMD EPYC virtual machine without GPU, 27 November 2026"),
)}
