"""Engines compute the steps of a stream: in plain PyTorch, compiled, by ONNX Runtime or OpenVINO. In float32 all find
the same labels."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from config.errors import UserError
from config.options import PRECISIONS
from inference.calibration import Pair, resized
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
from inference.openvino_models import OPENVINO, compiled_model, quickest_model
from inference.quantised import int8_model, int8_openvino_model
from models.build import build_method
from models.gsvnet import GSVNet, State
from models.half_precision import in_half
from models.label_map import label_map, upsampled_labels
from models.methods.base import Method, SeenFrame
from models.resize import nearest
from models.steps import KeyframeStep, Step, ViewStep
from models.warp import warp_labels
from utils.device import HALF, autocast
from utils.logging import logger
from utils.machine import processor_flags

Run = Callable[..., Tensor]
Candidate = tuple[str, str]  # engine and precision
FP16 = {"avx512_fp16", "amx_fp16"}  # flags of the processors of which one computes in fp16
SESSIONS = 8  # of a runtime that are kept, at least; a frame size has one for each of the method's networks


class Engine:
    """Computes a method's steps in plain PyTorch ("eager"): BatchNorm folded, channels last, no gradients.

    Frames are (N,H,W,3) uint8 RGB on the CPU; views and states stay on `device`. Only `labels` waits for a GPU.
    precision: what the networks compute in, one of `precisions` for the kind of device; views, warps, the division by
    the kernels' sum and logits stay in float32. calibration: frames for int8. `batched`: whether N may be more than
    one.
    """

    name = "eager"
    batched = True
    precisions: ClassVar[Mapping[str, Sequence[str]]] = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}

    def __init__(
        self, net: GSVNet, method: Method, *, device: torch.device, precision: str = "fp32",
        calibration: Sequence[Pair] = (),
    ):
        self.method, self.device, self.precision, self.calibration = method, device, precision, calibration
        self.plain = set[str]()  # names of networks that the engine cannot run
        self._view = ViewStep(net)  # on the CPU, so that a propagated frame sends a GPU 1/64 of its pixels
        self.networks = {name: self._network(network).to(device).eval() for name, network in method.networks.items()}
        self._steps = {name: self._step(name) for name in self.networks}

    @torch.inference_mode()
    def see(self, image: Tensor, before: SeenFrame | None = None) -> SeenFrame:
        """A frame (N,H,W,3) as the method and schedules see it. before: the frame that it follows."""
        view, flow = self._sent(self._view(image)), self.method.flow
        looks = tuple(flow.look(frame) for frame in image.numpy()) if flow else ()
        seen = SeenFrame(image, view, looks)
        return seen if before is None or before.size != seen.size else self.follow(before, seen)

    @torch.inference_mode()
    def follow(self, before: SeenFrame, seen: SeenFrame) -> SeenFrame:
        """A frame with the classical flow to the one that it follows, where the method uses one."""
        if (flow := self.method.flow) is None:
            return seen
        size = self.method.flow_size(seen.size)
        flows = [flow.between(*pair, size) for pair in zip(before.looks, seen.looks)]  # (2,h,w) each
        return replace(seen, flow=self._sent(torch.from_numpy(np.stack(flows))))

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
            return self._label_map(state.logits, size).cpu()
        # (1,H,W), not the state's own: what the caller does to them does not reach the next frame.
        labels = state.labels.clone() if state.flow is None else warp_labels(state.labels, state.flow)
        return nearest(labels[0], size).cpu()

    def run(self, name: str, *inputs: Tensor) -> Tensor:
        """The output of one of the method's networks. A foreign segmenter that fails in this engine or precision stays
        in plain PyTorch and float32 from then on."""
        sent = [*map(self._sent, inputs)]
        if name not in self.plain:
            try:
                with autocast(self.device, self._mixed(name)):
                    return self._steps[name](*sent)
            except (UserError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # exporters, compilers and a user's code raise errors of many kinds
                self._stays_plain(name, error)
        return self.method.networks[name](*sent)

    def _mixed(self, name: str) -> str:
        """The precision of torch's autocast: for a foreign segmenter alone, which may multiply what its layers return
        in half precision by tensors in float32."""
        return self.precision if name == "keyframe" and not self.method.foldable else "fp32"

    def _network(self, network: Step) -> Step:
        """The network in the engine's precision, where that is a matter of weights."""
        return in_half(network, HALF[self.precision]) if self.precision in HALF else network

    def _step(self, name: str) -> Run:
        """What computes one of `networks`, from tensors to a tensor."""
        return self.networks[name]

    @cached_property
    def _label_map(self) -> Run:
        """As `label_map`, of logits on `device`."""
        return label_map

    def _stays_plain(self, name: str, error: Exception) -> None:
        """Log that a foreign segmenter stays in plain PyTorch; raise the error for all other networks, and of one that
        was in plain PyTorch already."""
        if self.method.foldable or name != "keyframe" or self._steps[name] is self.method.networks[name]:
            raise error
        self.plain.add(name)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = [line for line in lines if not line.endswith(":")]  # OpenVINO's first lines are places in its source
        reason = (told or lines or [type(error).__name__])[0][:200]
        engine = shown((self.name, self.precision))
        logger.warning("--engine %s: the keyframe segmenter stays in plain PyTorch: %s", engine, reason)

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

    def _step(self, name: str) -> Run:
        plain = self.networks[name]
        if self.device.type != "cuda":
            return torch.compile(plain, dynamic=False, options={"freezing": True})
        step = torch.compile(plain, dynamic=False, mode="reduce-overhead")
        # CUDA graphs write every result into the same memory; a stream's state has to outlive the next one.
        return lambda *inputs: step(*inputs).clone()

    @cached_property
    def _label_map(self) -> Run:
        return torch.compile(upsampled_labels, dynamic=False) if self.device.type == "cuda" else label_map


class GraphEngine(Engine):
    """The networks exported as graphs and run by another runtime; states stay on the CPU.

    Creates a graph's runner at the first use of each frame size, which takes seconds, and keeps those of the last
    sizes. Frames come one at a time. A foreign segmenter that cannot be exported stays in PyTorch.
    """

    batched = False

    def __init__(self, net: GSVNet, method: Method, *, device: torch.device, **settings: Any):
        """Raises UserError for int8 without frames to calibrate on, or without keyframes."""
        super().__init__(net, method, device=torch.device("cpu"), **settings)
        if self.precision == "int8" and "keyframe" not in self.networks:
            raise UserError("int8 is for the segmenter of keyframes, and this method has none; use another --precision")
        if self.precision == "int8" and not self.calibration:
            raise UserError("int8 is set up on frames; name a video or a folder of pictures with --calibrate PATH")
        # Frames of ever new sizes would fill the memory with sessions.
        self._session = lru_cache(max(SESSIONS, len(self.networks)))(self._create_session)

    def _network(self, network: Step) -> Step:
        return network  # the runtime has its own precisions

    def _mixed(self, name: str) -> str:
        return "fp32"

    def _step(self, name: str) -> Run:
        return partial(self._run, name)

    def _run(self, name: str, *inputs: Tensor) -> Tensor:
        made = self._session(name, *((x.shape, x.dtype) for x in inputs))
        return made(**dict(zip(self.networks[name].inputs, inputs, strict=True)))

    def _create_session(self, name: str, *kinds: tuple[torch.Size, torch.dtype]) -> Run:
        like = {key: torch.zeros(shape, dtype=dtype) for key, (shape, dtype) in zip(self.networks[name].inputs, kinds)}
        graph = Graph(name, self.networks[name], like, "logits")
        return self._compiled(graph, onnx_model(graph, exported(graph)))

    def _images(self, graph: Graph) -> list[np.ndarray]:
        """Frames to quantise the graph on, of its size; none if it is not to be quantised."""
        if self.precision != "int8" or graph.name != "keyframe":
            return []
        like = graph.inputs["image"]  # (N,H,W,3)
        images = [torch.from_numpy(image) for image, _ in resized(self.calibration, (like.shape[1], like.shape[2]))]
        return [image.expand_as(like).to(like.dtype).numpy() for image in images]

    def _compiled(self, graph: Graph, model: Any) -> Run:
        """What computes the graph, from its inputs by name; model: the same in ONNX."""
        raise NotImplementedError


class OnnxEngine(GraphEngine):
    """The networks run by ONNX Runtime, on a CPU or a GPU (CUDA provider). int8: the keyframe's, the others in fp32."""

    name = "onnx"
    precisions: ClassVar = {"cpu": ("fp32", "int8"), "cuda": ("fp32",)}

    def __init__(self, net: GSVNet, method: Method, *, device: torch.device, **settings: Any):
        """Raises UserError if a package or the provider is missing, and as every `GraphEngine`."""
        runtime, *_ = require_packages("--engine onnx")
        if device.type == "cuda" and CUDA_PROVIDER not in runtime.get_available_providers():
            raise UserError(
                "--engine onnx: this ONNX Runtime has no CUDA provider; pip install onnxruntime-gpu in place of "
                "onnxruntime, or use --device cpu, or --engine eager or compile"
            )
        self.providers = (CUDA_PROVIDER, CPU_PROVIDER) if device.type == "cuda" else (CPU_PROVIDER,)
        super().__init__(net, method, device=device, **settings)

    def _compiled(self, graph: Graph, model: Any) -> Run:
        images = self._images(graph)
        return partial(run_session, session(int8_model(model, images) if images else model, self.providers))


class OpenVinoEngine(GraphEngine):
    """The networks run by OpenVINO on a CPU. int8: the keyframe's; what int8 leaves, and the other networks, in bf16
    where that is quicker here, else in float32."""

    name = "openvino"
    precisions: ClassVar = {"cpu": ("fp32", "bf16", "fp16", "int8")}

    def __init__(self, net: GSVNet, method: Method, **settings: Any):
        """Raises UserError if a package is missing, and as every `GraphEngine`."""
        require_packages("--engine openvino", (*OPENVINO, "nncf") if settings.get("precision") == "int8" else OPENVINO)
        super().__init__(net, method, **settings)

    def _compiled(self, graph: Graph, model: Any) -> Run:
        if self.precision != "int8":
            return compiled_model(self.precision, model.SerializeToString())
        images = self._images(graph)
        parts = int8_openvino_model(model, images) if images else (model.SerializeToString(),)
        return quickest_model(graph, *parts)


ENGINES = {engine.name: engine for engine in (Engine, CompiledEngine, OnnxEngine, OpenVinoEngine)}


def candidates(name: str, precision: str, device: torch.device) -> list[Candidate]:
    """Engines with each of their precisions on such a device; a name other than "auto" or "all" chooses one."""
    return [
        (engine, each) for engine, kind in ENGINES.items() for each in kind.precisions.get(device.type, ())
        if name in ("auto", "all", engine) and precision in ("auto", each)
    ]


def shown(candidate: Candidate) -> str:
    """The candidate as log lines and tables name it; float32 goes without saying."""
    name, precision = candidate
    return name if precision == "fp32" else f"{name} {precision}"


def check_precision(name: str, precision: str, device: torch.device) -> None:
    """Raise UserError if the engine `name` does not compute in that precision on such a device."""
    if precision not in PRECISIONS:
        raise UserError(f"no precision {precision!r}; choose one of: {', '.join(PRECISIONS)}")
    kind = "a GPU" if device.type == "cuda" else "a CPU"
    able = [each for each, engine in ENGINES.items() if precision in engine.precisions.get(device.type, ())]
    if name not in able:
        has = ENGINES[name].precisions.get(device.type)
        does = f"computes in {', '.join(has)} on {kind}, not in {precision}" if has else f"does not run on {kind}"
        if precision == "fp16" and device.type == "cpu" and not FP16 & {*processor_flags()}:
            able = []  # OpenVINO would refuse it
        other = f"--engine {' or '.join(able)}" if able else "another --precision"
        raise UserError(f"--engine {name}: {does}; use {other}")


def build_engine(
    name: str, net: GSVNet, *, scale: float, device: torch.device, precision: str = "fp32", method: str = "gsv",
    carry: str = "logits", calibration: Sequence[Pair] = (), keyframe: KeyframeStep | None = None,
) -> Engine:
    """The engine of that name in `ENGINES`, for a way to carry the segmentation (`build_method`). Raises UserError if
    it does not work here, or not in that precision."""
    if name not in ENGINES:
        raise UserError(f"no engine {name!r}; choose one of: {', '.join(ENGINES)} (auto works with --video only)")
    check_precision(name, precision, device)
    if not 0 < scale < float("inf"):
        raise UserError(f"scale must be a number above 0, not {scale!r}: keyframes are resized by it")
    made = build_method(name=method, net=net, scale=scale, carry=carry, keyframe=keyframe)
    return ENGINES[name](net, made, device=device, precision=precision, calibration=calibration)


def build_engines(
    net: GSVNet, methods: Sequence[str], *, scale: float, device: torch.device, carry: str = "logits",
    engine: str = "eager", **settings: Any,
) -> dict[str, Engine]:
    """Engines for several methods, by name, which share the keyframe segmenter. settings: others of an `Engine`."""
    check_precision(engine, settings.get("precision", "fp32"), device)
    keyframe = KeyframeStep(net, scale) if {*methods} - {"tdnet", "accel"} else None
    built = {
        name: build_method(name=name, net=net, scale=scale, keyframe=keyframe, carry=carry) for name in methods
    }
    return {name: ENGINES[engine](net, method, device=device, **settings) for name, method in built.items()}
