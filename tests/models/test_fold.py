"""BatchNorm folded into convolutions changes nothing but the cost."""
import pytest
import torch
from torch import nn

from models.build import build_segmenter
from models.fold import folded
from tests.released import fill, filled_gsvnet


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


@pytest.mark.parametrize("name, left", [("swiftnet", 12), ("bisenet", 0)])
def test_segmenter_returns_the_same_logits_with_fewer_norms(name, left):
    segmenter = fill(build_segmenter(name=name, classes=5))
    before, image = norms(segmenter), torch.randn(1, 3, 64, 96)
    quick = folded(segmenter)
    with torch.no_grad():
        expected, found = segmenter(image), quick(image)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert norms(quick) == left and norms(segmenter) == before


@pytest.mark.parametrize("part", ["guided", "flow"])
def test_propagation_folds_entirely(part):
    module = getattr(filled_gsvnet("swiftnet", "light"), part)
    inputs = (torch.randn(1, 19 if part == "guided" else 3, 16, 16), torch.randn(1, 3, 16, 16))
    quick = folded(module)
    with torch.no_grad():
        expected, found = module(*inputs), quick(*inputs)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max() and norms(quick) == 0
