"""The yardstick computes what this program computes, and the benchmarks run."""
import json

import pytest
import torch

from config.synthetic import SYNTHETIC
from dataloaders.build import labelled_frames
from dataloaders.clips import ClipDataset
from dataloaders.transforms import channels_first, normalise
from main import main
from models.losses import PropagationLoss
from tests.released import filled_gsvnet
from trainer.benchmarks.reference import PlainClips, plain_frozen, plain_loss, plain_propagation
from trainer.train import ClipPropagation, frozen_pass, views_of


def test_published_way_gives_the_same_logits_and_gradients():
    clip = torch.randn(1, 4, 3, 64, 96)
    results = []
    for plain in (True, False):
        net = filled_gsvnet("swiftnet", "light")
        if plain:
            key_logits, teacher = plain_frozen(net, clip)
            logits = plain_propagation(net, clip, key_logits)
        else:
            key_logits, teacher = frozen_pass(net.segmenter, clip[:, 0], clip[:, -1], distil=True)
            logits = ClipPropagation(net, finetune_all=False)(key_logits, views_of(clip))
        logits.square().sum().backward()
        results.append((teacher, logits.detach(), net.guided.intra[0].weight.grad, net.flow.conv1[0].weight.grad))
    for a, b in zip(*results):
        assert (a - b).abs().max() <= 1e-3 * b.abs().max()


def test_published_loss_gives_the_same_total():
    criterion = PropagationLoss(SYNTHETIC.class_weights, param_ce=10, param_distil=10, ignore=SYNTHETIC.ignore)
    logits, teacher, label = torch.randn(2, 19, 8, 12), torch.randn(2, 19, 16, 24), torch.randint(0, 19, (2, 64, 96))
    label[:, :8] = SYNTHETIC.ignore
    assert torch.allclose(plain_loss(criterion, logits, label, teacher), criterion(logits, label, teacher)["total"], rtol=1e-5)


def test_published_loader_gives_the_same_clips(streets):
    frames = labelled_frames(dataset="synthetic", root=streets, split="train", past=2)
    mean, std = (73.15, 82.90, 72.3), (47.67, 48.49, 47.73)
    plain, ours = PlainClips(frames, 2, SYNTHETIC, mean, std)[1], ClipDataset(frames, 2, SYNTHETIC)[1]
    assert torch.allclose(plain["clip"], normalise(channels_first(ours["clip"]), mean, std), atol=1e-4)
    assert torch.equal(plain["label"], ours["label"].long())


@pytest.mark.parametrize("name, keys", [("loader", {"decoders", "loaders"}), ("train", {"published", "ours"}), ("eval", {"seconds", "ratio"})])
def test_benchmark_prints_a_table_and_writes_json(streets, tmp_path, capsys, name, keys):
    path = tmp_path / "result.json"
    assert main(["--benchmark", name, "--dataset", "synthetic", "--data-path", str(streets), "--metrics-file", str(path),
                 "--device", "cpu", "--crop-height", "64", "--crop-width", "96", "--batch-size", "2", "--num-worker", "0",
                 "--multi-step", "2", "--eval-multi-step", "1", "2"]) == 0
    content = json.loads(path.read_text())
    assert keys <= set(content) and content["machine"]["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert all(line in printed for line in content["table"])
