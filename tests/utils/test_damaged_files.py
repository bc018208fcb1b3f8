"""Damaged and hostile files of tensors: read correctly or refused, and no code in them ever runs."""
import argparse
import contextlib
import hashlib
import io
import itertools
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from config.errors import UserError
from models.build import build_flow
from models.guided_conv import GuidedConv
from models.released import load_flow, load_guided, read_propagation, released_state
from tests.released import fill
from utils.checkpoint import CHECKSUMS, WeightsFile, save_checkpoint

DOOR = "Weights and checkpoints"
MUTANTS = int(os.environ.get("MUTANTS", 150))  # of each format; `make reliability` sets more
FORBIDDEN = {
    "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "socket.connect"
}
watching: list[str] | None = None  # forbidden events so far, inside nothing_happens()


def watch(event: str, details: tuple) -> None:
    writes = event == "open" and isinstance(details[1], str) and set(details[1]) & set("wax+")
    if watching is not None and (event in FORBIDDEN or writes):
        watching.append(event)


sys.addaudithook(watch)  # cannot be removed; costs next to nothing


@contextlib.contextmanager
def nothing_happens():
    """Fail where the block runs a program, writes a file or uses the network."""
    global watching
    seen = watching = []
    try:
        yield
    finally:
        watching = None
    assert seen == []


def checkpoint() -> dict:
    """Content of a propagation checkpoint for four classes."""
    return {
        "epoch": 3, "state_dict": released_state(fill(GuidedConv(4))),
        "state_dict_of": fill(build_flow(name="light")).state_dict(),
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.randn(4, 3)}}, "param_groups": [{"lr": 0.01, "params": [0]}],
        },
        "best_pred": np.float64(0.5), "args": argparse.Namespace(segnet="swiftnet", multi_step=[1, 2]),
    }


def zip_regions(content: bytes) -> list[tuple[int, int]]:
    """(begin, end) of every header and every part of a zip file, of its directory, and of its end."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        parts, directory = file.infolist(), file.start_dir
    edges = {0, directory, len(content) - 22, len(content)}
    for part in parts:
        begin = part.header_offset + 30 + int.from_bytes(content[part.header_offset + 26 :][:2], "little")
        begin += int.from_bytes(content[part.header_offset + 28 :][:2], "little")
        edges |= {part.header_offset, begin, begin + part.file_size}
    return list(itertools.pairwise(sorted(edges)))


def old_regions(content: bytes) -> list[tuple[int, int]]:
    """(begin, end) of the five pickles at the start of a file in the format before 2020, then of each tensor's length
    and values."""
    file, edges = io.BytesIO(content), [0]
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
        edges.append(file.tell())
    while edges[-1] < len(content):
        count = int.from_bytes(content[edges[-1] :][:8], "little")
        edges += [edges[-1] + 8, edges[-1] + 8 + count * (8 if count == 1 else 4)]  # single values are counters
    assert edges[-1] == len(content)
    return list(itertools.pairwise(edges))


def mutants(content: bytes, regions: list[tuple[int, int]]):
    """Copies with one byte changed, region after region, at a random place by a random value."""
    rng = np.random.default_rng(7)
    for number in range(MUTANTS):
        begin, end = regions[number % len(regions)]
        damaged = bytearray(content)
        damaged[int(rng.integers(begin, end))] ^= int(rng.integers(1, 256))
        yield bytes(damaged)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, argparse.Namespace):
        return isinstance(b, argparse.Namespace) and same(vars(a), vars(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b


def tried(path) -> dict | None:
    """Content of the file after it was loaded as the program loads it; None if that raises, in one line."""
    try:
        with nothing_happens():
            file = read_propagation(path)
        load_guided(GuidedConv(4), file)
        load_flow(build_flow(name="light"), file, "light")
        return file.content
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return None


@pytest.mark.tried(DOOR, "one byte changed in a checkpoint of today's format, in every part of it")
def test_every_changed_byte_is_found_by_the_checksums(tmp_path, outcomes):
    whole, path = checkpoint(), tmp_path / "a.tar"
    save_checkpoint(path, whole)
    content = path.read_bytes()
    for damaged in mutants(content, zip_regions(content)):
        path.write_bytes(damaged)
        loaded = tried(path)
        assert loaded is None or same(whole, dict(loaded))
        outcomes["refused in one line" if loaded is None else "loaded with every value as it was"] += 1


@pytest.mark.tried(DOOR, "one byte changed in a file of the format before 2020, in every part of it")
def test_changed_byte_in_a_file_without_checksums(tmp_path, outcomes):
    whole, path = checkpoint(), tmp_path / "a.tar"
    torch.save(whole, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for damaged in mutants(content, old_regions(content)):
        path.write_bytes(damaged)
        loaded = tried(path)
        if loaded is None:
            outcomes["refused in one line"] += 1
        else:
            intact = same(whole, dict(loaded))
            other = "loaded with another value: that format has no checksums"
            outcomes["loaded with every value as it was" if intact else other] += 1


@pytest.mark.tried(DOOR, "the same, with a SHA256SUMS in its folder", "refused in one line")
def test_sha256sums_finds_every_changed_byte(tmp_path, outcomes):
    path = tmp_path / "a.tar"
    torch.save(checkpoint(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    (tmp_path / CHECKSUMS).write_text(f"{'0' * 64}  other.tar\n{hashlib.sha256(content).hexdigest()} *a.tar\n")
    assert tried(path) is not None
    for damaged in mutants(content, old_regions(content)):
        path.write_bytes(damaged)
        with pytest.raises(
            UserError, match="its sha256 is .*, but .*SHA256SUMS lists .*; the file is damaged or a different one"
        ):
            read_propagation(path)
        outcomes["refused in one line"] += 1


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


CALLS = {
    "os.system": Call(os.system, "touch ran"), "eval": Call(eval, "open('ran', 'w')"), "exec": Call(
        exec, "open('ran', 'w')"
    ),
    "Popen": Call(subprocess.Popen, ["touch", "ran"]), "open": Call(open, "ran", "w"), "import": Call(
        __import__, "this"
    ),
    "getattr": Call(getattr, "x", "__class__"), "torch.load": Call(torch.load, "a.tar"), "numpy.load": Call(
        np.load, "a.tar"
    ),
    "dtype of objects": np.dtype(object), "array of objects": np.array([Call(os.system, "touch ran")], object),
}


@pytest.mark.tried(
    DOOR, "pickle that calls a function: eleven functions, three places, three formats", "not run, refused in one line"
)
@pytest.mark.parametrize("kind", ["pickle", "old", "new"])
@pytest.mark.parametrize("place", ["alone", "among others", "as a weight"])
@pytest.mark.parametrize("call", CALLS)
def test_calls_are_not_made(tmp_path, monkeypatch, kind, place, call):
    monkeypatch.chdir(tmp_path)
    hidden, path = CALLS[call], tmp_path / "a.tar"
    content = {
        "alone": hidden, "among others": {"epoch": 1, "x": [hidden]}, "as a weight": {"state_dict": {"w": hidden}},
    }[place]
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "new")
    told = r"a\.tar: cannot be read as weights .*(it asks for|a numpy value of type)"
    with nothing_happens(), pytest.raises(UserError, match=told):
        WeightsFile.read(path, "weights")
    assert os.listdir(tmp_path) == ["a.tar"]
