"""Label maps against plain upsampling and argmax."""
import pytest
import torch
from torch.nn import functional as F

from models import label_map as module
from models.label_map import label_map

SIZES = [((12, 20), (96, 160)), ((12, 20), (99, 167)), ((5, 7), (5, 7)), ((9, 11), (4, 6)), ((1, 1), (8, 8)), ((1, 6), (3, 50)), ((6, 1), (45, 9))]


def regions(classes, size, seed):
    """Smooth random logits: large regions with curved borders."""
    coarse = torch.randn(1, classes, 3, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=True)


@pytest.mark.parametrize("share", [0.0, 2.0], ids=["all pixels", "mixed cells only"])
@pytest.mark.parametrize("grid, size", SIZES)
def test_equals_upsampling_and_argmax(monkeypatch, grid, size, share):
    monkeypatch.setattr(module, "WORTH_CHOOSING", share)
    for seed in range(4):
        logits = regions(5, grid, seed)
        expected = F.interpolate(logits, size=size, mode="bilinear", align_corners=True).argmax(1)[0]
        found = label_map(logits, size)
        assert found.dtype == torch.uint8 and found.shape == size
        assert (found != expected).sum() <= 1  # where two classes are equal up to rounding


def test_cells_are_chosen_only_where_that_pays(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "_by_cells", lambda *_: calls.append(1))
    label_map(regions(5, (32, 48), 0), (256, 384))
    assert calls == [1]
    label_map(torch.randn(1, 5, 32, 48), (256, 384))
    assert calls == [1]


def test_input_stays_as_it_is():
    logits = regions(5, (12, 20), 1)
    before = logits.clone()
    label_map(logits, (96, 160))
    assert torch.equal(logits, before)
