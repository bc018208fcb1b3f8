"""Boundaries of labels."""
from pathlib import Path

import numpy as np
import pytest

from dataloaders.boundaries import boundary_target

PEERS = Path(__file__).resolve().parents[3] / "shared" / "peers"


@pytest.mark.skipif(not PEERS.is_dir(), reason="the fixtures of further segmenters are not here")
@pytest.mark.parametrize("name, border", [("edge", 6), ("edge_camvid", 0)])
def test_boundaries_are_those_of_the_published_program(name, border):
    with np.load(PEERS / "pidnet_s_seed0.npz") as numbers:
        found = boundary_target(numbers["labels"][0], border=border)
        assert np.array_equal(found > 0, numbers[name][0] > 0) and {*np.unique(found)} == {0, 1}


def test_one_boundary():
    label = np.zeros((16, 16), np.uint8)
    label[:, 8:] = 3
    found = boundary_target(label)
    assert found[:, 6:10].any(axis=1).all() and not found[:, :5].any() and not found[:, 12:].any()
    assert not boundary_target(label, border=6)[:4].any()
    assert not boundary_target(np.full((16, 16), 7, np.uint8)).any()
