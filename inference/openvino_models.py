"""OpenVINO's models: compiled for this processor, and run on torch's tensors without copying them."""
import sys
import timeit
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from config.errors import UserError
from inference.onnx_graphs import Graph

if TYPE_CHECKING:
    import openvino

OPENVINO = ("openvino", "onnx", "onnxscript")
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
TRIES = 5  # of which the quickest counts
Run = Callable[..., Tensor]
# Importing OpenVINO or NNCF would give the user a number in ~/intel, and report over the network.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed


@cache
def core() -> "openvino.Core":
    """OpenVINO, of which a process may have only one at a time.

    Each gives signals a stack of its own, and restores the one before; of two, the second restores what the first has
    freed, and the next signal (a loader process that ends) is a segmentation fault.
    """
    import openvino

    return openvino.Core()


def compiled_model(precision: str, model: bytes, weights: bytes = b"") -> Run:
    """A function from a graph's inputs, by name, to its output. model: ONNX, or with `weights` OpenVINO's own format.

    Raises UserError if this processor does not compute in that precision; OpenVINO would silently use another one.
    """
    read = core().read_model(model, weights) if weights else core().read_model(model)
    hints = {
        "INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    try:
        compiled = core().compile_model(read, "CPU", hints)
    except RuntimeError:  # where it fuses operators, some sums over channels are not implemented (Mask2Former)
        compiled = core().compile_model(read, "CPU", hints | {"SNIPPETS_MODE": "DISABLE"})
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != HINTS[precision]:
        raise UserError(
            f"--precision {precision}: on this processor OpenVINO computes in {used} instead; use --precision fp32"
        )
    request = compiled.create_infer_request()
    used_inputs = {name for port in compiled.inputs for name in port.get_names()}  # not a view that no flow reads

    def run(**inputs: Tensor) -> Tensor:
        arrays = {name: x.contiguous().numpy() for name, x in inputs.items() if name in used_inputs}
        return torch.from_numpy(request.infer(arrays, share_inputs=True)[0])  # a copy: states outlive the next call

    return run


def quickest_model(graph: Graph, *model: bytes) -> Run:
    """As `compiled_model`, in float32 or bf16, whichever takes less time here for the graph's inputs."""
    runs = []
    for precision in ("fp32", "bf16"):
        with suppress(UserError):  # without bf16
            runs.append(compiled_model(precision, *model))
    return min(runs, key=lambda run: min(timeit.repeat(lambda: run(**graph.inputs), number=1, repeat=TRIES)))
