"""What several tests share."""
import pytest
import torch

from dataloaders.synthetic import StreetSettings, ensure_streets
from tests.released import write_released_files


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run side by side; torch's own threads would only fight over the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def streets(tmp_path_factory):
    """A tiny synthetic data set: 64 x 128, sequences of 6 frames."""
    settings = StreetSettings(height=64, width=128, train=3, val=2, length=6, seed=11)
    return ensure_streets(tmp_path_factory.mktemp("data") / "streets", settings, workers=1)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """The released files, with known values in them."""
    return write_released_files(tmp_path_factory.mktemp("weights"))
