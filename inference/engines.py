"""Ways of computing the steps of a stream: as they stand, compiled, or by ONNX Runtime. All give the same labels."""
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from config.errors import UserError
from inference.onnx_graphs import CPU_PROVIDER, CUDA_PROVIDER, exported, graph_like, onnx_model, require_packages, run_session, session
from models.gsvnet import GSVNet
from models.label_map import label_map
from models.steps import KeyframeStep, PropagationStep, ViewStep

Step = Callable[..., Tensor]
SESSIONS = 8  # of ONNX Runtime that are kept; a frame size has two
PRECISIONS: dict[str, torch.dtype | None] = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine:
    """The steps of a stream in plain PyTorch ("eager"): BatchNorm folded, channels last, no gradients.

    Frames are (N,H,W,3) uint8 RGB on the CPU; logits and views stay on `device`. amp: "off", or "bf16" or "fp16" for the
    networks on a GPU. `batched`: whether N may be more than one.
    """

    name = "eager"
    batched = True

    def __init__(self, net: GSVNet, *, scale: float, device: torch.device, amp: str = "off"):
        self.device, self.scale, self.amp = device, scale, amp
        self.half = PRECISIONS[amp]
        self._view = ViewStep(net)  # on the CPU: a GPU need not be sent what it does not look at
        self.networks: dict[str, nn.Module] = {  # as they stand, whatever computes them below
            "keyframe": KeyframeStep(net, scale).to(device).eval(), "propagation": PropagationStep(net).to(device).eval()
        }
        self._keyframe: Step = self.networks["keyframe"]
        self._propagate: Step = self.networks["propagation"]

    @torch.inference_mode()
    def view(self, image: Tensor) -> Tensor:
        """What flow and guided networks see of a frame: (N,3,h,w)."""
        return self._view(image).to(self.device, non_blocking=True)

    @torch.inference_mode()
    def keyframe(self, image: Tensor) -> Tensor:
        """Logits (N,C,h,w) of a frame by itself."""
        with self._precision():
            return self._keyframe(image.to(self.device, non_blocking=True))

    @torch.inference_mode()
    def propagate(self, logits: Tensor, previous: Tensor, view: Tensor) -> Tensor:
        """Logits (N,C,h,w) of a frame from the previous frame's, and both frames' views."""
        with self._precision():
            return self._propagate(logits, previous, view)

    @torch.inference_mode()
    def labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (1,C,h,w) -> class indices (H,W) uint8 at `size`, on the CPU."""
        return label_map(logits, size).cpu()

    def _precision(self) -> AbstractContextManager:
        return nullcontext() if self.half is None else torch.autocast(self.device.type, dtype=self.half)


class CompiledEngine(Engine):
    """The networks compiled by torch.compile: with CUDA graphs on a GPU, with frozen weights on a CPU.

    Compiles when first used, for each frame size anew; that can take a minute.
    """

    name = "compile"

    def __init__(self, net: GSVNet, *, scale: float, device: torch.device, amp: str = "off"):
        super().__init__(net, scale=scale, device=device, amp=amp)
        self._keyframe, self._propagate = self._compiled(self._keyframe), self._compiled(self._propagate)

    def keyframe(self, image: Tensor) -> Tensor:
        return self._kept(super().keyframe(image))

    def propagate(self, logits: Tensor, previous: Tensor, view: Tensor) -> Tensor:
        return self._kept(super().propagate(logits, previous, view))

    def _compiled(self, step: Step) -> Step:
        if self.device.type == "cuda":
            return torch.compile(step, dynamic=False, mode="reduce-overhead")
        return torch.compile(step, dynamic=False, options={"freezing": True})

    def _kept(self, logits: Tensor) -> Tensor:
        """CUDA graphs write every result into the same memory; a stream's state has to outlive the next one."""
        return logits.clone() if self.device.type == "cuda" else logits


class OnnxEngine(Engine):
    """The networks run by ONNX Runtime: on a CPU, or on a GPU by its CUDA provider, with frames and logits on the CPU between.

    Makes its sessions when first used, for each frame size anew; that takes seconds. Keeps those of the sizes last seen.
    Frames come one at a time.
    """

    name = "onnx"
    batched = False

    def __init__(self, net: GSVNet, *, scale: float, device: torch.device, amp: str = "off"):
        """Raises UserError where a package or the provider is missing, or half precision is asked for."""
        runtime, *_ = require_packages("--engine onnx")
        if amp != "off":
            raise UserError(f"--engine onnx computes in float32; use it with --amp off, or --engine eager or compile with --amp {amp}")
        if device.type == "cuda" and CUDA_PROVIDER not in runtime.get_available_providers():
            raise UserError(
                "--engine onnx: this ONNX Runtime has no CUDA provider; pip install onnxruntime-gpu in place of onnxruntime, or use "
                "--device cpu, or --engine eager or compile"
            )
        super().__init__(net, scale=scale, device=torch.device("cpu"))
        self.providers = (CUDA_PROVIDER, CPU_PROVIDER) if device.type == "cuda" else (CPU_PROVIDER,)
        self._sessions: dict[tuple, Any] = {}

    def keyframe(self, image: Tensor) -> Tensor:
        return self._run("keyframe", image=image)

    def propagate(self, logits: Tensor, previous: Tensor, view: Tensor) -> Tensor:
        return self._run("propagation", previous_logits=logits, previous_view=previous, view=view)

    def _run(self, name: str, **inputs: Tensor) -> Tensor:
        key = (name, *(x.shape for x in inputs.values()))
        made = self._sessions.pop(key, None)
        if made is None:
            graph = graph_like(name, self.networks[name], "logits", **inputs)
            made = session(onnx_model(graph, exported(graph)), self.providers)
        while len(self._sessions) >= SESSIONS:  # pictures of ever new sizes would fill the memory with them
            del self._sessions[next(iter(self._sessions))]
        self._sessions[key] = made  # the last one, that is, the last to go
        return run_session(made, **inputs)


ENGINES = {engine.name: engine for engine in (Engine, CompiledEngine, OnnxEngine)}


def build_engine(name: str, net: GSVNet, *, scale: float, device: torch.device, amp: str = "off") -> Engine:
    """The engine of that name of `ENGINES`. Raises UserError where it cannot be had here."""
    if name not in ENGINES:
        raise UserError(f"no engine {name!r}; it takes one of: {', '.join(ENGINES)} (auto chooses for --video only)")
    if amp not in PRECISIONS:
        raise UserError(f"no precision {amp!r}; amp takes one of: {', '.join(PRECISIONS)}")
    if not 0 < scale < float("inf"):
        raise UserError(f"scale is what keyframes are resized by: a number above 0, not {scale!r}")
    return ENGINES[name](net, scale=scale, device=device, amp=amp)
