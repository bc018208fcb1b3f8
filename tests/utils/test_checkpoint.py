"""Files of tensors are safe to read and written whole."""
import argparse
import hashlib
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from config.errors import UserError
from utils.checkpoint import WeightsFile, save_checkpoint

DOOR = "Weights and checkpoints"


class Attack:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_round_trip_and_previous_file(tmp_path):
    path, previous = tmp_path / "deep" / "a.tar", tmp_path / "deep" / "b.tar"
    for number in range(3):
        save_checkpoint(path, {"n": number, "x": torch.ones(2)}, previous=previous)
    assert WeightsFile.read(path, "it").content["n"] == 2 and WeightsFile.read(previous, "it").content["n"] == 1
    assert sorted(x.name for x in path.parent.iterdir()) == ["a.tar", "b.tar"]


@pytest.mark.parametrize("zipped", [True, False])
def test_released_extras_are_harmless(tmp_path, zipped):
    content = {"args": argparse.Namespace(a=1, b=[1, 2]), "best_pred": np.float64(0.5), "array": np.float32(1)}
    torch.save(content, tmp_path / "a.tar", _use_new_zipfile_serialization=zipped)
    loaded = WeightsFile.read(tmp_path / "a.tar", "it").content
    assert loaded["args"].b == [1, 2] and float(loaded["best_pred"]) == 0.5


@pytest.mark.tried(DOOR, "pickle that runs a shell command", "not run, refused in one line")
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(tmp_path, zipped):
    torch.save({"x": Attack(tmp_path / "ran")}, tmp_path / "a.tar", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="a.tar: cannot be read as it"):
        WeightsFile.read(tmp_path / "a.tar", "it")
    (tmp_path / "b.tar").write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    with pytest.raises(UserError, match="b.tar: cannot be read"):
        WeightsFile.read(tmp_path / "b.tar", "it")
    assert not (tmp_path / "ran").exists()


@pytest.mark.tried(DOOR, "file that is empty, or of other bytes", "refused in one line")
@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\x03\x04garbage", b"\x80\x02garbage", bytes(range(250)) * 2],
    ids=["empty", "letter", "zip", "pickle", "bytes"],
)
def test_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"a.tar: cannot be read as weights .{len(content)} bytes.*; put it back"):
        WeightsFile.read(path, "weights", "put it back")


@pytest.mark.tried(DOOR, "file cut short", "refused in one line")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_file_is_refused(tmp_path, zipped, part):
    path = tmp_path / "a.tar"
    torch.save({"x": torch.randn(1000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(UserError, match="cannot be read"):
        WeightsFile.read(path, "weights")


@pytest.mark.tried(DOOR, "missing file, list in place of a dict, numbers in place of tensors", "refused in one line")
def test_missing_file_and_other_content(tmp_path):
    with pytest.raises(UserError, match="nothing.tar: not found .expected weights.; put it there"):
        WeightsFile.read(tmp_path / "nothing.tar", "weights", "put it there")
    torch.save([1], tmp_path / "list.tar")
    with pytest.raises(UserError, match="contains a list, expected weights"):
        WeightsFile.read(tmp_path / "list.tar", "weights")
    for content in ({"epoch": 3}, {}, {1: torch.zeros(1)}):
        with pytest.raises(UserError, match="a.tar: contains no plain state dict .* for it"):
            WeightsFile(tmp_path / "a.tar", content, "").into(torch.nn.Linear(2, 3), "it")


@pytest.mark.tried(DOOR, "disk full while a checkpoint is written", "one line, the earlier file intact")
def test_failed_write_keeps_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    save_checkpoint(path, {"n": 1})
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError, match="a.tar: cannot be written .No space left on device.*the earlier file is intact"
    ):
        save_checkpoint(path, {"n": 2})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.tar"]


@pytest.mark.tried(DOOR, "folder for a checkpoint that is a file", "one line")
def test_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a.tar: cannot be written"):
        save_checkpoint(tmp_path / "file" / "a.tar", {"n": 1})


@pytest.mark.tried(DOOR, "tensors missing, surplus, of another shape", "refused in one line")
def test_wrong_tensors_are_named(tmp_path):
    module, path = torch.nn.Linear(2, 3), tmp_path / "a.tar"
    good = {name: x + 1 for name, x in module.state_dict().items()}
    WeightsFile(path, {f"module.{name}": x for name, x in good.items()}, "").into(module, "it")
    assert all(torch.equal(x, good[name]) for name, x in module.state_dict().items())
    bad = WeightsFile(path, {"model": {"weight": torch.zeros(1, 1), "extra": torch.zeros(1)}}, "")
    message = (
        "a.tar: does not fit it: 1 tensors missing .bias.; 1 tensors unexpected .extra.; 1 tensors of another shape "
        ".weight is .1, 1., not .3, 2."
    )
    with pytest.raises(UserError, match=message):
        bad.into(module, "it", keys=("state_dict", "model"))
    WeightsFile(path, {**good, "extra": torch.zeros(1)}, "").into(module, "it", strict=False)
    WeightsFile(path, {"w": good["weight"], "bias": good["bias"]}, "").into(module, "it", names={"w": "weight"})


def test_sha256_is_that_of_the_bytes(tmp_path):
    save_checkpoint(tmp_path / "a.tar", {"x": torch.ones(2)})
    file = WeightsFile.read(tmp_path / "a.tar", "it")
    assert file.path == tmp_path / "a.tar" and file.digest == hashlib.sha256(file.path.read_bytes()).hexdigest()


@pytest.mark.tried(DOOR, "weights that are NaN, infinite, of another kind, sparse, or without data; negative variances",
                   "refused in one line")
@pytest.mark.parametrize(
    "name, change, reason",
    [
        ("weight", lambda x: x * float("nan"), "contains NaN or infinite values"),
        ("bias", lambda x: x.index_fill(0, torch.tensor([2]), float("inf")), "contains NaN or infinite values"),
        ("running_var", lambda x: -x, "contains negative variances"),
        ("weight", lambda x: x.to(torch.complex64), "is a torch.complex64 tensor"),
        ("weight", lambda x: x.long(), "is a torch.int64 tensor"),
        ("weight", lambda x: x.to_sparse(), "is a torch.float32 tensor of layout torch.sparse_coo"),
        ("weight", lambda x: x.to("meta"), "is a torch.float32 tensor of layout torch.strided without values"),
    ],
)
def test_impossible_values_are_refused_and_nothing_is_loaded(tmp_path, name, change, reason):
    module = torch.nn.BatchNorm2d(3)
    before = {key: x.clone() for key, x in module.state_dict().items()}
    tensors = {**{key: x + 1 for key, x in before.items()}, name: change(before[name])}
    told = f"a.tar: {name} {reason}.*; the file is damaged, or its training diverged: use an earlier one"
    with pytest.raises(UserError, match=told):
        WeightsFile(tmp_path / "a.tar", tensors, "").into(module, "it")
    assert all(torch.equal(x, before[key]) for key, x in module.state_dict().items())


@pytest.mark.tried(DOOR, "zip bomb: a file of compressed parts", "refused in one line")
def test_compressed_parts_are_not_unpacked(tmp_path):
    torch.save({"x": torch.zeros(10)}, tmp_path / "a.tar")
    deflated = zipfile.ZipFile(tmp_path / "b.tar", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "a.tar") as source, deflated as target:
        for part in source.namelist():
            target.writestr(part, source.read(part))
    with pytest.raises(UserError, match="b.tar: cannot be read .*compressed parts, which torch never writes"):
        WeightsFile.read(tmp_path / "b.tar", "weights")
