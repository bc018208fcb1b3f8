"""docs/examples/espnetv2.py against the numbers of its authors' program."""
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.complexity import gmac, parameters
from config.camvid import CAMVID
from config.cityscapes import CITYSCAPES
from config.command_line import parse
from main import main
from models.load import networks_for_inference
from models.resize import half_pixel
from utils.metrics import ConfusionMatrix, scores

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "real"
published = pytest.mark.skipif(not REAL.is_dir(), reason="the weights of ESPNetv2 are not here")
STAGES = ("base_net.level1", "base_net.level2_0", "base_net.level3", "base_net.level4",
          "bu_dec_l1", "bu_dec_l2", "bu_dec_l3", "bu_dec_l4")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("espnetv2", ROOT / "docs" / "examples" / "espnetv2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def network(example):
    torch.manual_seed(0)
    return example.build()[0].eval()


@pytest.fixture(scope="module")
def trained(example):
    network = example.build()[0].eval()
    network.load_state_dict(torch.load(REAL / "espnetv2_s_2.0_city_1024x512.pth", weights_only=True))
    return network


def test_tensors_and_cost(example, network):
    assert len(network.state_dict()) == 526
    assert parameters(network) == 789_242
    on_meta = example.build()[0].to("meta")
    assert gmac(on_meta, torch.empty(1, 3, 512, 1024, device="meta")) == pytest.approx(2.70, abs=0.005)


def test_description(example):
    _, description = example.build()
    assert (description["classes"], description["colours"]) == (CITYSCAPES.classes, CITYSCAPES.colours)
    assert description["multiple"] == 16 and description["scores"] == "logits"
    logits = torch.randn(2, 20, 3, 4)
    assert torch.equal(description["pick"](logits), logits[:, :19])


@pytest.mark.parametrize("size", [(16, 16), (48, 80), (64, 176), (160, 96)])
def test_sizes(network, size):
    image = torch.randn(2, 3, *size)
    before = image.clone()
    with torch.no_grad():
        logits, alone = network(image), network(image[1:])
    assert logits.shape == (2, 20, *size) and logits.isfinite().all()
    assert torch.equal(image, before)
    assert (logits[1:] - alone).abs().max() <= 1e-5 * logits.abs().max()


@pytest.mark.parametrize("size", [(24, 32), (32, 40)])
def test_other_sizes_are_refused(network, size):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}: both sides must be multiples of 16"):
        network(torch.zeros(1, 3, *size))


def test_gradients_reach_all_but_the_unused_slopes(example):
    network, image = example.build()[0], torch.randn(2, 3, 32, 32)
    network(image).square().mean().backward()
    unused = {name for name, x in network.named_parameters() if x.grad is None}
    assert unused == {f"base_net.level{level}_0.eesp.module_act.weight" for level in (2, 3, 4)}


@published
@pytest.mark.parametrize("picture", ["camvid", "video"])
def test_published_numbers(example, trained, picture):
    numbers, (_, description) = np.load(REAL / "espnetv2_parity.npz"), example.build()
    rgb = torch.from_numpy(numbers[f"{picture}_image"]).float()
    image = ((rgb - torch.tensor(description["mean"])) / torch.tensor(description["std"])).movedim(-1, 0)[None]
    stages = []
    modules = [trained.get_submodule(name) for name in STAGES]
    hooks = [module.register_forward_hook(lambda *call: stages.append(call[-1])) for module in modules]
    with torch.no_grad():
        logits = trained(image)[0]  # (20,H,W)
    for hook in hooks:
        hook.remove()
    assert [list(x.shape) for x in stages] == numbers[f"{picture}_stage_shapes"].tolist()
    stats = [[x.mean(), x.std(correction=0), x.min(), x.max()] for x in stages]
    np.testing.assert_allclose(np.array(stats), numbers[f"{picture}_stage_stats"], rtol=1e-4, atol=1e-4)
    for x, step, expected in ((logits, 8, "logits"), (stages[-1][0], 4, "decoder")):
        samples = numbers[f"{picture}_{expected}"].astype(np.float32)
        np.testing.assert_allclose(x[:, ::step, ::step].numpy(), samples, rtol=2**-11, atol=1e-3)
    labels = torch.from_numpy(numbers[f"{picture}_labels"])
    assert (logits.argmax(dim=0) != labels).sum() <= 21
    assert torch.equal(description["pick"](logits[None])[0].argmax(dim=0), logits.argmax(dim=0))


@published
@pytest.mark.slow
def test_camvid_as_the_authors_program_scores_it(tmp_path):
    """60.39 mIoU on val at 512 x 688 (PIL's bilinear resizing, logits resized with pixel centres at half-integers); the
    program itself, whose frames and logits are resized with corners aligned, within one point of that."""
    examples, camvid = ROOT / "docs" / "examples", REAL.parent / "camvid"
    words = [
        "--evaluate", "1", "--dataset", "camvid", "--data-path", str(camvid), "--segnet",
        f"{examples}/espnetv2.py:build", "--segnet-weights", str(REAL / "espnetv2_s_2.0_city_1024x512.pth"),
        "--class-map", f"{examples}/cityscapes_to_camvid.yaml", "--method", "per-frame", "--scale", "1.4545",
        "--grid", "4", "--eval-multi-step", "--temporal", "0", "--num-worker", "0", "--log-folder", str(tmp_path),
    ]
    segmenter, matrix = networks_for_inference(parse(words)).segmenter, ConfusionMatrix(CAMVID.num_classes)
    for path in sorted((camvid / "val").iterdir()):
        rgb = Image.open(path).convert("RGB").resize((688, 512), Image.Resampling.BILINEAR)
        frame = torch.from_numpy(np.array(rgb)).movedim(-1, 0)[None]  # (1,3,512,688)
        label = torch.from_numpy(np.array(Image.open(camvid / "valannot" / path.name)))  # (360,480)
        with torch.inference_mode():
            logits = half_pixel(segmenter(segmenter.normalise(frame)), (label.shape[0], label.shape[1]))
        matrix.add(label, segmenter.merged(logits).argmax(1)[0])
    assert 100 * scores(matrix.counts).miou == pytest.approx(60.39, abs=0.1)
    assert main([*words, "--metrics-file", str(tmp_path / "metrics.json")]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 100 * metrics["avg_miou"] == pytest.approx(60.39, abs=1.0)
