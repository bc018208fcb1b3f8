"""Networks and files as the released program has them, for tests: same names, formats, and known parameter values."""
import argparse
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.build import build_flow, build_gsvnet, build_segmenter
from models.gsvnet import GSVNet
from models.released import FLOWNET_FILE, GSVNET_FILES, SEGMENTER_FILES, released_name, released_state

FIXTURES = Path(__file__).parent / "fixtures"
OWN_VALUES = ("filter_copy_s", "img_mean", "img_std")  # keep the values they are built with


def parameter_value(name: str, shape: tuple) -> np.ndarray:
    """The value that the parity numbers were made with: random, from the released name and the shape alone."""
    rng = np.random.RandomState(zlib.crc32(name.encode()) % 2**32)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_mean"):
        values = 0.1 * rng.standard_normal(shape)
    elif name.endswith("running_var") or (len(shape) < 2 and name.endswith("weight")):
        values = 0.5 + rng.random_sample(shape)
    elif len(shape) >= 2:
        values = rng.standard_normal(shape) * np.sqrt(1.0 / np.prod(shape[1:]))
    else:
        values = 0.05 * rng.standard_normal(shape)
    return np.asarray(values, np.float32)


def fill(module: nn.Module, name_of=lambda name: name) -> nn.Module:
    """Give every tensor of `module` its known value; name_of: our name -> released name."""
    state = module.state_dict()
    for name, tensor in state.items():
        if not name_of(name).endswith(OWN_VALUES):
            state[name] = torch.from_numpy(parameter_value(name_of(name), tuple(tensor.shape)))
    module.load_state_dict(state)
    return module.eval()


def filled_gsvnet(segmenter: str, flow: str, classes: int = 19) -> GSVNet:
    net = build_gsvnet(segmenter=segmenter, flow=flow, classes=classes)
    fill(net.segmenter)
    fill(net.flow)
    fill(net.guided, released_name)
    return net.eval()


def arrays(file: str) -> dict[str, Tensor]:
    """A fixture file's arrays as tensors, int8 ones brought back to their scale."""
    return arrays_of(FIXTURES / file)


def arrays_of(path: Path) -> dict[str, Tensor]:
    """As `arrays`, of a file anywhere."""
    with np.load(path) as stored:
        content = {name: torch.from_numpy(stored[name]) for name in stored.files}
    return {name: x.float() / 16 if x.dtype == torch.int8 else x for name, x in content.items()}


def released_tensors() -> dict:
    return json.loads((FIXTURES / "released_tensors.json").read_text())


def write_released_files(folder: Path, classes: int = 19) -> Path:
    """Write the five released files, in the formats that the release uses."""
    folder.mkdir(parents=True, exist_ok=True)
    light = fill(build_flow(name="light"))
    guided = filled_gsvnet("swiftnet", "light", classes).guided
    for segmenter, wrap in (("swiftnet", lambda x: x), ("bisenet", lambda x: {"state_dict": x})):
        network = fill(build_segmenter(name=segmenter, classes=classes))
        torch.save(wrap(network.state_dict()), folder / SEGMENTER_FILES[segmenter])
        content = {
            "epoch": 7,
            "state_dict": released_state(guided),
            "state_dict_of": light.state_dict(),
            "optimizer": {"state": {}, "param_groups": []},
            "best_pred": np.float64(0.72),
            "current_pred": np.float64(0.71),
            "test_best_pred": 0.0,
            "current_test_pred": 0.0,
            "args": argparse.Namespace(segnet=segmenter, multi_step=[1, 2, 3, 4], resume=None),
        }
        # The release dates from before the zip format.
        torch.save(content, folder / GSVNET_FILES[segmenter], _use_new_zipfile_serialization=False)
    flownet = fill(build_flow(name="flownet")).state_dict()
    torch.save({**flownet, "not.in.the.network": torch.zeros(1)}, folder / FLOWNET_FILE)
    return folder
