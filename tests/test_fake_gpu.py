"""Training steps and streams on a GPU that is not there: tensors without values on `cuda:0`.

Operations on them fail where they would on a GPU (a tensor left on the CPU, dtypes that do not fit), and where the
program would wait for it (a value read: `.item()`, `.tolist()`, `if tensor`, a boolean index). Backward passes need a
real GPU.
"""
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from config.command_line import parse
from config.segmenters import VIDEO_NETWORKS
from dataloaders.loaders import TrainingLoader
from inference import VideoSegmenter
from models.build import build_gsvnet
from models.label_map import label_map
from models.losses import PropagationLoss
from trainer.stages import stage_of
from utils.distributed import Ranks

DEVICE = torch.device("cuda:0")
CASES = [
    ("gsv", "swiftnet", "off"), ("gsv", "bisenet", "bf16"), ("segnet", "swiftnet", "bf16"),
    ("segnet", "pidnet-s", "bf16"),
    *(pytest.param("segnet", name, "off", marks=pytest.mark.slow)
      for name in ("ddrnet23-slim", "bisenetv2", "bisenet-xception39")),
    *(pytest.param("segnet", name, "off", marks=pytest.mark.slow) for name in ("td4-bise18", "accel18")),
    ("segnet", "bisenet", "off"), ("flow", "swiftnet", "off"), ("flow", "swiftnet", "bf16"),
]
VIDEO = [pytest.param(*case, marks=pytest.mark.slow) for case in (
    ("tdnet", "td4-bise18", "bf16"), ("accel", "accel18", "off"), ("accel", "accel18", "fp16"),
)]
STREAMS = [
    *(("swiftnet", "light", amp) for amp in ("off", "bf16", "fp16")), ("bisenet", "flownet", "off"),
    *(pytest.param(name, "light", "fp16", marks=pytest.mark.slow)
      for name in ("bisenet", "bisenetv2", "bisenet-xception39", "ddrnet23-slim", "pidnet-s")),
]


def apply_anew(module, fn, recurse=True):
    """As nn.Module._apply, but with new parameters: fake tensors do not take new data."""
    for child in module.children():
        child._apply(fn)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(fn(parameter.detach()), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = fn(buffer)
    return module


def copied(tensor, memo):
    """deepcopy of a fake tensor, which torch's own would do by its address."""
    made = tensor.detach().clone()
    memo[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
    return memo[id(tensor)]


@pytest.fixture
def gpu(monkeypatch):
    """The mode in which `cuda:0` can be computed on."""
    monkeypatch.setattr(nn.Module, "_apply", apply_anew)
    monkeypatch.setattr(FakeTensor, "__deepcopy__", copied, raising=False)
    monkeypatch.setattr("torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with torch.backends.cudnn.flags(enabled=False):  # its grid sampler has no fake form
        yield FakeTensorMode(allow_non_fake_inputs=True)


def loss(gpu, streets, stage_name, *more):
    words = ["--dataset", "synthetic", "--data-path", str(streets), "--stage", stage_name, "--pretrained-backbone", "0"]
    words += ["--crop-height", "64", "--crop-width", "96", "--batch-size", "2", "--num-worker", "0", *more]
    words += {"gsv": ["--multi-step", "3"]}.get(stage_name, [])
    options = parse([*words, "--eval-multi-step", "1"])
    with gpu:
        net = build_gsvnet(segmenter=options.segnet, flow="light", classes=19)
        stage = stage_of(options)(options, DEVICE, Ranks(), None, **({"net": net} if stage_name == "gsv" else {}))
    loader = TrainingLoader(stage.passes, batch=2, workers=0)
    batch = next(iter(loader.start(next(iter(stage.passes)), seed=(1, 0))[1]))
    with gpu:
        stage.train_mode()
        return stage.loss(batch, (1, 0, 0, 0))


@pytest.mark.parametrize(("stage", "segnet", "amp"), CASES)
def test_loss_of_every_stage_is_computed_on_the_gpu_without_waiting(gpu, streets, stage, segnet, amp):
    more = ("--multi-step", "1", "--finetune-all", "1") if segnet in VIDEO_NETWORKS else ()
    terms = loss(gpu, streets, stage, "--amp", amp, "--segnet", segnet, *more)
    for name, term in terms.items():
        assert (term.device, term.dtype, term.shape) == (DEVICE, torch.float32, ()), name
    assert terms["total"].requires_grad


@pytest.mark.parametrize(("segnet", "flow", "amp"), STREAMS)
def test_stream_stays_on_the_gpu_until_its_labels(gpu, segnet, flow, amp):
    frame = gpu.from_tensor(torch.zeros(1, 64, 128, 3, dtype=torch.uint8))
    with gpu:
        net = build_gsvnet(segmenter=segnet, flow=flow, classes=19)
        segmenter = VideoSegmenter(net, engine="eager", device=DEVICE, amp=amp)
        states = [None]
        for _ in range(3):
            states.append(segmenter.advance(states[-1], segmenter.engine.see(frame)))
        labels = label_map(states[-1].last.logits, (64, 128))
    assert [state.is_keyframe for state in states[1:]] == [True, False, False]
    for state in states[1:]:
        logits, view = state.last.logits, state.last.view
        assert (logits.device, logits.dtype, logits.shape) == (DEVICE, torch.float32, (1, 19, 8, 16))
        assert (view.device, view.shape) == (DEVICE, (1, 3, 8, 16))
    assert (labels.device, labels.dtype, labels.shape) == (DEVICE, torch.uint8, (64, 128))


@pytest.mark.parametrize(("method", "segnet", "amp"), VIDEO)
def test_methods_for_video_stay_on_the_gpu(gpu, method, segnet, amp):
    frame = gpu.from_tensor(torch.zeros(1, 64, 128, 3, dtype=torch.uint8))
    with gpu:
        net = build_gsvnet(segmenter=segnet, flow="none", classes=19)
        segmenter = VideoSegmenter(net, engine="eager", device=DEVICE, amp=amp, method=method, scale=1.0)
        state = None
        for _ in range(5):
            state = segmenter.advance(state, segmenter.engine.see(frame))
        labels = label_map(state.last.logits, (64, 128)) if method == "tdnet" else state.last.labels
    kept = (state.last.logits, state.last.view, *state.last.memory, labels)
    assert all(x.device == DEVICE for x in kept) and labels.dtype == torch.uint8
    assert labels.shape[-2:] == (64, 128) and state.since == (4 if method == "tdnet" else 1)


def left_on_the_cpu(self, logits, label, teacher):
    return {"total": torch.cat([logits[0, 0, 0], torch.ones(3)]).mean()}


def waiting(self, logits, label, teacher):
    return {"total": logits.mean() * float(logits.detach().max())}


@pytest.mark.parametrize(("fault", "error"), [(left_on_the_cpu, RuntimeError), (waiting, DataDependentOutputException)])
def test_faults_are_caught(gpu, streets, monkeypatch, fault, error):
    monkeypatch.setattr(PropagationLoss, "forward", fault)
    with pytest.raises(error):
        loss(gpu, streets, "gsv")
