"""Engines compute the steps of a stream: in plain PyTorch, compiled, or by ONNX Runtime. All find the same labels."""
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.errors import UserError
from inference.onnx_graphs import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    Graph,
    exported,
    onnx_model,
    require_packages,
    run_session,
    session,
)
from models.build import build_method
from models.gsvnet import GSVNet, State
from models.label_map import label_map
from models.methods.base import Method, SeenFrame
from models.resize import nearest
from models.steps import KeyframeStep, ViewStep
from models.warp import warp_labels
from utils.device import PRECISIONS, autocast
from utils.logging import logger

Step = Callable[..., Tensor]
SESSIONS = 8  # of ONNX Runtime that are kept, at least; a frame size has one for each of the method's networks


class Engine:
    """Computes a method's steps in plain PyTorch ("eager"): BatchNorm folded, channels last, no gradients.

    Frames are (N,H,W,3) uint8 RGB on the CPU; views and states stay on `device`. Only `labels` waits for a GPU.
    amp: "off", or "bf16" or "fp16" for the networks on a GPU. `batched`: whether N may be more than one.
    """

    name = "eager"
    batched = True

    def __init__(self, net: GSVNet, method: Method, *, device: torch.device, amp: str = "off"):
        self.method, self.device, self.amp = method, device, amp
        self.plain = set[str]()  # names of networks that the engine cannot run
        self._view = ViewStep(net)  # on the CPU, so that a propagated frame sends a GPU 1/64 of its pixels
        self.networks = {name: network.to(device).eval() for name, network in method.networks.items()}
        self._steps = {name: self._step(name) for name in self.networks}

    @torch.inference_mode()
    def see(self, image: Tensor, before: SeenFrame | None = None) -> SeenFrame:
        """A frame (N,H,W,3) as the method and schedules see it. before: the frame that it follows."""
        view, flow = self._sent(self._view(image)), self.method.flow
        if flow is None:
            return SeenFrame(image, view)
        looks = tuple(flow.look(frame) for frame in image.numpy())
        if before is None or before.size != (size := (image.shape[1], image.shape[2])):
            return SeenFrame(image, view, looks)
        flows = [flow.between(*pair, self.method.flow_size(size)) for pair in zip(before.looks, looks)]  # (2,h,w) each
        return SeenFrame(image, view, looks, self._sent(torch.from_numpy(np.stack(flows))))

    @torch.inference_mode()
    def first(self, seen: SeenFrame, keyframe: Tensor | None = None) -> State:
        """The state after a stream's first frame, or any keyframe; see `Method.first`."""
        return self.method.first(self.run, seen, keyframe)

    @torch.inference_mode()
    def next(self, state: State, seen: SeenFrame) -> State:
        """The state after the frame that follows that of `state`."""
        return self.method.next(self.run, state, seen)

    @torch.inference_mode()
    def labels(self, state: State, size: tuple[int, int]) -> Tensor:
        """The state of one stream -> class indices (H,W) uint8 at `size`, on the CPU."""
        if state.labels is None:
            return label_map(state.logits, size).cpu()
        labels = state.labels if state.flow is None else warp_labels(state.labels, state.flow)  # (1,H,W)
        return nearest(labels[0], size).cpu()

    def run(self, name: str, *inputs: Tensor) -> Tensor:
        """The output of one of the method's networks."""
        with autocast(self.device, self.amp):
            return self._steps[name](*map(self._sent, inputs))

    def _step(self, name: str) -> Step:
        """What computes one of `networks`, from tensors to a tensor."""
        return self.networks[name]

    def _stays_plain(self, name: str, error: Exception) -> None:
        """Log that a foreign segmenter stays in plain PyTorch; raise the error for all other networks."""
        if self.method.foldable or name != "keyframe":
            raise error
        self.plain.add(name)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        logger.warning("--engine %s: the keyframe segmenter stays in plain PyTorch: %s", self.name, reason)

    def _sent(self, x: Tensor) -> Tensor:
        """x on `device`. Pinned memory, since any other copy to a GPU waits for the work that is queued there."""
        if self.device.type == "cuda" and not x.is_cuda:
            x = x.pin_memory()
        return x.to(self.device, non_blocking=True)


class CompiledEngine(Engine):
    """The networks compiled by torch.compile: with CUDA graphs on a GPU, with frozen weights on a CPU.

    Compiles at the first use of each frame size, which can take a minute. A foreign segmenter that cannot be compiled
    stays as it is.
    """

    name = "compile"

    def _step(self, name: str) -> Step:
        plain = self.networks[name]
        if self.device.type != "cuda":
            return partial(self._run, name, torch.compile(plain, dynamic=False, options={"freezing": True}))
        step = torch.compile(plain, dynamic=False, mode="reduce-overhead")
        # CUDA graphs write every result into the same memory; a stream's state has to outlive the next one.
        return partial(self._run, name, lambda *inputs: step(*inputs).clone())

    def _run(self, name: str, step: Step, *inputs: Tensor) -> Tensor:
        if name not in self.plain:
            try:
                return step(*inputs)
            except torch._dynamo.exc.TorchDynamoException as error:  # torch imports it with the first compilation
                self._stays_plain(name, error)
        return self.networks[name](*inputs)


class OnnxEngine(Engine):
    """The networks run by ONNX Runtime, on a CPU or a GPU (CUDA provider); states stay on the CPU.

    Creates a session at the first use of each frame size, which takes seconds, and keeps those of the last sizes.
    Frames come one at a time. A foreign segmenter that cannot be exported stays in PyTorch.
    """

    name = "onnx"
    batched = False

    def __init__(self, net: GSVNet, method: Method, *, device: torch.device, amp: str = "off"):
        """Raises UserError if a package or the provider is missing, or for half precision."""
        runtime, *_ = require_packages("--engine onnx")
        if amp != "off":
            raise UserError(
                f"--engine onnx computes in float32; use --amp off, or --engine eager or compile with --amp {amp}"
            )
        if device.type == "cuda" and CUDA_PROVIDER not in runtime.get_available_providers():
            raise UserError(
                "--engine onnx: this ONNX Runtime has no CUDA provider; pip install onnxruntime-gpu in place of "
                "onnxruntime, or use --device cpu, or --engine eager or compile"
            )
        super().__init__(net, method, device=torch.device("cpu"))
        self.providers = (CUDA_PROVIDER, CPU_PROVIDER) if device.type == "cuda" else (CPU_PROVIDER,)
        # Frames of ever new sizes would fill the memory with sessions.
        self._session = lru_cache(max(SESSIONS, len(self.networks)))(self._create_session)

    def _step(self, name: str) -> Step:
        return partial(self._run, name)

    def _run(self, name: str, *inputs: Tensor) -> Tensor:
        if name not in self.plain:
            try:
                made = self._session(name, *((x.shape, x.dtype) for x in inputs))
                return run_session(made, **dict(zip(self.networks[name].inputs, inputs, strict=True)))
            except UserError:
                raise
            except Exception as error:  # the exporter raises errors of many kinds
                self._stays_plain(name, error)
        return self.networks[name](*inputs)

    def _create_session(self, name: str, *kinds: tuple[torch.Size, torch.dtype]) -> Any:
        like = {key: torch.zeros(shape, dtype=dtype) for key, (shape, dtype) in zip(self.networks[name].inputs, kinds)}
        graph = Graph(name, self.networks[name], like, "logits")
        return session(onnx_model(graph, exported(graph)), self.providers)


ENGINES = {engine.name: engine for engine in (Engine, CompiledEngine, OnnxEngine)}


def build_engine(
    name: str, net: GSVNet, *, scale: float, device: torch.device, amp: str = "off", method: str = "gsv",
    carry: str = "logits",
) -> Engine:
    """The engine of that name in `ENGINES`, for a way to carry the segmentation (`build_method`). Raises UserError if
    it does not work here."""
    if name not in ENGINES:
        raise UserError(f"no engine {name!r}; choose one of: {', '.join(ENGINES)} (auto works with --video only)")
    if amp not in PRECISIONS:
        raise UserError(f"no precision {amp!r}; choose one of: {', '.join(PRECISIONS)}")
    if not 0 < scale < float("inf"):
        raise UserError(f"scale must be a number above 0, not {scale!r}: keyframes are resized by it")
    return ENGINES[name](net, build_method(name=method, net=net, scale=scale, carry=carry), device=device, amp=amp)


def build_engines(
    net: GSVNet, methods: Sequence[str], *, scale: float, device: torch.device, carry: str = "logits"
) -> dict[str, Engine]:
    """Engines in plain PyTorch for several methods, by name, which share the keyframe segmenter."""
    keyframe = KeyframeStep(net, scale) if {*methods} - {"tdnet", "accel"} else None
    built = {
        name: build_method(name=name, net=net, scale=scale, keyframe=keyframe, carry=carry) for name in methods
    }
    return {name: Engine(net, method, device=device) for name, method in built.items()}
