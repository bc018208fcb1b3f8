"""Label maps against plain upsampling and argmax."""
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models import label_map as module
from models.label_map import label_map
from tests.properties import generator, seeds, sizes, upsampled

SIZES = [
    ((12, 20), (96, 160)), ((12, 20), (99, 167)), ((5, 7), (5, 7)), ((9, 11), (4, 6)),
    ((1, 1), (8, 8)), ((1, 6), (3, 50)),
    ((6, 1), (45, 9)),
]


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


@pytest.mark.tried(
    "Numbers",
    "label maps at random sizes, from 1 x 1, also smaller than the grid: noise, regions, equally large classes",
)
@settings(max_examples=300)
@given(
    grid=sizes(12), size=sizes(60), classes=st.integers(1, 8) | st.integers(1, 255),
    kind=st.sampled_from(["noise", "regions", "ties", "spikes"]),
    chunk=st.sampled_from([1, 7, 1024]), share=st.sampled_from([0.0, 0.5, 2.0]), seed=seeds,
)
def test_random_label_maps_equal_upsampling_and_argmax(outcomes, grid, size, classes, kind, chunk, share, seed):
    logits = torch.randn(1, classes, *grid, generator=generator(seed))
    if kind == "regions":
        logits = regions(classes, grid, seed)
    elif kind == "ties":
        logits = logits.round()
    elif kind == "spikes":  # class 0, the largest at no grid point, may win between them
        logits = torch.where(logits == logits.amax(1, keepdim=True), 10.0, -10.0)
        logits[:, 0] = 1.0
    with mock.patch.multiple(module, CHUNK=chunk, WORTH_CHOOSING=share):
        found = label_map(logits, size)
    assert found.dtype == torch.uint8 and found.shape == size
    planes = torch.from_numpy(upsampled(logits[0], size))  # (C,H,W) float64
    chosen = planes.gather(0, found[None].long())[0]
    assert (chosen >= planes.amax(0) - 1e-4).all()  # the largest; of those equal up to rounding, any
    outcomes["equal to upsampling and argmax"] += 1
