"""MXNet's files of parameters: every layout is read, and what is damaged is refused."""
import contextlib
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from config.errors import UserError
from utils.checkpoint import WeightsFile
from utils.mxnet_params import read_params

DOOR = "Weights and checkpoints"
PEERS = Path(__file__).resolve().parents[3] / "shared" / "peers"
TYPES = ("<f4", "<f8", "<f2", "|u1", "<i4", "|i1", "<i8")
RNG = np.random.default_rng(3)
ARRAYS = {
    "arg:conv1_weight": RNG.standard_normal((4, 3, 1, 1)).astype("<f4"), "arg:conv1_bias_test": np.full(4, 7, "<f4"),
    "arg:conv1_bias": np.zeros(4, "<f4"), "arg:bn1_gamma": np.arange(4, dtype="<f8"), "arg:bn1_beta": np.ones(4, "<f2"),
    "aux:bn1_moving_mean": np.full(4, 5, "<f4"), "aux:bn1_moving_var": np.full(4, 6, "<f4"),
    "arg:corr_weight": np.array([[1, 2]], "<i8"), "arg:18_corr_bias": np.array([3], "|u1"),
}


def packed(arrays: dict[str, np.ndarray], version: int) -> bytes:
    """As MXNet writes a list of named arrays, in its layout 0, 1 or 2."""
    parts = [struct.pack("<3Q", 0x112, 0, len(arrays))]
    for x in arrays.values():
        start = struct.pack(f"<{version + 1}I", *([], [0xF993FAC8], [0xF993FAC9, 0])[version], x.ndim)
        shape = np.array(x.shape, "<i8" if version else "<u4").tobytes()
        parts += [start, shape, struct.pack("<3i", 1, 0, TYPES.index(x.dtype.str)), x.tobytes()]
    names = [struct.pack("<Q", len(name)) + name.encode() for name in arrays]
    return b"".join([*parts, struct.pack("<Q", len(arrays)), *names])


@pytest.mark.parametrize("version", [0, 1, 2])
def test_names_and_values(version):
    found = read_params(packed(ARRAYS, version))
    expected = {
        "conv1.weight": ARRAYS["arg:conv1_weight"], "conv1.bias": ARRAYS["arg:conv1_bias_test"],
        "bn1.weight": ARRAYS["arg:bn1_gamma"], "bn1.bias": ARRAYS["arg:bn1_beta"],
        "bn1.running_mean": ARRAYS["aux:bn1_moving_mean"], "bn1.running_var": ARRAYS["aux:bn1_moving_var"],
        "bn1.num_batches_tracked": np.array(0), "correction.weight": ARRAYS["arg:corr_weight"],
        "18_corr.bias": ARRAYS["arg:18_corr_bias"],
    }
    assert {*found} == {*expected}
    assert all(found[key].dtype == torch.from_numpy(x).dtype and found[key].tolist() == x.tolist()
               for key, x in expected.items())


@pytest.mark.skipif(not PEERS.is_dir(), reason="files that MXNet wrote are not here")
@pytest.mark.parametrize("version", [0, 1, 2])
def test_files_that_mxnet_wrote(version):
    with np.load(PEERS / "accel_tiny.npz") as stored:
        arrays = {name.replace("__", ":"): stored[name] for name in stored.files}
    found = read_params((PEERS / f"accel_tiny_v{version}.params").read_bytes())
    names = {"arg:conv1_weight": "conv1.weight", "arg:18_score_bias": "18_score.bias",
             "aux:bn_conv1_moving_mean": "bn_conv1.running_mean", "aux:bn_conv1_moving_var": "bn_conv1.running_var"}
    assert {*found} == {*names.values(), "bn_conv1.num_batches_tracked"}
    assert all(np.array_equal(found[names[name]].numpy(), x) for name, x in arrays.items())


@pytest.mark.parametrize("version", [0, 1, 2])
def test_network_takes_its_own_tensors_of_a_file(tmp_path, version):
    (tmp_path / "a.params").write_bytes(packed(ARRAYS, version))
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 4, 1))
    network.add_module("bn1", nn.BatchNorm2d(4))
    file = WeightsFile.read(tmp_path / "a.params", "weights")
    file.into(network, "it")
    assert network.bn1.running_var.tolist() == [6] * 4 and network.conv1.bias.tolist() == [7] * 4
    network.add_module("conv2", nn.Conv2d(4, 4, 1))
    with pytest.raises(UserError, match=r"a.params: does not fit it: 2 tensors missing \(conv2.weight, ...\)$"):
        file.into(network, "it")
    torch.save(file.content, tmp_path / "a.pth")
    with pytest.raises(UserError, match="2 tensors unexpected"):  # in a file of ours that is a mistake
        WeightsFile.read(tmp_path / "a.pth", "weights").into(network[:2], "it")


@pytest.mark.tried(DOOR, "MXNet file that is cut at any byte", "refused in one line")
@pytest.mark.parametrize("version", [0, 1, 2])
def test_truncated_file(tmp_path, version):
    whole = packed(ARRAYS, version)
    for end in range(8, len(whole)):
        with pytest.raises(ValueError, match=r"bytes expected at byte \d+, but there are"):
            read_params(whole[:end])
    (tmp_path / "a.params").write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"a.params: cannot be read as weights \(100 bytes; .*: \d+ bytes expected"):
        WeightsFile.read(tmp_path / "a.params", "weights")


def changed(at: int, code: str, value: int, version: int = 2) -> bytes:
    content = bytearray(packed({"arg:a_weight": np.ones((2, 2), "<f4"), "arg:b_weight": np.ones(1, "<f4")}, version))
    struct.pack_into(f"<{code}", content, at, value)
    return bytes(content)


@pytest.mark.tried(DOOR, "MXNet file with impossible counts, shapes, types or names", "refused in one line")
@pytest.mark.parametrize("content, told", [
    (changed(16, "Q", 2**63), "the array at byte 116 has shape"), (changed(16, "Q", 1), "numbers of names"),
    (changed(24, "I", 0xF993FACA), "24 has 41[0-9]+ dimensions"), (changed(28, "i", 1), "24 is sparse"),
    (changed(32, "I", 0), "has 0 dimensions"), (changed(32, "I", 2**32 - 1), "has 4294967295 dimensions"),
    (changed(36, "q", 2**62), "bytes expected at"), (changed(36, "q", -2), r"shape \(-2, 2\)"),
    (changed(60, "i", 9), "type 9"), (changed(28, "I", 2**32 - 1, 0), "bytes expected at"),
    (changed(116, "Q", 2**64 - 1), "numbers of names"), (changed(124, "Q", 2**64 - 1), "bytes expected at byte 132"),
    (changed(0, "Q", 0x112) + b"x", "unexpected bytes after byte"), (changed(156, "B", ord("a")), "name occurs twice"),
    (changed(156, "B", 0xFF), "codec can't decode"), (b"PK\3\4garbage", "does not begin like"),
])
def test_damaged_file(content, told):
    with pytest.raises(ValueError, match=told):
        read_params(content)


def test_any_changed_byte_is_read_or_refused():
    whole = packed(ARRAYS, 2)
    for at, flip in itertools.product(range(len(whole)), (0x01, 0x80, 0xFF)):
        damaged = bytearray(whole)
        damaged[at] ^= flip
        with contextlib.suppress(ValueError):
            read_params(bytes(damaged))
