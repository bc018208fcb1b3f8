"""The options of the program: one table of typed values with ranges and help texts."""
import dataclasses
from dataclasses import dataclass
from typing import Any

from config.datasets import NAMES
from config.recipes import RECIPES
from config.segmenters import FOREIGN, NATIVE, TDNETS

STAGES = ("gsv", "segnet", "flow", "tdnet", "accel")  # the last two are stage segnet of these networks
FLOW_NETWORKS = ("light", "flownet", "none", "dis")
LEARNED_FLOWS = ("light", "flownet")
METHODS = ("gsv", "per-frame", "copy", "warp", "tdnet", "accel", "auto")
ENGINES = ("auto", "eager", "compile", "onnx", "openvino", "all")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
OF_AMP = {"off": "fp32", "bf16": "bf16", "fp16": "fp16", "auto": "auto"}  # --amp -> --precision of networks not trained
BENCHMARKS = ("train", "loader", "eval", "table", "video", "classes", "schedule", "carry", "cameras")
DOWNLOADS = ("swiftnet", "bisenet", "flownet", "gsvnet", "all")


def _option(default: Any, help: str, **limits: Any) -> Any:
    """A field of Options. limits: `choices`; `low` and `high` (inclusive bounds), `above` (an exclusive one); `count`
    (argparse's nargs); `shown` (the placeholder in --help); `kind`, the default's type unless it is given."""
    kind = type(default[0] if isinstance(default, tuple) and default else default)
    metadata = dict(help=help, kind=kind, choices=(), low=None, above=None, high=None, count=None, shown="") | limits
    if isinstance(default, tuple):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """Every option of the program, after parsing. A field `crop_height` is the flag `--crop-height`."""

    # what to do
    stage: str = _option("gsv", "part to train or evaluate: propagation, keyframe segmenter, flow network alone, or "
                         "another method for video: TDNet, Accel",
                         choices=STAGES)
    recipe: str = _option("", "named settings, listed below; options given override them", choices=tuple(RECIPES),
                          shown="NAME")
    evaluate: bool = _option(False, "evaluate instead of training")
    demo: bool = _option(False, "train and evaluate everything on synthetic streets, in a few minutes")
    check: bool = _option(False, "check frames and labels of --dataset; write check.json and pictures to --output")
    benchmark: str = _option("", "measure a training step, the loader, evaluation, the published comparison, a video "
                             "stream, several, the cost of many classes, keyframe schedules, or ways to carry a "
                             "segmentation", choices=BENCHMARKS)
    download: str = _option("", "download released files to --weights-dir, with the Python package gdown: a segmenter, "
                            "FlowNet2-S, the propagation for both segmenters (gsvnet, without these), or all of them",
                            choices=DOWNLOADS)
    early_stop: bool = _option(False, "dry run: 5 training and 10 evaluation iterations; benchmarks measure once")
    # networks
    segnet: str = _option("swiftnet", f"keyframe segmenter: {', '.join(NATIVE)}; or anybody's, see docs/segmenters.md: "
                          f"{', '.join(FOREIGN)}", shown="NAME")
    tdnet: str = _option("bise18", "of --stage or --method tdnet: TD4-Bise18, or the released TD4-PSP18",
                         choices=tuple(TDNETS))
    optical_flow_network: str = _option("light", "flow network; dis: OpenCV's DIS, which needs no training; none: "
                                        "assume no motion", choices=FLOW_NETWORKS)
    dis_side: int = _option(256, "shorter side of the pictures that DIS compares, pixels", low=16)
    dis_preset: str = _option("fine", "preset of DIS: OpenCV's, or its ultrafast with a finer last scale",
                              choices=("ultrafast", "fast", "medium", "fine", "finest"))
    grid: int = _option(8, "stride of the grid on which the segmentation is propagated", choices=(8, 4))
    intra: bool = _option(True, "feed the intra features of the current frame to the guided block")
    edge: bool = _option(True, "feed the edge map of the warped labels to the guided block")
    # data
    dataset: str = _option("cityscapes_2k", "data set; custom: your own, described by --data-path; unlabelled: videos, "
                         "whose labels are the segmenter's own", choices=NAMES)
    data_path: str = _option("", "folder of the data set (default: data/NAME); custom: its YAML file, see "
                             "docs/custom_data.md; unlabelled: a video, frames, or a folder, glob or .txt list of them",
                             shown="PATH")
    split: tuple[str, ...] = _option((), "split that --evaluate 1 reads (default: val; unlabelled: train, val or all), "
                                     "or splits that --check 1 reads (default: train val)", kind=str,
                                     count="+", shown="NAME")
    val_path: str = _option("", "unlabelled videos to evaluate on (default: the last fifth of each in --data-path)",
                            shown="PATH")
    frames: int = _option(0, "unlabelled frames to train on, in runs spread evenly over the videos (0: all)", low=0)
    label_path: str = _option("", "folder of label maps for some unlabelled frames: VIDEO/FRAME.png, with the ids that "
                              "--video writes", shown="DIR")
    teacher_cache: bool = _option(True, "train on unlabelled frames that are segmented once and kept in --cache-dir "
                                  "(default: LOG_FOLDER/teacher); 0: segment the crops of each step")
    class_map: str = _option("", "YAML file: which class of the data set each class of the segmenter becomes, where "
                             "names differ, see docs/segmenters.md", shown="FILE")
    pictures: int = _option(6, "frames of each split that --check draws with their labels", low=0)
    clip_source: str = _option("video", "source of training clips: the data set's video, or its labelled stills",
                               choices=("video", "stills"))
    on_bad_sample: str = _option("error", "if a training sample cannot be read: stop, or skip it, count and list it",
                                 choices=("error", "skip"))
    num_worker: int = _option(4, "loader processes per rank; files that --check reads at a time", low=0, high=512)
    cache_dir: str = _option("", "folder for decoded frames, memory-mapped (default: none)", shown="DIR")
    # augmentation
    use_crop: bool = _option(True, "augment in training: random scale, crop and flip; 0: none of them")
    crop_height: int = _option(768, "height of the training crop, pixels", low=32)
    crop_width: int = _option(1536, "width of the training crop, pixels", low=32)
    random_scale: tuple[float, ...] = _option(
        (), "range of the random scale (default: the stage's; gsv: one of 0.75, 1, 1.5, 1.75)", kind=float, above=0,
        count=2, shown=("LOW", "HIGH"))
    flip: float = _option(0.4, "probability of a horizontal flip", low=0, high=1)
    # optimisation
    optim: str = _option("sgd", "optimizer; stage gsv with adam: weight decay 1e-4, constant learning rates by default",
                         choices=("sgd", "adam"))
    lr: float = _option(0.01, "learning rate: intra network and filter bank; in other stages everything", above=0)
    guide_lr: float = _option(0.04, "learning rate of the guiding network", above=0)
    optical_flow_lr: float = _option(1e-4, "learning rate of the flow network", above=0)
    lr_gamma: float = _option(0.992, "factor on the learning rates every 100 iterations", above=0, high=1)
    weight_decay: float = _option(5e-4, "weight decay", low=0)
    param_ce: float = _option(10.0, "weight of the whole loss", low=0)
    param_ce_distil: float = _option(10.0, "weight of the distillation relative to the cross-entropy", low=0)
    class_weights: bool = _option(True, "weight the cross-entropy of the propagation by class, as released")
    distil: bool = _option(True, "distil from the segmenter on the last frame")
    train_filter: bool = _option(False, "train the filter bank")
    train_optical_flow: bool = _option(True, "train the flow network")
    finetune_all: bool = _option(False, "backpropagate through all propagation steps, not only the last two")
    freeze_bn: bool = _option(False, "keep the BatchNorm statistics fixed")
    batch_size: int = _option(8, "batch size over all ranks", low=1)
    epoch: int = _option(100, "epochs", low=1)
    multi_step: tuple[int, ...] = _option((1, 2, 3, 4), "clip intervals trained in an epoch", low=1, count="+")
    save_every: int = _option(0, "optimizer steps between checkpoints (0: only after each epoch)", low=0)
    seed: int = _option(1, "seed of all random numbers", low=0, high=2**32 - 1)
    # evaluation
    eval_multi_step: tuple[int, ...] = _option((1, 2, 3, 4), "positions evaluated: frames since the keyframe", low=1,
                                               count="*")
    eval_single: bool = _option(True, "evaluate position 0, the keyframe itself, too")
    eval_interval: int = _option(1, "epochs between evaluations", low=1)
    method: str = _option("gsv", "how the segmentation gets from keyframes to other frames; tdnet and accel have "
                          "their own networks; auto, the default of --video: gsv with --resume, unless its val found "
                          "warping as good; else warp with --carry labels, along DIS if no flow is named",
                          choices=METHODS)
    carry: str = _option("logits", "what --method warp and copy move: logits on the grid, or labels at full size",
                         choices=("logits", "labels"))
    scale: float = _option(0.75, "scale at which keyframes are segmented in evaluation", above=0, high=2)
    temporal: bool = _option(True, "also measure consistency over time (TC, mVC) in --evaluate 1")
    results: tuple[str, ...] = _option((), "metrics.json files for the accuracy columns of --benchmark table and video",
                                       kind=str, count="*", shown="FILE")
    metrics_file: str = _option("", "also write metrics.json to this file", shown="FILE")
    reference: str = _option("labels", "what --evaluate 1 compares with: the data set's labels, or the segmenter's own "
                             "of the same frame", choices=("labels", "segmenter"))
    save_predictions: str = _option("", "folder for predicted label maps", shown="DIR")
    visualization: bool = _option(False, "write overlay pictures of the evaluated frames to the run folder")
    # video and export
    video: str = _option("", "segment this video: a file, an address (rtsp://, http://), a folder or quoted glob of "
                         "pictures, a camera's number, or demo, a rendered street; or a folder or .txt list of videos",
                         shown="IN")
    output: tuple[str, ...] = _option(
        (), "of --video: a video (.mp4, .avi, .mkv), a folder for label maps, or one of each; of --check: a folder "
        "(default: check)", kind=str, count="+", shown="OUT")
    interval: int = _option(3, "keyframe interval: every so many frames is a keyframe", low=1)
    schedule: str = _option("fixed", "keyframes of --video, or if not fixed of --evaluate 1: one every --interval; at "
                            "scene cuts too; where warping has failed; as many as --budget allows",
                            choices=("fixed", "cut", "residual", "budget"))
    cut_threshold: float = _option(0.5, "of --schedule cut: mean change of the picture at a cut, standard deviations",
                                   above=0)
    residual_threshold: float = _option(7.0, "of --schedule residual: how many times the usual share of pixels that "
                                        "one warp fails on adds up until the next keyframe; about 7 for one in 5",
                                        above=0)
    budget: float = _option(0.0, "of --schedule budget: milliseconds per frame, on average", above=0)
    style: str = _option("overlay", "what the written video shows: colours over the frame, colours alone, or both",
                         choices=("overlay", "colour", "side-by-side"))
    ids: str = _option("dataset", "label maps hold the ids of the data set, if there is one, or class indices",
                      choices=("dataset", "train"))
    fps: float = _option(0.0, "frames per second of --video (0: its own times; 30 for pictures)", low=0, high=1000)
    start: float = _option(0.0, "seconds of --video to leave out at its beginning", low=0)
    end: float = _option(0.0, "second of --video at which to stop (0: its end)", low=0)
    stride: int = _option(1, "segment every so many frames of --video, and write only those", low=1)
    codec: str = _option("h264", "codec of the written video", choices=("h264", "h265", "mjpeg", "lossless"))
    quality: int = _option(-1, "constant rate factor of h264 and h265, 0 the best, 51 the smallest file (-1: the "
                           "codec's default)", low=-1, high=51)
    audio: bool = _option(True, "copy the sound of --video into the written video")
    engine: str = _option("auto", "what runs the networks of a video, or where it is named of --evaluate 1, or the "
                          "frozen segmenter in training: PyTorch, torch.compile, ONNX Runtime, OpenVINO; auto: the "
                          "fastest here, in training PyTorch; all: each in each precision, of --benchmark video",
                          choices=ENGINES)
    precision: str = _option("fp32", "what these networks compute in, see docs/speed.md; int8: keyframes' alone; auto: "
                             "of --video, the fastest that keeps --agreement", choices=(*PRECISIONS, "auto"))
    agreement: float = _option(0.99, "share of pixels that must keep their label with --precision auto, or in training",
                               low=0, high=1)
    calibrate: str = _option("", "frames that int8 is set up on: a video, or a folder of pictures (default: frames of "
                             "the video or data set itself)", shown="PATH")
    frame_size: tuple[int, int] = _option((1024, 2048), "frame size of --benchmark video, carry or cameras", low=32,
                                          count=2, shown=("H", "W"))
    export: str = _option("", "folder for the networks as ONNX and torch.export files, see docs/export.md", shown="DIR")
    export_size: tuple[int, int] = _option((1024, 2048), "frame size that --export is for", low=32, count=2,
                                           shown=("H", "W"))
    # weights and run folders
    weights_dir: str = _option("./weights", "folder of the released files", shown="DIR")
    segnet_weights: str = _option("", "keyframe segmenter (default: the released one)", shown="FILE")
    guide_weights: str = _option("", "propagation run to start from, for other classes: all parts of guided block and "
                                 "flow network that do not depend on them", shown="FILE")
    flow_weights: str = _option("", "flow network to start from: of a --stage flow run, or FlowNet2-S", shown="FILE")
    pretrained_backbone: bool = _option(True, "start the segmenter stage from ImageNet weights (downloads them)")
    teacher: str = _option("", "frozen segmenter that --stage tdnet distils from (default: none)", shown="NAME")
    teacher_weights: str = _option("", "file of --teacher", shown="FILE")
    deeplab101: str = _option("", "of --stage accel: keyframe network, of a --segnet deeplab101 run", shown="FILE")
    deeplab18: str = _option("", "of --stage accel: update network, of a --segnet deeplab18 run", shown="FILE")
    resume: str = _option("0", "0: start fresh; 1: the released GSVNet file; auto: this --checkname's last run; or a "
                          "file", shown="0|1|auto|FILE")
    load_flow: bool = _option(True, "take the flow network from the resumed file too")
    reset_optimizer: bool = _option(True, "start with a fresh optimizer at epoch 0 when resuming from a file")
    reset_best_pred: bool = _option(True, "forget the resumed file's best score")
    checkname: str = _option("test", "name of the run", shown="NAME")
    log_folder: str = _option("./logs", "folder of the run folders", shown="DIR")
    # machine
    device: str = _option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    amp: str = _option("off", "mixed precision in training; auto: bf16 if it is quicker here; of a video, the same as "
                       "--precision", choices=(*OF_AMP,))
    compile: bool = _option(False, "compile the networks with torch.compile before training")
    sync_bn: bool = _option(False, "compute BatchNorm statistics over all processes")
    apex: bool = _option(False, "use the fused optimizers of an installed NVIDIA apex instead of torch's")
    local_rank: int = _option(0, "rank on this machine (set by the launcher)", low=0)
    debug: bool = _option(False, "show the traceback of an error")

    # No option: the names of those that the command line or a recipe sets.
    given: tuple[str, ...] = dataclasses.field(default=(), compare=False)


FIELDS = {field.name: field for field in dataclasses.fields(Options) if field.metadata}
TASKS = ("video", "export", "evaluate", "check", "demo", "benchmark", "download")  # instead of training; one at a time
# What to do, where, and on what machine: never taken from an earlier run. --resume auto takes all others that are not
# given from its run, --resume FILE those of NETWORK.
NOT_OF_RUN = {*TASKS, "recipe", "resume", "checkname", "log_folder", "metrics_file", "device", "local_rank", "debug"}
NETWORK = ("segnet", "tdnet", "optical_flow_network", "dis_side", "dis_preset", "grid", "intra", "edge", "dataset",
           "data_path", "val_path", "class_map", "scale")
FILES = ("segnet_weights", "guide_weights", "flow_weights", "teacher_weights", "deeplab101", "deeplab18", "class_map")
# With another value, the optimizer's state or the place in training would mean something else.
FIXED_IN_RUN = ("segnet", "optical_flow_network", "grid", "intra", "edge", "dataset", "clip_source", "optim",
                "batch_size", "multi_step", "seed")
_COMMON = ("stage", "recipe", "evaluate", "demo", "video", "output", "dataset", "data_path", "segnet", "segnet_weights",
           "resume", "checkname", "batch_size", "epoch", "method", "device")
_SECTIONS = {  # first field -> title
    "stage": "what to do", "segnet": "networks", "dataset": "data", "use_crop": "augmentation", "optim": "optimisation",
    "eval_multi_step": "evaluation", "video": "video and export", "weights_dir": "weights and run folders",
    "device": "machine",
}


def groups() -> dict[str, list[str]]:
    """Title -> names of options: the most used ones first, then the others by section of the table."""
    found, title = {"common options": list(_COMMON)}, ""
    for name in FIELDS:
        title = _SECTIONS.get(name, title)
        found.setdefault(title, []).extend([] if name in _COMMON else [name])
    return found


def flag(name: str) -> str:
    """Field `crop_height` -> "--crop-height"."""
    return "--" + name.replace("_", "-")


def values_of(name: str) -> str | tuple[str, ...]:
    """What --help shows for an option's value: its choices, or a placeholder."""
    details = FIELDS[name].metadata
    choices = "|".join(map(str, details["choices"]))
    return details["shown"] or choices or {bool: "0|1", int: "N", float: "X"}[details["kind"]]


def recorded(options: Options) -> dict[str, Any]:
    """The options by name, as a run records them."""
    return {name: getattr(options, name) for name in FIELDS}


def tasks(options: Options) -> list[str]:
    """The flags that ask for something other than training, as a message shows them: "--video", "--evaluate 1"."""
    asked = [name for name in TASKS if getattr(options, name)]
    return [flag(name) + (" 1" if FIELDS[name].metadata["kind"] is bool else "") for name in asked]
