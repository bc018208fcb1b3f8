"""MXNet's parameter files (`.params`), read without MXNet. Nothing in them can run."""
import math
import struct
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

MAGIC = struct.pack("<Q", 0x112)  # the first bytes of a file
NEWEST, NEWER = 0xF993FAC9, 0xF993FAC8  # first words of arrays; another is the oldest layout's number of dimensions
TYPES, DIMENSIONS = ("<f4", "<f8", "<f2", "|u1", "<i4", "|i1", "<i8"), 8  # of arrays; at most
ENDINGS = {  # of names -> ours
    "_weight": ".weight", "_bias": ".bias", "_gamma": ".weight", "_beta": ".bias", "_moving_mean": ".running_mean",
    "_moving_var": ".running_var",
}
TEST = "_test"  # ends names of tensors that replace those without it when a network is no longer trained
RENAMED = {"corr": "correction"}


class _Reader:
    """Takes numbers from bytes, never beyond their end."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int) -> memoryview:
        """The next `count` bytes. Raises ValueError where there are fewer."""
        left = len(self.data) - self.at
        if count > left:
            raise ValueError(f"{count} bytes expected at byte {self.at}, but there are {left}")
        self.at += count
        return memoryview(self.data)[self.at - count : self.at]

    def numbers(self, code: str, count: int = 1) -> tuple[int, ...]:
        """The next `count` numbers of a `struct` type."""
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}")))

    def tensor(self) -> Tensor:
        """The next array, in any of three layouts."""
        start, (word,) = self.at, self.numbers("I")
        if word == NEWEST and self.numbers("i") != (0,):
            raise ValueError(f"the array at byte {start} is sparse")
        new = word in (NEWEST, NEWER)
        (dimensions,) = self.numbers("I") if new else (word,)
        if not 0 < dimensions <= DIMENSIONS:
            raise ValueError(f"the array at byte {start} has {dimensions} dimensions")
        shape = self.numbers("q" if new else "I", dimensions)
        _, _, code = self.numbers("i", 3)  # where it was, and its type
        if min(shape) < 1 or not 0 <= code < len(TYPES):
            raise ValueError(f"the array at byte {start} has shape {shape} and type {code}")
        kind = np.dtype(TYPES[code])
        values = np.frombuffer(self.take(math.prod(shape) * kind.itemsize), kind)
        return torch.from_numpy(values.reshape(shape).copy())


def read_params(data: bytes) -> dict[str, Tensor]:
    """Bytes of a file -> tensors under the names that PyTorch's layers have. Raises ValueError for a damaged file."""
    reader = _Reader(data)
    if reader.take(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin like a list of MXNet arrays")
    _, count = reader.numbers("Q", 2)
    arrays: list[Tensor] = []
    while len(arrays) < count:  # one after the other: a damaged count must not ask for memory
        arrays.append(reader.tensor())
    if reader.numbers("Q") != (count,):
        raise ValueError("its numbers of names and arrays differ")
    named = {bytes(reader.take(*reader.numbers("Q"))).decode(): x for x in arrays}
    if reader.at < len(data) or len(named) < count:
        raise ValueError(f"unexpected bytes after byte {reader.at}" if reader.at < len(data) else "a name occurs twice")
    return _renamed(named)


def _renamed(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by MXNet's names, "arg:conv0_weight", -> by ours, "conv0.weight", and BatchNorm's counters."""
    found = {}
    for name in sorted(named, key=lambda name: name.endswith(TEST)):
        layer = name.split(":", 1)[-1].removesuffix(TEST)
        ending = next((ending for ending in ENDINGS if layer.endswith(ending)), "")
        layer = layer.removesuffix(ending)
        found[f"{RENAMED.get(layer, layer)}{ENDINGS.get(ending, '')}"] = named[name]
        if ending == "_moving_mean":
            found[f"{layer}.num_batches_tracked"] = torch.tensor(0)
    return found
