"""Training on a GPU: one step against the CPU's, resuming, NCCL, memory that runs out. Run by `make gpu`."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from config.command_line import parse
from dataloaders.loaders import TrainingLoader
from main import main
from models.released import read_propagation
from tests.main.program import ENVIRONMENT, ROOT, trained
from tests.released import filled_gsvnet
from trainer.stages import STAGES
from utils.distributed import Ranks

pytestmark = pytest.mark.cuda

SMALL = [
    "--crop-height", "64", "--crop-width", "96", "--batch-size", "2", "--num-worker", "0", "--pretrained-backbone", "0",
]
CASES = [("gsv", "video"), ("gsv", "stills"), ("segnet", "video"), ("flow", "video"), ("flow", "stills")]


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def step(streets, stage_name, source, device, *more, segnet="swiftnet"):
    """Loss terms of one optimizer step from known weights, and the trained parameters after it, on the CPU.

    The flow network is trained by SGD here: the gradients of its biases before BatchNorm are rounding errors alone, and
    Adam would turn them into steps of full size.
    """
    words = ["--dataset", "synthetic", "--data-path", str(streets), *SMALL, "--segnet", segnet]
    words += ["--stage", stage_name, "--clip-source", source, "--eval-multi-step", "1", *more]
    words += {"gsv": ["--multi-step", "3"], "flow": ["--optim", "sgd"], "segnet": []}[stage_name]
    torch.manual_seed(3)
    options, device = parse(words), torch.device(device)
    net = dict(net=filled_gsvnet(segnet, "light")) if stage_name == "gsv" else {}
    stage = STAGES[stage_name](options, device, Ranks(), None, **net)
    loader = TrainingLoader(stage.passes, batch=2, workers=0)
    batch = next(iter(loader.start(next(iter(stage.passes)), seed=(1, 0))[1]))
    stage.train_mode()
    losses = stage.loss(batch, (1, 0, 0, 0))
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16", init_scale=1024.0)
    scaler.scale(losses["total"]).backward()
    scaler.step(stage.optimizer)
    values = {name: float(x.detach()) for name, x in losses.items()}
    return values, [p.detach().cpu().clone() for group in stage.optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize(("stage", "source"), CASES)
def test_step_agrees_with_the_cpu(streets, stage, source):
    for segnet in ("swiftnet", "bisenet") if stage == "segnet" else ("swiftnet",):
        expected, expected_weights = step(streets, stage, source, "cpu", segnet=segnet)
        found, weights = step(streets, stage, source, "cuda", segnet=segnet)
        # Clips made from stills have grain, which each device draws with its own generator.
        tolerance = 5e-2 if source == "stills" else 1e-3
        for name in expected:
            assert found[name] == pytest.approx(expected[name], rel=tolerance, abs=1e-6), name
        if source == "video":
            for a, b in zip(weights, expected_weights):
                assert (a - b).norm() <= 2e-3 * b.norm() + 1e-5


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize(("stage", "source"), [("gsv", "video"), ("segnet", "video"), ("flow", "video")])
def test_step_in_half_precision_is_near(streets, stage, source, amp):
    expected, _ = step(streets, stage, source, "cpu")
    found, weights = step(streets, stage, source, "cuda", "--amp", amp)
    assert found["total"] == pytest.approx(expected["total"], rel=5e-2, abs=1e-2)
    assert all(x.isfinite().all() and x.dtype == torch.float32 for x in weights)


def test_compiled_step_is_near(streets):
    expected, _ = step(streets, "gsv", "video", "cpu")
    found, _ = step(streets, "gsv", "video", "cuda", "--compile", "1", "--amp", "bf16")
    assert found["total"] == pytest.approx(expected["total"], rel=5e-2)


@pytest.mark.parametrize(("stage", "source"), [("gsv", "video"), ("segnet", "video"), ("flow", "video")])
def test_step_does_not_wait_for_the_gpu(streets, stage, source):
    """From the batch on the device to the optimizer's step; the trainer reads the loss once, after it."""
    words = ["--dataset", "synthetic", "--data-path", str(streets), "--stage", stage, "--clip-source", source, *SMALL]
    options, device = parse([*words, "--eval-multi-step", "1"]), torch.device("cuda")
    net = dict(net=filled_gsvnet("swiftnet", "light")) if stage == "gsv" else {}
    made = STAGES[stage](options, device, Ranks(), None, **net)
    batch = next(iter(TrainingLoader(made.passes, batch=2, workers=0).start(next(iter(made.passes)), seed=(1, 0))[1]))
    batch = {name: x.pin_memory() if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
    made.train_mode()
    for number in range(3):
        if number == 2:
            torch.cuda.set_sync_debug_mode("error")
        try:
            total = made.loss(batch, (1, 0, 0, number))["total"]
            made.optimizer.zero_grad(set_to_none=True)
            total.backward()
            made.optimizer.step()
            made.scheduler.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def words_of(streets, weights, logs, *more):
    return [
        "--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights), "--log-folder", str(logs),
        "--device", "cuda", *SMALL, "--multi-step", "1", "2", "--eval-multi-step", "1", "--eval-interval", "9", *more,
    ]


def test_resumed_training_agrees_with_an_uninterrupted_one(streets, weights, tmp_path):
    pytest.importorskip("tensorboardX")
    for logs, epochs in ((tmp_path / "whole", ("2",)), (tmp_path / "parts", ("1", "2"))):
        for number, epoch in enumerate(epochs):
            more = ["--epoch", epoch, *(["--resume", "auto"] if number else [])]
            assert main(words_of(streets, weights, logs, *more)) == 0
    files = [next((tmp_path / name).rglob("checkpoint.pth.tar")) for name in ("whole", "parts")]
    contents = [read_propagation(file).content for file in files]
    assert contents[0]["progress"]["iteration"] == contents[1]["progress"]["iteration"] > 20
    whole, parts = (trained(file) for file in files)
    for name, tensor in whole.items():  # sums of gradients come in another order in every run on a GPU
        assert (tensor.float() - parts[name].float()).norm() <= 0.02 * tensor.float().norm() + 1e-3, name


NCCL = """
import torch
import torch.distributed as dist
from utils import distributed

dist.init_process_group("nccl", device_id=torch.device("cuda", 0))
ranks, device = distributed.Ranks(0, 1, 0), torch.device("cuda", 0)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(device)
parallel = distributed.data_parallel(network, distributed.Ranks(0, 2, 0), device)
parallel(torch.randn(2, 3, 8, 8, device=device)).square().sum().backward()
assert type(parallel).__name__ == "DistributedDataParallel" and network[0].weight.grad.isfinite().all()
assert distributed.add_over_ranks([torch.tensor([2**40 + 1])], device)[0].item() == 2**40 + 1
assert distributed.any_rank(True, device) and not distributed.any_rank(False, device)
assert distributed.from_all_ranks({"a": 1}) == [{"a": 1}]
assert distributed.mean_over_ranks(torch.ones(2, device=device)).tolist() == [1, 1]
distributed.wait_for_all()
distributed.leave()
print("collectives work")
"""


def test_nccl_and_torchrun_with_one_rank(streets, weights, tmp_path):
    pytest.importorskip("tensorboardX")
    script = tmp_path / "collectives.py"
    script.write_text(NCCL)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1", "--master-port", "29571"]
    done = subprocess.run([*launcher, str(script)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "collectives work" in done.stdout, done.stderr[-2000:]
    words = words_of(streets, weights, tmp_path / "logs", "--epoch", "1", "--early-stop", "1")
    command = [*launcher, str(ROOT / "main.py"), *words]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "logs").rglob("checkpoint.pth.tar"))


MEMORY = """
import sys
import torch
from main import main

if __name__ == "__main__":
    torch.cuda.set_per_process_memory_fraction({bytes} / torch.cuda.mem_get_info()[1])
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("what", "flag"), [("training", "--batch-size"), ("video", "--scale")])
def test_out_of_memory_names_the_flag_to_lower(streets, weights, tmp_path, what, flag):
    if what == "training":
        pytest.importorskip("tensorboardX")
    script = tmp_path / "limited.py"
    script.write_text(MEMORY.format(bytes={"training": 1.1e8, "video": 2e8}[what]))
    words = words_of(streets, weights, tmp_path / "logs", "--epoch", "1")
    words[words.index("--batch-size") + 1] = "12"
    if what == "video":
        Path(tmp_path / "in").mkdir()
        from utils.visualize import write_picture

        write_picture(tmp_path / "in" / "a.png", torch.zeros(2048, 4096, 3, dtype=torch.uint8).numpy())
        words = ["--video", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--resume", "1"]
        words += ["--weights-dir", str(weights), "--device", "cuda", "--engine", "eager"]
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 1, done.stderr[-2000:]
    assert lines[0].startswith("error: out of memory on cuda") and flag in lines[0], lines[0]


def test_recorded_parameters_name_the_device(streets, weights, tmp_path):
    pytest.importorskip("tensorboardX")
    assert main(words_of(streets, weights, tmp_path, "--epoch", "1", "--early-stop", "1", "--amp", "bf16")) == 0
    parameters = json.loads(next(tmp_path.rglob("parameters.json")).read_text())
    assert parameters["device"] == "cuda" and parameters["amp"] == "bf16"
