"""Export (`--export DIR`): the steps of a stream as ONNX and torch.export files, and a description of their use."""
import io
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.export import ExportedProgram

from config.errors import UserError
from config.options import Options
from inference.export_variants import variants
from inference.onnx_graphs import OPSET, Graph, exported, onnx_model, require_packages, run_session, session
from models.build import build_method
from models.flow_dis import PRESETS, DISFlow
from models.gsvnet import GSVNet
from models.load_segmenter import classes_of
from models.resize import grid_size
from models.steps import FixedViewStep, SegmenterStep
from utils.files import file_errors, write_bytes, write_json
from utils.logging import logger

if TYPE_CHECKING:
    import onnx

DESCRIPTION = "model.json"
TOLERANCE = 1e-3  # largest difference between ONNX Runtime and PyTorch, relative to the largest value
DRAWS = 3  # of random inputs
HINT = "free some space, or choose another folder for --export"
_LAYOUTS = {
    "image": "N,H,W,3: a frame, RGB, 0..255", "view": "N,3,h,w: the frame on the grid, BGR, normalised",
    "previous_view": "N,3,h,w: the view of the frame before", "logits": "N,C,h,w: one plane a class, on the grid",
    "previous_logits": "N,C,h,w: the logits of the frame before",
    "flow": "N,2,h,w: from this frame to the one before, x first, in pixels of the grid",
    "segmenter's logits": "N,C,h',w': one plane a class, at the segmenter's stride of the scaled frame",
}
_ALONE = (
    "for every frame: logits = segmenter(image)",
    "labels = argmax over classes of logits, bilinearly upsampled to the frame's size with corners aligned",
)
_LOOP = (
    "for every frame: view = view(image)",
    "for the first frame and every `interval`-th after it: logits = keyframe(image)",
    "for the others: logits = propagation(previous_logits, previous_view, view)",
    "labels = argmax over classes of logits, bilinearly upsampled to the frame's size with corners aligned",
    "keep logits and view: they are the next frame's previous_logits and previous_view",
)
_FLOW_LOOP = (
    "for every frame: view = view(image); look = the frame in grey (OpenCV's COLOR_RGB2GRAY), resized by area so that "
    "its shorter side is `flow.side`, if that is smaller",
    _LOOP[1], "for the others: flow = DIS with `flow.opencv_preset` and `flow.finest_scale`, from look to "
    "previous_look; multiplied by (w - 1) / (w' - 1) and (h - 1) / (h' - 1), x and y, for a look of h' x w'; resized "
    "to the grid, by area if that is smaller, else bilinearly",
    "then logits = propagation(previous_logits, flow, view)", _LOOP[3],
    "keep logits and look: they are the next frame's previous_logits and previous_look",
)
_OWN_KEYFRAME = (
    _LOOP[1].partition(":")[0] + ": logits = those of your segmenter, in the order of `classes`, resized bilinearly to "
    "the grid's size with corners aligned"
)


def run_export(net: GSVNet, options: Options) -> dict:
    """Write graphs and description into the folder `--export` once all are made, the description last.

    net: with its weights, on the CPU. Returns the description. Raises UserError if a package is missing, the folder
    cannot be written, or ONNX Runtime computes other logits than PyTorch.
    """
    packages = require_packages("--export")
    folder = Path(options.export)
    with file_errors(folder, HINT):  # before the work, not after it
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    described: dict[str, dict] = {}
    files: dict[str, bytes] = {}
    models: dict[str, onnx.ModelProto] = {}
    method = "segmenter" if options.stage == "segnet" else options.method
    for graph in graphs(net.eval(), options.export_size, options.scale, method):
        try:
            program = exported(graph)
            model = onnx_model(graph, program)
        except Exception as error:
            if graph.name != "keyframe" or net.segmenter.foldable:
                raise
            reason = str(error).splitlines()[0][:200]
            logger.warning("%s: cannot be exported and is left out: %s", options.segnet, reason)
            continue
        packages[1].checker.check_model(model, full_check=True)
        measured = compared(graph, model)
        described[graph.name], models[graph.name] = described_graph(graph, model) | measured, model
        files |= {f"{graph.name}.onnx": model.SerializeToString(), f"{graph.name}.pt2": packed(program)}
        logger.info(
            "%s: ONNX Runtime and PyTorch differ by at most %.1e, the largest value is %.2f", graph.name,
            measured["max_abs_difference"], measured["max_abs_value"],
        )
    for name, (packed_model, agreement) in variants(net, options, models).items():
        file = f"{name}.{options.precision}.onnx"
        described[name]["variants"] = {options.precision: {"onnx": file, "agreement": agreement}}
        files[file] = packed_model
    content = description(net, options, described)
    content["versions"] = {package.__name__: package.__version__ for package in (torch, *packages)}
    (folder / DESCRIPTION).unlink(missing_ok=True)  # it does not describe the new files
    for name, packed_graph in files.items():
        write_bytes(folder / name, packed_graph, HINT)
    write_json(folder / DESCRIPTION, content)
    logger.info("%s as .onnx and .pt2, and %s: %s", ", ".join(described), DESCRIPTION, folder)
    return content


def graphs(net: GSVNet, size: tuple[int, int], scale: float, method: str = "gsv") -> list[Graph]:
    """The three steps for frames of `size` (H,W); method "segmenter": the segmenter alone, which is one."""
    image = torch.zeros(1, *size, 3, dtype=torch.uint8)
    if method == "segmenter":
        return [Graph("segmenter", SegmenterStep(net, scale).eval(), {"image": image}, "logits")]
    view = torch.zeros(1, 3, *grid_size(*size, net.grid))  # (1,3,h,w)
    logits = torch.zeros(1, net.guided.classes, *grid_size(*size, net.grid))  # (1,C,h,w)
    flow = torch.zeros(1, 2, *grid_size(*size, net.grid))  # (1,2,h,w)
    inputs = {"image": image, "previous_logits": logits, "previous_view": view, "flow": flow, "view": view}
    found = [Graph("view", FixedViewStep(net, size).eval(), {"image": image}, "view")]
    for name, step in build_method(name=method, net=net, scale=scale).networks.items():
        found.append(Graph(name, step.eval(), {key: inputs[key] for key in step.inputs}, "logits"))
    return found


def compared(graph: Graph, model: "onnx.ModelProto") -> dict[str, float]:
    """ONNX Runtime compared with PyTorch on random inputs: largest difference, and largest value. Raises UserError.

    The best of a few draws counts: the edge map is a threshold, which rounding moves once in many thousand pixels. A
    graph that computes something else is wrong in all draws.
    """
    made = session(model)
    for draw in range(DRAWS):
        inputs = random_inputs(graph, draw)
        with torch.inference_mode():
            expected = graph.step(*inputs.values())
        difference, largest = (float(x.abs().max()) for x in (run_session(made, **inputs) - expected, expected))
        if difference <= TOLERANCE * largest:
            return {"max_abs_difference": difference, "max_abs_value": largest}
    raise UserError(
        f"--export: values of {graph.name} up to {largest:.3g} differ by {difference:.1e} in ONNX Runtime; the weights "
        "may contain NaN, or torch and onnxruntime are incompatible versions"
    )


def random_inputs(graph: Graph, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(0, 256, x.shape, dtype=x.dtype, generator=generator) if x.dtype == torch.uint8
        else torch.randn(x.shape, generator=generator)
        for name, x in graph.inputs.items()
    }


def described_graph(graph: Graph, model: "onnx.ModelProto") -> dict:
    """Files, inputs and outputs of a graph, and the operators that a runtime has to support."""
    with torch.inference_mode():
        tensors = graph.inputs | {graph.output: graph.step(*graph.inputs.values())}
    described = [
        {
            "name": name, "shape": list(x.shape), "dtype": str(x.dtype).removeprefix("torch."),
            "layout": _LAYOUTS.get(f"{graph.name}'s {name}", _LAYOUTS[name]),
        }
        for name, x in tensors.items()
    ]
    return {
        "onnx": f"{graph.name}.onnx", "program": f"{graph.name}.pt2",
        "inputs": described[:-1], "outputs": described[-1:],
        "operators": sorted({node.op_type for node in model.graph.node}),
    }


def description(net: GSVNet, options: Options, described: dict) -> dict:
    """Everything needed to use the files without this program."""
    dataset, size = classes_of(options, net.segmenter), options.export_size
    classes, alone = zip(dataset.classes, dataset.label_ids, dataset.colours), "segmenter" in described
    flow: str | dict = options.optical_flow_network
    loop: tuple[str, ...] = _ALONE if alone else _LOOP
    if isinstance(net.flow, DISFlow) and not alone:
        preset, finest = PRESETS[net.flow.preset]
        settings = {"opencv_preset": preset, "finest_scale": finest}
        flow = {"name": "dis", **net.flow.settings, **settings}
        loop = _FLOW_LOOP
    if not alone and "keyframe" not in described:
        loop = (loop[0], _OWN_KEYFRAME, *loop[2:])
    content = {
        "segnet": options.segnet, "method": options.method, "flow": flow, "dataset": dataset.name,
        "frame": {"size": list(size), "dtype": "uint8", "channel_order": "RGB"},
        "grid": {"size": list(grid_size(*size, net.grid)), "stride": net.grid},
        "keyframe": {
            "interval": options.interval, "scale": options.scale,
            "size": list(net.segmenter.input_size(*size, options.scale)),
        },
        "normalisation": {
            "mean": list(net.segmenter.pixel_mean), "std": list(net.segmenter.pixel_std), "channel_order": "RGB",
            "range": "0..255", "where": "inside view and keyframe: feed the frame's bytes as they are",
        },
        "graphs": described,
        "loop": list(loop),
        "labels": {
            "from": "logits", "upsample": "bilinear", "align_corners": True, "size": list(size),
            "then": "argmax over classes",
        },
        "classes": [
            {"index": i, "name": name, "label_id": label_id, "colour": list(colour)}
            for i, (name, label_id, colour) in enumerate(classes)
        ],
        "opset": OPSET,
    }
    return {key: x for key, x in content.items() if not (alone and key in ("flow", "grid"))}


def packed(program: ExportedProgram) -> bytes:
    """The program as the bytes of a .pt2 file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about weights in channels-last order, which it packs correctly
        torch.export.save(program, buffer)
    return buffer.getvalue()
