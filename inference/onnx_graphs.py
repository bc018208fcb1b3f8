"""The steps of a stream as graphs of one frame size: torch.export programs, ONNX models and sessions."""
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from config.errors import UserError

if TYPE_CHECKING:
    import onnx

DEFORMABLE_OPSET = 19  # the first one whose deformable convolution ONNX Runtime has
OPSET = 18  # written by torch without a conversion afterwards; GridSample requires 16
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
# Importing ONNX Runtime would keep a number of the user's in the cache folder, and report over the network.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
PACKAGES = ("onnxruntime", "onnx", "onnxscript")  # torch's exporter is written in onnxscript


@dataclass(frozen=True)
class Graph:
    """A step for one frame size. inputs: by name, tensors of the shapes and types that the graph takes."""

    name: str
    step: nn.Module
    inputs: dict[str, Tensor]
    output: str


def require_packages(flag: str, names: Sequence[str] = PACKAGES) -> tuple[ModuleType, ...]:
    """Import the packages, which `flag` requires. Raises UserError if one is missing."""
    try:
        return tuple(importlib.import_module(name) for name in names)
    except ImportError as error:
        raise UserError(f"{flag}: {error}; install the packages: pip install {' '.join(names)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters and quantisers print, log and warn about."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def exported(graph: Graph) -> ExportedProgram:
    """The graph as torch.export's program, for the CPU, without gradients. Raises what the exporter does, and
    TypeError for TorchScript."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in graph.step.modules()):
        raise TypeError("TorchScript cannot be exported; build the network in Python, or load a torch.export program")
    with torch.inference_mode(False), torch.no_grad(), quiet():
        inputs = tuple(x.clone() for x in graph.inputs.values())
        program = torch.export.export(graph.step, inputs, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    return program


def onnx_model(graph: Graph, program: ExportedProgram) -> "onnx.ModelProto":
    """The program as an ONNX model, with the graph's names of inputs and output."""
    deformable = any("deform_conv2d" in str(node.target) for node in program.graph.nodes)
    opset = DEFORMABLE_OPSET if deformable else OPSET
    with torch.inference_mode(False), torch.no_grad(), quiet():
        made = torch.onnx.export(
            program, dynamo=True, opset_version=opset, input_names=list(graph.inputs), output_names=[graph.output],
            verbose=False,
        )
    assert made is not None  # with dynamo=True it never is
    model = made.model_proto
    inner = model.graph
    for part in (model, inner, *inner.node, *inner.input, *inner.output, *inner.value_info, *inner.initializer):
        del part.metadata_props[:]  # source lines, half the file of a small graph
    return model


def session(model: "onnx.ModelProto", providers: Sequence[str] = (CPU_PROVIDER,)) -> Any:
    """An ONNX Runtime session with as many threads as torch has, everything optimised.

    Raises UserError if the first provider does not work; ONNX Runtime would silently use the next one and be slow.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors alone
    # Otherwise its idle threads spin on the cores that torch's next step needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=list(providers))
    if made.get_providers()[0] != providers[0]:
        raise UserError(
            f"ONNX Runtime cannot start its {providers[0]}; install the versions of CUDA and cuDNN that this "
            "onnxruntime-gpu was built for, or use --engine eager"
        )
    return made


def run_session(made: Any, **inputs: Tensor) -> Tensor:
    """The only output of a session."""
    return torch.from_numpy(made.run(None, {name: x.contiguous().numpy() for name, x in inputs.items()})[0])
