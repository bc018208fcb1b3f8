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


@pytest.mark.parametrize("grid, size", SIZES)
def test_equals_upsampling_and_argmax(grid, size):
    for seed in range(4):
        logits = regions(5, grid, seed)
        expected = F.interpolate(logits, size=size, mode="bilinear", align_corners=True).argmax(1)[0]
        found = label_map(logits, size)
        assert found.dtype == torch.uint8 and found.shape == size
        assert (found != expected).sum() <= 1  # where two classes are equal up to rounding


@pytest.mark.parametrize("classes, grid, size", [(19, (64, 128), (512, 1024)), (255, (17, 23), (131, 180))])
def test_clutter_equals_upsampling_and_argmax(classes, grid, size):
    """All cells are mixed, and nearly all classes win in one of them."""
    logits = torch.randn(1, classes, *grid, generator=generator(0))
    expected = F.interpolate(logits, size=size, mode="bilinear", align_corners=True).argmax(1)[0]
    assert (label_map(logits, size) != expected).sum() <= 3  # where two classes are equal up to rounding


@pytest.mark.parametrize("clutter", [True, False])
def test_the_first_of_equal_classes_is_chosen(clutter):
    logits = torch.randn(1, 3, 12, 20, generator=generator(0)) if clutter else regions(3, (12, 20), 0)
    assert torch.equal(label_map(logits[:, [0, 1, 2, 0, 1, 2]], (99, 167)), label_map(logits, (99, 167)))


@pytest.mark.parametrize("change", [
    torch.Tensor.half, torch.Tensor.bfloat16, lambda x: x.to(memory_format=torch.channels_last),
    lambda x: x.mT.contiguous().mT, lambda x: x.flip(1)[:, ::2], lambda x: x.clone().requires_grad_(),
], ids=["float16", "bfloat16", "channels last", "transposed", "every second class", "with gradient"])
def test_types_and_memory_formats(change):
    logits = change(torch.randn(1, 6, 12, 20, generator=generator(0)))
    assert torch.equal(label_map(logits, (99, 167)), label_map(logits.detach().float().contiguous(), (99, 167)))


def test_beside_nan_labels_are_classes():
    logits = torch.randn(1, 5, 12, 20, generator=generator(0))
    logits[0, 3, 4:8, 5:9] = float("nan")
    assert label_map(logits, (96, 160)).max() < 5


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
    chunk=st.sampled_from([1, 2**14, 2**20]), seed=seeds,
)
def test_random_label_maps_equal_upsampling_and_argmax(outcomes, grid, size, classes, kind, chunk, seed):
    logits = torch.randn(1, classes, *grid, generator=generator(seed))
    if kind == "regions":
        logits = regions(classes, grid, seed)
    elif kind == "ties":
        logits = logits.round()
    elif kind == "spikes":  # class 0, the largest at no grid point, may win between them
        logits = torch.where(logits == logits.amax(1, keepdim=True), 10.0, -10.0)
        logits[:, 0] = 1.0
    with mock.patch.object(module, "CHUNK", chunk):
        found = label_map(logits, size)
    assert found.dtype == torch.uint8 and found.shape == size
    planes = torch.from_numpy(upsampled(logits[0], size))  # (C,H,W) float64
    chosen = planes.gather(0, found[None].long())[0]
    assert (chosen >= planes.amax(0) - 1e-4).all()  # the largest; of those equal up to rounding, any
    outcomes["equal to upsampling and argmax"] += 1
