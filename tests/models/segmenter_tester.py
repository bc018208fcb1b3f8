"""What holds for every segmenter, native or foreign, whatever its weights."""
import copy

import torch
from torch import Tensor

from inference.onnx_graphs import Graph, exported, onnx_model, run_session, session
from models.flow_none import NoFlow
from models.gsvnet import GSVNet, keyframe_logits
from models.guided_conv import GuidedConv
from models.resize import GRID_STRIDE, grid_size
from models.segmenters.base import Segmenter
from models.steps import KeyframeStep

SIZES = {(64, 128): 1, (90, 160): 1, (33, 47): 2}  # of frames -> how many at once
ROUNDING = 1e-4  # of batches and of other runtimes, relative to the largest value


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal up to rounding."""
    return bool((found - expected).abs().max() <= ROUNDING * expected.abs().max())


@torch.no_grad()
def check_inference(segmenter: Segmenter) -> None:
    """Shapes, finite numbers, any frame size and grid, batches, determinism, copies, inputs that stay as they are."""
    segmenter.eval()
    for size, count in SIZES.items():
        frame = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8)
        before, grid = frame.clone(), GRID_STRIDE if count == 1 else 4
        logits = keyframe_logits(segmenter, frame, grid=grid)
        assert logits.shape == (count, len(segmenter.names), *grid_size(*size, grid)) and logits.dtype == torch.float32
        assert logits.isfinite().all() and logits.std() > 0
        assert torch.equal(frame, before)
    assert torch.equal(keyframe_logits(segmenter, frame, grid=grid), logits)
    assert close(torch.cat([keyframe_logits(segmenter, x[None], grid=grid) for x in frame]), logits)
    assert close(keyframe_logits(copy.deepcopy(segmenter), frame, grid=grid), logits)
    image = segmenter.normalise(torch.zeros(1, 3, *segmenter.input_size(64, 96, 1.0)))
    before = image.clone()
    assert segmenter(image).shape[:2] == (1, segmenter.classes)
    assert torch.equal(image, before)


def check_learns(segmenter: Segmenter, without: set[str]) -> None:
    """A native segmenter's stride; and in training every parameter gets a gradient, but those `without`."""
    with torch.no_grad():
        scores = segmenter.eval()(torch.randn(1, 3, 90, 122))
    assert scores.shape[2:] == tuple(-(-side // segmenter.stride) for side in (90, 122))
    outputs = segmenter.train().training_logits(torch.randn(2, 3, 64, 96))
    sum(x.square().sum() for x in outputs).backward()
    learning = {name: x for name, x in segmenter.named_parameters() if x.requires_grad}
    assert {name for name, x in learning.items() if x.grad is None or not x.grad.any()} <= without


def check_frozen(segmenter: Segmenter) -> None:
    """Nothing learns, and training mode changes nothing."""
    frame = torch.randint(0, 256, (1, 3, 64, 96))
    before, state = keyframe_logits(segmenter, frame), copy.deepcopy(segmenter.state_dict())
    net = GSVNet(segmenter, NoFlow(), GuidedConv(len(segmenter.names))).train()
    logits = keyframe_logits(segmenter, frame)
    assert net.training and not segmenter.training and torch.equal(logits, before)
    assert not logits.requires_grad and not any(x.requires_grad for x in segmenter.parameters())
    assert all(torch.equal(x, state[name]) for name, x in segmenter.state_dict().items())


def check_export(segmenter: Segmenter) -> None:
    """torch.export's program and ONNX Runtime compute what the segmenter does, for a frame size."""
    step = KeyframeStep(GSVNet(segmenter, NoFlow(), GuidedConv(len(segmenter.names))), 1.0).eval()
    image = torch.randint(0, 256, (1, 64, 128, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = step(image)
    graph = Graph("keyframe", step, {"image": image}, "logits")
    program = exported(graph)
    with torch.no_grad():
        assert close(program.module()(image), expected)
    assert close(run_session(session(onnx_model(graph, program)), image=image), expected)
