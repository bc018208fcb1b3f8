"""The options of the program: one table of typed values with ranges and help."""
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from config.datasets import NAMES

STAGES = ("gsv", "segnet", "flow")
SEGMENTERS = ("swiftnet", "bisenet")
FLOW_NETWORKS = ("light", "flownet", "none")
METHODS = ("gsv", "per-frame", "copy", "warp")
ENGINES = ("auto", "eager", "compile", "onnx")


def _option(default: Any, help: str, *, kind: Callable = str, choices: Sequence = (), low: float | None = None,
            above: float | None = None, high: float | None = None, count: Any = None) -> Any:
    metadata = dict(help=help, kind=kind, choices=choices, low=low, above=above, high=high, count=count)
    if isinstance(default, (list, tuple)):
        return dataclasses.field(default_factory=lambda: tuple(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _switch(default: bool, help: str) -> Any:
    return _option(default, help, kind=bool)


@dataclass(frozen=True)
class Options:
    """Every option of the program, after parsing. A field `crop_height` is the flag `--crop-height`."""

    # what to do
    stage: str = _option("gsv", "what to train or evaluate: propagation, keyframe segmenter, or the flow network alone", choices=STAGES)
    evaluate: bool = _switch(False, "evaluate instead of training")
    demo: bool = _switch(False, "train and evaluate everything on synthetic streets, quickly")
    benchmark: str = _option(
        "", "measure instead of training: a training step, the loader, evaluation, the published comparison, a video stream, "
        "keyframes at scene cuts", choices=("train", "loader", "eval", "table", "video", "schedule"),
    )
    # networks
    segnet: str = _option("swiftnet", "keyframe segmenter", choices=SEGMENTERS)
    optical_flow_network: str = _option("light", "flow network; none: nothing is assumed to move", choices=FLOW_NETWORKS)
    intra: bool = _switch(True, "give the guided block the intra features of the current frame")
    edge: bool = _switch(True, "give the guided block the edge map of the warped labels")
    # data
    dataset: str = _option("cityscapes_2k", "data set; custom: your own, described by the file --data-path", choices=NAMES)
    data_path: str = _option("", "folder of the data set (default: data/NAME); of custom data the YAML file, see docs/custom_data.md")
    on_bad_sample: str = _option(
        "error", "a training sample that cannot be read: stop, or take the next in its place, count and list it",
        choices=("error", "skip"),
    )
    num_worker: int = _option(4, "loader processes per rank", kind=int, low=0, high=512)
    cache_dir: str = _option("", "folder for decoded frames, memory-mapped (default: none; its size is announced first)")
    clip_source: str = _option(
        "video", "where training clips come from: the data set's video, or made from its labelled pictures", choices=("video", "stills")
    )
    use_crop: bool = _switch(True, "random scale and crop in training")
    crop_height: int = _option(768, "height of the training crop, pixels", kind=int, low=32)
    crop_width: int = _option(1536, "width of the training crop, pixels", kind=int, low=32)
    random_scale: tuple[float, ...] = _option(
        (), "LOW HIGH: range of the random scale of --use-crop (default: the stage's recipe; gsv: 0.75, 1, 1.5 or 1.75)",
        kind=float, above=0, count=2,
    )
    flip: float = _option(0.4, "probability of a horizontal flip in training", kind=float, low=0, high=1)
    # optimisation
    optim: str = _option("sgd", "optimizer", choices=("sgd", "adam"))
    lr: float = _option(0.01, "learning rate: intra network and filter bank; the trained network in the other stages", kind=float, above=0)
    guide_lr: float = _option(0.04, "learning rate of the guiding network", kind=float, above=0)
    optical_flow_lr: float = _option(1e-4, "learning rate of the flow network", kind=float, above=0)
    lr_gamma: float = _option(0.992, "factor on the learning rates every 100 iterations", kind=float, above=0, high=1)
    weight_decay: float = _option(5e-4, "weight decay", kind=float, low=0)
    param_ce: float = _option(10.0, "weight of the whole loss", kind=float, low=0)
    param_ce_distil: float = _option(10.0, "weight of the distillation beside the cross-entropy", kind=float, low=0)
    class_weights: bool = _switch(True, "weigh the cross-entropy of the propagation by class, as the recipe does")
    distil: bool = _switch(True, "distil from the segmenter on the last frame")
    train_filter: bool = _switch(False, "train the filter bank")
    train_optical_flow: bool = _switch(True, "train the flow network")
    finetune_all: bool = _switch(False, "let gradient flow through all propagation steps, not only the last two")
    freeze_bn: bool = _switch(False, "keep BatchNorm statistics as they are")
    batch_size: int = _option(8, "batch over all ranks", kind=int, low=1)
    epoch: int = _option(100, "epochs", kind=int, low=1)
    multi_step: tuple[int, ...] = _option(
        (1, 2, 3, 4), "clip intervals trained, one after the other, in an epoch", kind=int, low=1, count="+"
    )
    save_every: int = _option(0, "optimizer steps between checkpoints within an epoch (0: only after each epoch)", kind=int, low=0)
    early_stop: bool = _switch(False, "dry run: 5 training and 10 evaluation iterations")
    seed: int = _option(1, "seed of everything random", kind=int, low=0, high=2**32 - 1)
    # evaluation
    eval_multi_step: tuple[int, ...] = _option((1, 2, 3, 4), "positions evaluated: frames since the keyframe", kind=int, low=1, count="*")
    eval_single: bool = _switch(True, "evaluate position 0, the keyframe itself, too")
    eval_interval: int = _option(1, "epochs between evaluations", kind=int, low=1)
    method: str = _option("gsv", "what carries the segmentation between keyframes", choices=METHODS)
    scale: float = _option(0.75, "scale at which the keyframe is segmented in evaluation", kind=float, above=0, high=2)
    temporal: bool = _switch(True, "measure consistency over time (TC, mVC) in --evaluate 1 too")
    interval: int = _option(
        3, "keyframe interval of a video or benchmark: one keyframe, then this many less one propagated frames", kind=int, low=1
    )
    results: tuple[str, ...] = _option((), "metrics.json files that fill the accuracy columns of --benchmark table", count="*")
    metrics_file: str = _option("", "also write metrics.json to this file")
    save_predictions: str = _option("", "folder for predicted label maps")
    export: str = _option("", "folder for the networks as ONNX and torch.export files, with a description, see docs/export.md")
    export_size: tuple[int, int] = _option((1024, 2048), "H W: frame size that --export is for", kind=int, low=32, count=2)
    visualization: bool = _switch(False, "write overlay pictures of the evaluated frames into the run folder")
    # a video of your own
    video: str = _option(
        "", "segment this video into --output: a file, a folder or a quoted glob of pictures, a camera's number, or demo, a "
        "rendered street"
    )
    output: tuple[str, ...] = _option((), "of --video: a video (.mp4, .avi, .mkv), a folder of label maps, or one of each", count="+")
    style: str = _option(
        "overlay", "what the written video shows: colours over the frame, colours alone, or frame and colours",
        choices=("overlay", "colour", "side-by-side"),
    )
    ids: str = _option("dataset", "what label maps hold: the data set's label ids, or class indices", choices=("dataset", "train"))
    fps: float = _option(0.0, "frames a second of --video (0: its own; 30 for pictures)", kind=float, low=0, high=1000)
    schedule: str = _option(
        "fixed", "when a frame of --video becomes a keyframe: every --interval frames; at cuts too; as often as --budget pays for",
        choices=("fixed", "cut", "budget"),
    )
    cut_threshold: float = _option(
        0.5, "of --schedule cut: mean change of the picture, in standard deviations, that is a cut", kind=float, above=0
    )
    budget: float = _option(0.0, "of --schedule budget: milliseconds a frame may take on average", kind=float, above=0)
    # files
    weights_dir: str = _option("./weights", "folder of the released files")
    segnet_weights: str = _option("", "file of the keyframe segmenter (default: the released one in --weights-dir)")
    flow_weights: str = _option("", "file of the flow network to start from (a --stage flow run's, or FlowNet2-S)")
    pretrained_backbone: bool = _switch(True, "start the segmenter stage from ImageNet weights (downloads them)")
    resume: str = _option("0", "0, 1 (the released GSVNet file of the segmenter), auto (this checkname's last run), or a file")
    load_flow: bool = _switch(True, "take the flow network from the resumed file too")
    reset_optimizer: bool = _switch(True, "start with a fresh optimizer at epoch 0 when resuming a file")
    reset_best_pred: bool = _switch(True, "forget the resumed file's best score")
    checkname: str = _option("test", "name of the run")
    log_folder: str = _option("./logs", "where run folders go")
    # machine
    device: str = _option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    engine: str = _option(
        "auto", "what runs the networks of a video: PyTorch as it is, torch.compile, ONNX Runtime; auto: the quickest here",
        choices=ENGINES,
    )
    amp: str = _option("off", "mixed precision in training", choices=("off", "bf16", "fp16"))
    compile: bool = _switch(False, "compile the networks with torch.compile before training")
    sync_bn: bool = _switch(False, "take BatchNorm statistics over all processes")
    apex: bool = _switch(False, "use what an installed NVIDIA apex offers instead of torch's own")
    local_rank: int = _option(0, "rank on this machine (set by the launcher)", kind=int, low=0)
    debug: bool = _switch(False, "show the traceback of an error")


FIELDS = {field.name: field for field in dataclasses.fields(Options)}


def flag(name: str) -> str:
    """Field `crop_height` -> "--crop-height"."""
    return "--" + name.replace("_", "-")
