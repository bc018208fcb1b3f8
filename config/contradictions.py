"""Which options exclude each other, or have no effect together."""
import os
import re
from collections.abc import Mapping
from typing import Any

from config.datasets import CUSTOM, UNLABELLED
from config.errors import UserError
from config.options import LEARNED_FLOWS, OF_AMP, Options, flag, tasks, values_of
from config.segmenters import NATIVE, OF_PAPER, TDNETS, VIDEO_NETWORKS

REQUIRED = {  # an option -> the option without which it has no effect, and its value (None: any)
    "pictures": ("check", 1), "export_size": ("export", None),
    "frame_size": ("benchmark", ("video", "carry", "cameras")), "results": ("benchmark", ("table", "video")),
    "save_predictions": ("evaluate", 1), "reference": ("evaluate", 1), "cut_threshold": ("schedule", "cut"),
    "residual_threshold": ("schedule", "residual"), "budget": ("schedule", "budget"),
    "teacher_weights": ("teacher", None),
    **dict.fromkeys(("start", "end", "stride", "codec", "quality", "audio"), ("video", None)),
    **dict.fromkeys(("val_path", "frames", "label_path", "teacher_cache"), ("dataset", UNLABELLED)),
    **dict.fromkeys(("dis_side", "dis_preset"), ("optical_flow_network", "dis")),
}
_NETWORKS = ("training", "--evaluate", "--video", "--export", "--benchmark eval", "--benchmark video",
             "--benchmark schedule", "--benchmark carry", "--benchmark cameras")
_DATA = ("training", "--evaluate", "--check", "--benchmark train", "--benchmark loader", "--benchmark eval",
         "--benchmark schedule", "--benchmark carry")
PLACES = ("data_path", "weights_dir")  # where things are; commands may share them, whether they are needed or not
READ_BY = {  # an option that names a file or folder -> what reads or writes it; elsewhere it is refused, not ignored
    **dict.fromkeys(("resume", "segnet_weights", "flow_weights", "class_map"), _NETWORKS),
    "weights_dir": (*_NETWORKS, "--download"), "guide_weights": ("training",), "data_path": _DATA,
    "metrics_file": ("training", "--evaluate", "--benchmark"),
    "cache_dir": ("training", "--evaluate", "--benchmark train", "--benchmark loader"),
}


def check_contradictions(options: Options, given: Mapping[str, Any], *, flow_known: bool = True) -> None:
    """Raise UserError if options exclude each other; `given`: those of the command line itself. flow_known: whether the
    options have the flow that will be used."""
    todo = tasks(options)
    if len(todo) > 1:
        raise UserError(f"{todo[0]} and {todo[1]} exclude each other; choose one")
    for name, (other, value) in REQUIRED.items():
        actual = getattr(options, other)
        values = value if isinstance(value, tuple) else (value,)
        known = flow_known or other != "optical_flow_network"
        if name in given and known and not (actual if value is None else actual in values):
            shown = values_of(other) if value is None else "|".join(map(str, values))
            raise UserError(f"{flag(name)} has an effect only with {flag(other)} {shown}; add that or drop it")
    _check_read(options, given)
    if given.get("guide_weights") and (options.stage != "gsv" or options.resume not in ("0", "auto")):
        raise UserError("--guide-weights starts a training of --stage gsv, without --resume; drop one of the options")
    if not re.fullmatch(r"[^/\\\s][^/\\]{0,150}", options.checkname) or set(options.checkname) == {"."}:
        raise UserError(f"--checkname {options.checkname!r}: must be a plain name, since it becomes a folder's name")
    if options.random_scale and options.random_scale[0] > options.random_scale[1]:
        raise UserError("--random-scale takes LOW HIGH, the lower bound first")
    if given.get("flip") and not options.use_crop:
        raise UserError("--flip: --use-crop 0 switches off all augmentation, the flip too; drop one of the two options")
    if options.split and not (options.check or options.evaluate):
        raise UserError("--split has an effect only with --evaluate 1 or --check 1; add one of them or drop it")
    if options.evaluate and len(options.split) > 1:
        raise UserError(f"--split takes one split with --evaluate 1, not {len(options.split)}")
    _check_segmenter(options, given)
    _check_video_network(options, given)
    _check_data(options, given)
    _check_method(options, given)
    if not options.eval_single and not options.eval_multi_step:
        raise UserError("nothing to evaluate: --eval-single 0 with an empty --eval-multi-step")
    own = VIDEO_NETWORKS.get(options.segnet)
    if options.stage == "segnet" and options.evaluate and options.method not in ("per-frame", "copy", own):
        raise UserError(f"--stage segnet --evaluate 1: --method must be per-frame or copy, not {options.method}")
    if options.stage == "flow" and options.evaluate:
        raise UserError("--stage flow has no --evaluate 1; its end-point error is logged during training")
    _check_output(options, given)
    _check_precision(options, given)


def _check_precision(options: Options, given: Mapping[str, Any]) -> None:
    """Engines and precisions: where they have an effect, and what they are called."""
    trains = options.stage == "gsv" and (options.benchmark == "train" or not tasks(options))
    measured = options.benchmark in ("video", "cameras", "table", "eval")
    read = trains or options.video or options.evaluate or options.export or measured
    for name in ("precision", "agreement", "calibrate", *(() if tasks(options) else ("engine",))):
        if name in given and not read:
            raise UserError(
                f"{flag(name)} has an effect only with --video, --evaluate 1, --export, --benchmark video, cameras, "
                "table and eval, and in training on the frozen segmenter; drop it (what is trained has --amp)"
            )
    streams = options.video or options.benchmark in ("video", "cameras", "table")
    if streams and {"amp", "precision"} <= {*given} and OF_AMP[options.amp] != options.precision:
        raise UserError(f"--amp {options.amp} and --precision {options.precision} are two precisions; drop --amp")
    if options.precision == "auto" and not options.video:
        raise UserError("--precision auto is for --video; choose fp32, bf16, fp16 or int8")
    if "agreement" in given and options.precision != "auto" and not (trains and "precision" in given):
        raise UserError("--agreement has an effect only with --precision auto, or in training; add one or drop it")
    if "calibrate" in given and options.precision not in ("int8", "auto") and not (
        options.engine == "all" or options.export
    ):
        raise UserError("--calibrate has an effect only with --precision int8 or auto; add one or drop it")
    if options.precision == "int8" and options.benchmark == "table":
        raise UserError("--precision int8: --benchmark table measures untrained networks; use --benchmark video")
    if options.export and options.precision == "bf16":
        raise UserError(
            "--export: bf16 has no file of its own; ask OpenVINO for INFERENCE_PRECISION_HINT bf16, or use int8 or fp16"
        )
    if options.export and options.precision != "fp32" and not options.calibrate:
        raise UserError(f"--export: {options.precision} is compared on frames; name some with --calibrate PATH")
    if options.engine == "all" and options.benchmark != "video":
        raise UserError("--engine all is for --benchmark video; name one, or auto for --video")
    if options.engine == "all" and "precision" in given:
        raise UserError("--engine all measures every precision; drop --precision")


def _check_data(options: Options, given: Mapping[str, Any]) -> None:
    """What has no labels, and what is evaluated as a stream."""
    for name in ("frames", "label_path", "teacher_cache"):
        if name in given and tasks(options):
            raise UserError(f"{flag(name)} is for training, and has no effect with {tasks(options)[0]}; drop it")
    works = not tasks(options) or options.evaluate or options.benchmark == "carry"
    works |= "dataset" not in given  # a run's, which tells nothing of a video
    if options.dataset == UNLABELLED and not (works and options.stage == "gsv"):
        raise UserError(
            "--dataset unlabelled works with training and --evaluate 1 of --stage gsv, and --benchmark carry; choose "
            "another data set"
        )
    if options.dataset == UNLABELLED and options.reference == "labels":
        raise UserError("--reference labels: --dataset unlabelled has none; drop it")
    if options.dataset == UNLABELLED and (odd := {*options.split} - {"train", "val", "all"}):
        raise UserError(f"--split {odd.pop()}: --dataset unlabelled has train, val and all; choose one")
    cached = options.dataset == UNLABELLED and options.teacher_cache and options.clip_source == "video"
    if cached and given.get("random_scale"):
        raise UserError("--random-scale: cached logits are not resized; drop it, or use --teacher-cache 0")
    if options.evaluate and options.schedule == "budget":
        raise UserError("--schedule budget depends on the machine's speed; with --evaluate 1, choose cut or residual")


def _check_method(options: Options, given: Mapping[str, Any]) -> None:
    """The method, its flow, and what it carries."""
    flow, todo = options.optical_flow_network, tasks(options)
    if flow not in LEARNED_FLOWS:
        if options.stage == "flow":
            raise UserError(f"--stage flow trains a flow network; --optical-flow-network {flow} has nothing to train")
        if given.get("flow_weights"):
            raise UserError(f"--flow-weights: --optical-flow-network {flow} has no weights; drop one of the two")
    if flow == "dis" and options.benchmark in ("eval", "classes"):
        raise UserError(f"--benchmark {options.benchmark} measures flow networks; drop --optical-flow-network dis")
    if not todo and options.method in ("copy", "warp"):
        raise UserError(f"--method {options.method} needs no training; use it with --evaluate 1 or --video")
    if options.benchmark == "carry" and "method" in given:
        raise UserError("--benchmark carry compares copying and warping by itself; drop --method")
    if options.method == "auto":
        raise UserError("--method auto is for --video; choose gsv, warp, copy or per-frame")
    if options.carry == "labels" and options.method not in ("copy", "warp"):
        raise UserError(f"--carry labels works with --method warp or copy, not {options.method}, which needs logits")
    gridless = options.carry == "labels" and (flow == "dis" or options.method == "copy") and options.schedule == "fixed"
    if "grid" in given and gridless and options.benchmark != "carry":
        raise UserError("--grid has no effect on --carry labels, which are carried at full size; drop one of the two")


def _check_segmenter(options: Options, given: Mapping[str, Any]) -> None:
    """What a stage can do with the segmenter of the options."""
    if options.stage == "segnet" and options.segnet not in NATIVE:
        raise UserError(
            f"--stage segnet trains networks of this program, not {options.segnet}; drop --stage, or choose from "
            f"{', '.join(NATIVE)}"
        )
    if options.class_map and options.stage != "gsv" and not options.evaluate:
        raise UserError("--class-map: a segmenter is trained on the data set's classes; drop it, or drop --stage")
    if given.get("pretrained_backbone") and options.segnet not in OF_PAPER:
        raise UserError(
            f"--pretrained-backbone 1 downloads weights for {' and '.join(OF_PAPER)} alone; start "
            f"{options.segnet} with --segnet-weights FILE"
        )


def _check_video_network(options: Options, given: Mapping[str, Any]) -> None:
    """TDNet and Accel: what they train with, and what they have no part for."""
    method, training = VIDEO_NETWORKS.get(options.segnet), not tasks(options)
    for name, of in (("tdnet", "tdnet"), ("teacher", "tdnet"), ("deeplab101", "accel"), ("deeplab18", "accel")):
        if given.get(name) and (method != of or not (training or name == "tdnet")):
            where = f"--stage {of}" + (f" or --method {of}" if name == "tdnet" else ", when it trains")
            raise UserError(f"{flag(name)} has an effect only with {where}; add that or drop it")
    if options.teacher in VIDEO_NETWORKS:
        raise UserError(f"--teacher {options.teacher} is a method for video; choose a segmenter of single frames")
    if method is None:
        return
    if options.stage != "segnet":
        raise UserError(f"--segnet {options.segnet} is a method itself; use --method {method} or --stage {method}")
    if options.reference == "segmenter" or options.export or options.benchmark:
        asked = "--reference segmenter" if options.reference == "segmenter" else tasks(options)[0]
        raise UserError(f"{asked} does not work with --method {method}; drop one of the two")
    if given.get("tdnet") and TDNETS[options.tdnet] != options.segnet:
        raise UserError(f"--tdnet {options.tdnet}: --segnet {options.segnet} is another one; drop one of the two")
    for name in ("optical_flow_network", "grid", "intra", "edge"):
        if given.get(name, default := getattr(Options(), name)) != default:
            raise UserError(f"{flag(name)} has no effect on the networks of --method {method}; drop it")
    if method == "tdnet" and "interval" in given:
        raise UserError("--interval has no effect with --method tdnet, which has no keyframes; drop it")
    if method == "tdnet" and options.schedule not in ("fixed", "cut"):
        raise UserError(f"--schedule {options.schedule}: --method tdnet has no keyframes; use cut, to restart at cuts")


def _check_read(options: Options, given: Mapping[str, Any]) -> None:
    """Files and folders that are named, and what is asked for would not read."""
    task = next(iter(tasks(options)), "training").split()[0]
    task += f" {options.benchmark}" if options.benchmark else ""
    for name, readers in READ_BY.items():
        used = any(task.startswith(reader) for reader in readers) or (name == "data_path" and options.dataset == CUSTOM)
        if given.get(name) in (None, "0", "1", "auto") or used:
            continue
        if name not in PLACES or not os.path.exists(given[name]):
            missing = "is not there, and it " if name in PLACES else ""
            raise UserError(f"{flag(name)} {given[name]} {missing}has no effect with {task}; drop it")


def _check_output(options: Options, given: Mapping[str, Any]) -> None:
    """--output of --video and of --check; what --video and --export can do; the budget of --schedule budget."""
    if options.video and not options.output:
        raise UserError("--video requires --output: a video file (.mp4, .avi, .mkv), a folder for label maps, or both")
    if options.output and not (options.video or options.check):
        raise UserError("--output requires --video IN or --check 1; with --evaluate 1, use --save-predictions DIR")
    if len(options.output) > (1 if options.check else 2):
        takes = "one folder with --check 1" if options.check else "one video, one folder, or both"
        raise UserError(f"--output takes {takes}, not {len(options.output)} names")
    if options.video and options.stage != "gsv" and options.segnet not in VIDEO_NETWORKS:
        raise UserError("--video requires --stage gsv")
    if given.get("quality", -1) >= 0 and options.codec not in ("h264", "h265"):
        raise UserError(f"--quality is for --codec h264 and h265, not {options.codec}; drop it")
    if options.schedule == "budget" and not options.budget:
        raise UserError("--schedule budget requires --budget MILLISECONDS, the average time per frame")
    streams = options.video or options.evaluate or options.benchmark == "schedule"
    if options.schedule != "fixed" and not streams:
        raise UserError(f"--schedule {options.schedule} is for --video, --evaluate 1 and --benchmark schedule; drop it")
    exported = (("gsv", "gsv"), ("gsv", "warp"), ("segnet", "per-frame"))
    if options.export and ((options.stage, options.method) not in exported or options.carry == "labels"):
        raise UserError(
            "--export requires --stage gsv with --method gsv or warp and --carry logits, or --stage segnet for the "
            "segmenter alone"
        )
