"""Entry points for torch.hub (see docs/video.md).

    segmenter = torch.hub.load("PATH/OF/THIS/FOLDER", "gsvnet_swiftnet", source="local", weights_dir="weights")
    labels = segmenter(frame)
"""
# torch.hub takes every name without underscore for an entry point.
from pathlib import Path as _Path
from typing import Any as _Any

from torch import nn as _nn

from config.cityscapes import CITYSCAPES as _CITYSCAPES
from config.errors import UserError as _UserError
from config.segmenters import check_segmenter_name as _check_segmenter_name
from inference import VideoSegmenter as _VideoSegmenter
from inference.keyframe_schedule import FixedInterval as _FixedInterval
from models.build import SEGMENTERS as _SEGMENTERS
from models.build import build_foreign as _build_foreign
from models.build import build_segmenter as _build_segmenter
from models.released import load_segmenter as _load_segmenter
from models.released import read_segmenter as _read_segmenter
from utils.checkpoint import WeightsFile as _WeightsFile
from utils.run_folder import run_options as _run_options

dependencies = ["torch", "torchvision", "numpy", "cv2", "PIL", "tqdm", "yaml"]


def gsvnet_swiftnet(*, weights_dir: str = "", run: str = "", interval: int | None = None,
                    **settings: _Any) -> _VideoSegmenter:
    """Return a VideoSegmenter: SwiftNet on keyframes, propagation between them.

    weights_dir: folder of the released files. run: instead, the folder of a propagation run of your own. interval: the
    keyframe interval (default: the run's, or 3). settings: those of VideoSegmenter (schedule, scale, engine, device,
    precision). Raises UserError.
    """
    return _gsvnet("swiftnet", weights_dir, run, interval, settings)


def gsvnet_bisenet(*, weights_dir: str = "", run: str = "", interval: int | None = None,
                   **settings: _Any) -> _VideoSegmenter:
    """Return a VideoSegmenter: BiSeNet on keyframes, propagation between them. Arguments: see gsvnet_swiftnet."""
    return _gsvnet("bisenet", weights_dir, run, interval, settings)


def gsvnet(*, run: str = "", segnet: str = "", weights: str = "", interval: int | None = None,
           **settings: _Any) -> _VideoSegmenter:
    """Return a VideoSegmenter with any segmenter: of a propagation run; or without one, and without any training, by
    moving the segmenter's labels along optical flow.

    segnet: the segmenter's name; for a run, only as in VideoSegmenter.from_run. weights: the segmenter's file, where
    there is no run. Other arguments: see gsvnet_swiftnet.
    """
    if run:
        return _VideoSegmenter.from_run(run, segnet, **_scheduled(interval, settings))
    if not segnet:
        raise _UserError("give run=FOLDER, of a propagation run, or segnet=NAME, of a segmenter to use as it is")
    return _VideoSegmenter.from_segmenter(segnet, weights, **_scheduled(interval, settings))


def segmenter(*, name: str, weights: str = "", classes: int = _CITYSCAPES.num_classes) -> _nn.Module:
    """Return the segmenter `name` of --segnet in evaluation mode: normalised RGB (N,3,H,W) -> scores (N,C,h,w).

    weights: its file; "": random weights, or those that a foreign network brings. classes: of a native network. Raises
    UserError.
    """
    if name in _SEGMENTERS:
        return _segmenter(name, weights, classes)
    _check_segmenter_name(name)
    file = _WeightsFile.read(_Path(weights), f"weights of {name}") if weights else None
    return _build_foreign(name=name, file=file)


def swiftnet(*, weights: str = "", classes: int = _CITYSCAPES.num_classes) -> _nn.Module:
    """Return SwiftNet in evaluation mode: normalised RGB (N,3,H,W) -> logits (N,C,H/4,W/4).

    weights: its file, the released one or a --stage segnet run's; "": random weights. Raises UserError.
    """
    return _segmenter("swiftnet", weights, classes)


def bisenet(*, weights: str = "", classes: int = _CITYSCAPES.num_classes) -> _nn.Module:
    """Return BiSeNet in evaluation mode: normalised RGB (N,3,H,W) -> logits (N,C,H/8,W/8). weights: see swiftnet."""
    return _segmenter("bisenet", weights, classes)


def _gsvnet(segnet: str, weights_dir: str, run: str, interval: int | None, settings: dict) -> _VideoSegmenter:
    if bool(weights_dir) == bool(run):
        raise _UserError("give either weights_dir=FOLDER, of the released files, or run=FOLDER, of a propagation run")
    settings = _scheduled(interval, settings)
    if weights_dir:
        return _VideoSegmenter.from_released(weights_dir, segnet, **settings)
    trained = _run_options(_Path(run)).segnet
    if trained != segnet:
        raise _UserError(f"{run}: was trained with the segmenter {trained}; load gsvnet_{trained}")
    return _VideoSegmenter.from_run(run, **settings)


def _scheduled(interval: int | None, settings: dict) -> dict:
    return settings if interval is None else {"schedule": _FixedInterval(interval), **settings}


def _segmenter(name: str, weights: str, classes: int) -> _nn.Module:
    network = _build_segmenter(name=name, classes=classes)
    if weights:
        _load_segmenter(network, _read_segmenter(_Path(weights), name), name)
    return network.eval()
