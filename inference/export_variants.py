"""Exported graphs in lower precision: int8 for keyframes, fp16 for all networks; compared on a user's frames."""
import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from config.options import Options
from inference.calibration import calibration_pairs, resized
from inference.engines import Engine
from inference.keyframe_schedule import NEVER, FixedInterval
from inference.onnx_graphs import run_session, session
from inference.quantised import int8_model
from inference.stream import VideoSegmenter
from models.build import build_method
from models.gsvnet import GSVNet
from utils.logging import logger

if TYPE_CHECKING:
    import onnx

EXACT = ("GridSample", "Div")  # the warp, and the division by the kernels' sum, stay in float32


class Recorder(Engine):
    """An engine that keeps the inputs of its networks, by name: `calls`."""

    calls: dict[str, list[tuple[Tensor, ...]]]

    def run(self, name: str, *inputs: Tensor) -> Tensor:
        self.calls.setdefault(name, []).append(inputs)
        return super().run(name, *inputs)


def variants(net: GSVNet, options: Options, models: Mapping[str, "onnx.ModelProto"]) -> dict[str, tuple[bytes, float]]:
    """The graphs among `models` (name -> float32) that --precision is for, in it; none for fp32. Raises UserError.

    Returns the file and its agreement, the share of labels on its grid that are those of the float32 graph.
    """
    if options.precision == "fp32":
        return {}
    pairs = resized(calibration_pairs(options.calibrate, seed=options.seed), options.export_size)
    method = "per-frame" if "segmenter" in models else options.method
    recorder = Recorder(net, build_method(name=method, net=net, scale=options.scale), device=torch.device("cpu"))
    recorder.calls = {}
    stream = VideoSegmenter(net, engine=recorder, schedule=FixedInterval(NEVER))
    for pair in pairs:
        list(stream.stream(pair))
    found: dict[str, tuple[bytes, float]] = {}
    for name, model in models.items():
        network = "keyframe" if name == "segmenter" else name
        if network not in recorder.calls or (options.precision == "int8" and network != "keyframe"):
            continue
        names, calls = [x.name for x in model.graph.input], recorder.calls[network]
        images = [first[None] for first, _ in pairs]
        made = int8_model(model, images) if options.precision == "int8" else half(model)
        equal = [a == b for a, b in zip(labels(made, names, calls), labels(model, names, calls), strict=True)]
        agreement = float(torch.cat(equal).float().mean())
        found[name] = made.SerializeToString(), agreement
        logger.info("%s in %s: %.2f %% of the labels on its grid", name, options.precision, 100 * agreement)
    return found


def half(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The graph in fp16, with inputs and output as they were."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = [*DEFAULT_OP_BLOCK_LIST, *EXACT]
    return convert_float_to_float16(copy.deepcopy(model), keep_io_types=True, op_block_list=blocked)


def labels(model: "onnx.ModelProto", names: Sequence[str], calls: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """The graph's labels on its grid for each of the calls; names: of the inputs."""
    made = session(model)
    return [run_session(made, **dict(zip(names, inputs, strict=True))).argmax(dim=1) for inputs in calls]
