"""Files of tensors: read once and safely, checked, put into networks; written whole."""
import argparse
import hashlib
import io
import os
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from config.errors import UserError
from utils.files import written_whole
from utils.logging import logger
from utils.mxnet_params import MAGIC, read_params


class _NumpyType:
    """Replaces numpy.dtype while a file is read: numpy's own accepts far more from a file than the types of numbers."""

    def __init__(self, code: str, *_: object):
        if code not in ("f8", "f4", "i8", "i4", "b1"):
            raise pickle.UnpicklingError(f"it contains a numpy value of type {code!r}")
        self.code = code

    def __setstate__(self, state: object) -> None:  # version, byte order and so on
        if not isinstance(state, tuple) or state[1:2] not in (("<",), ("|",)):
            raise pickle.UnpicklingError("it contains a numpy value of another byte order")


def _scalar(type_: _NumpyType, data: bytes) -> np.generic:
    """Replaces the function that numpy's scalars are pickled with."""
    return np.frombuffer(data, type_.code, count=1)[0]


# What released checkpoints contain apart from tensors, plain numbers and strings: their options, and scores as numpy
# scalars (under the module paths of older and newer versions).
_HARMLESS: list[Callable | tuple[Callable, str]] = [
    argparse.Namespace, (_NumpyType, "numpy.dtype"), (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]
CHECKSUMS = "SHA256SUMS"  # in a file's folder, as `sha256sum * > SHA256SUMS` writes it
# What wrappers (DataParallel, torch.compile, other programs) put before the names of a network's tensors.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "segmenter.")
NOT_WEIGHTS = ("n_averaged", "loss.criterion.weight")  # ends of names: of torch's AveragedModel, of losses
NESTED = 2  # levels at which state dicts are looked for, as in {"ema": {"module": {...}}}


@dataclass(frozen=True)
class WeightsFile:
    """A file of tensors that has been read: its path, what it contains, and its SHA-256.

    mixed: whether tensors that a network lacks are ignored: MXNet's files hold those of several networks.
    """

    path: Path
    content: Mapping
    digest: str
    mixed: bool = False

    @classmethod
    def read(cls, path: Path, expected: str, hint: str = "", *, log: bool = True) -> "WeightsFile":
        """Read a file of tensors onto the CPU, once, without running anything that it may contain; log its checksum.

        `expected` describes what the file should be, `hint` where to get or put it. Raises UserError for a missing,
        truncated, damaged, foreign or unsafe file, and where a SHA256SUMS in its folder lists another checksum for it.
        """
        path, hint = Path(path), f"; {hint}" if hint else ""
        if not path.is_file():
            raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'not found'} (expected {expected}){hint}")
        try:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            check_digest(path, digest, hint)
        except OSError as error:
            raise UserError(f"{error.filename or path}: cannot be read ({error.strerror}){hint}") from error
        try:
            content = _parsed(data)
        except Exception as error:  # a damaged file makes torch raise almost any kind
            raise UserError(
                f"{path}: cannot be read as {expected} ({len(data)} bytes; truncated, damaged, or another kind of "
                f"file: {_reason(error)}){hint}"
            ) from error
        if not isinstance(content, Mapping):
            raise UserError(f"{path}: contains a {type(content).__name__}, expected {expected}{hint}")
        if log:
            logger.info("%s: %s, sha256 %s", path, expected, digest)
        return cls(path, content, digest, mixed=data.startswith(MAGIC))

    def tensor(self, endings: tuple[str, ...]) -> Tensor | None:
        """The first tensor whose name ends with one of `endings`, wherever it is in the file."""
        found = (x for part in _nested(self.content).values() for name, x in part.items() if _ends(name, endings))
        return next((x for x in found if isinstance(x, Tensor)), None)

    def without(self, part: str) -> "WeightsFile":
        """The file but for the tensors of a network's `part`."""
        return replace(self, content=_cut(self.content, f"{part}."))

    def into(
        self, module: nn.Module, network: str, *, keys: Sequence[str] = (), names: Mapping[str, str] | None = None,
        strict: bool = True, fresh: Collection[str] = (), always_fresh: bool = False,
    ) -> None:
        """Copy a state dict of the file into `module`: the one under the first of `keys` that the file has, else the
        first that fits, also after wrappers' prefixes (PREFIXES) of its names are dropped, which is logged.

        network: what `module` is, for messages. names: the file's names -> the module's, where they differ. With
        strict=False, names that the module lacks are ignored. fresh: names of the module that keep their values where
        the file fits only without them, or with `always_fresh`, which is logged. Raises UserError, before anything is
        copied, where names or shapes differ or a value is not finite.
        """
        own, found = module.state_dict(), _state_dicts(self.content, keys, names or {})
        strict = strict and not self.mixed
        if not found:
            raise UserError(f"{self.path}: contains no plain state dict (names and tensors) for {network}")
        fitting = [x for x in found if not _differences(own, x[1], strict)]
        if fresh and (not fitting or always_fresh):
            own, found = _without(own, fresh), [(place, _without(tensors, fresh)) for place, tensors in found]
            fitting = [x for x in found if not _differences(own, x[1], strict)]
            logger.info("%s: %s of %s start fresh", self.path, ", ".join(sorted(fresh)), network)
        if not fitting:
            problems = _differences(own, found[0][1], strict)
            raise UserError(f"{self.path}: does not fit {network}: {'; '.join(problems)}")
        (place, tensors), *others = fitting
        if place or others:
            too = "".join(f"; {other} would fit too" for other, _ in others)
            logger.info("%s: %s taken for %s%s", self.path, place or " or ".join(keys), network, too)
        for name in own:
            if reason := _impossible(name, tensors[name], own[name]):
                cause = "the file is damaged, or its training diverged: use an earlier one"
                raise UserError(f"{self.path}: {name} {reason}; {cause}")
        module.load_state_dict({name: tensors[name] for name in own}, strict=False)


def check_digest(path: Path, digest: str, hint: str) -> None:
    """Raise UserError where a SHA256SUMS in the file's folder lists another checksum for it."""
    sums = path.with_name(CHECKSUMS)
    for line in sums.read_text(errors="replace").splitlines() if sums.is_file() else ():
        listed, _, name = line.partition(" ")
        if name.lstrip(" *") == path.name and listed.lower() != digest:
            found = f"{path}: its sha256 is {digest}, but {sums} lists {listed}"
            raise UserError(f"{found}; the file is damaged or a different one{hint}")


def _parsed(data: bytes) -> object:
    """The content of a file in one of torch's formats or in MXNet's. Raises almost any exception for a damaged one."""
    if data.startswith(MAGIC):
        return read_params(data)
    _check_zip(data)
    with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong is in the exception
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _check_zip(data: bytes) -> None:
    """Raise BadZipFile where a part of a file in torch's present format differs from its checksum.

    torch does not compare them, and would take a flipped byte for a weight.
    """
    if data[:2] != b"PK":  # the format before 2020, which has no checksums
        return
    with zipfile.ZipFile(io.BytesIO(data)) as content:
        if any(part.compress_type != zipfile.ZIP_STORED for part in content.infolist()):
            raise zipfile.BadZipFile("it has compressed parts, which torch never writes")
        damaged = content.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"wrong checksum of its part {damaged}")


def _reason(error: Exception) -> str:
    """Why torch refused a file, without its advice to read it unsafely."""
    text = str(error).strip() or type(error).__name__
    if foreign := re.search(r"GLOBAL (\S+)", text):
        return f"it asks for {foreign[1]}, which weights do not need and which is not run"
    told = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    return (told[1] if told else text.splitlines()[0])[:160]


def _state_dicts(
    content: Mapping, keys: Sequence[str], names: Mapping[str, str]
) -> list[tuple[str, Mapping[str, Tensor]]]:
    """The plain state dicts of a file, each also without the prefixes that its names share, and what is unusual about
    its place: first those under `keys`, then the whole, then all others. names: as of `into`."""
    places = {**{key: content[key] for key in keys if isinstance(content.get(key), Mapping)}, **_nested(content)}
    found: list[tuple[str, Mapping[str, Tensor]]] = []
    for place, part in places.items():
        if not part or not all(isinstance(name, str) and isinstance(x, Tensor) for name, x in part.items()):
            continue
        where = f"its {place}" if place and place not in keys else ""
        found.append((where, {names.get(name, name): x for name, x in part.items()}))
        part = {name: x for name, x in part.items() if not name.endswith(NOT_WEIGHTS)}
        while part and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in part)), "")):
            part = {name.removeprefix(prefix): x for name, x in part.items()}
            where += f"{', ' if where else ''}names without {prefix}"
            found.append((where, {names.get(name, name): x for name, x in part.items()}))
    return found


def _nested(content: Mapping, place: str = "") -> dict[str, Mapping]:
    """All mappings of a file by their place, "" for the whole."""
    found = {place: content}
    for key, part in content.items() if place.count("/") < NESTED - 1 else ():
        if isinstance(key, str) and isinstance(part, Mapping):
            found |= _nested(part, f"{place}/{key}" if place else key)
    return found


def _ends(name: object, endings: tuple[str, ...]) -> bool:
    """Whether a tensor's name is one of `endings`, or ends with one after a dot."""
    return isinstance(name, str) and any(f".{name}".endswith(f".{ending}") for ending in endings)


def _cut(content: Mapping, part: str) -> dict:
    """The content without the tensors that have `part` in their names."""
    kept = {key: x for key, x in content.items() if not (isinstance(key, str) and f".{part}" in f".{key}")}
    return {key: _cut(x, part) if isinstance(x, Mapping) else x for key, x in kept.items()}


def _without(tensors: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    return {name: x for name, x in tensors.items() if name not in names}


def _differences(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], strict: bool) -> list[str]:
    """How names and shapes of `tensors` differ from those of a module's state dict `own`, one line a kind."""
    kinds = {
        "missing": [name for name in own if name not in tensors],
        "unexpected": [name for name in tensors if name not in own] if strict else [],
        "of another shape": [
            f"{name} is {tuple(tensors[name].shape)}, not {tuple(x.shape)}"
            for name, x in own.items() if name in tensors and tensors[name].shape != x.shape
        ],
    }
    found = {kind: names for kind, names in kinds.items() if names}
    return [f"{len(x)} tensors {kind} ({x[0]}{', ...' if len(x) > 1 else ''})" for kind, x in found.items()]


def _impossible(name: str, tensor: Tensor, own: Tensor) -> str:
    """Why `tensor` cannot be the value of a module's tensor `own`; empty where it can."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_floating_point() != own.is_floating_point():
        values = " without values" if tensor.is_meta else ""
        return f"is a {tensor.dtype} tensor of layout {tensor.layout}{values}, expected a dense {own.dtype} tensor"
    if not bool(tensor.isfinite().all()):
        return "contains NaN or infinite values"
    if name.endswith("running_var") and bool((tensor < 0).any()):
        return "contains negative variances"
    return ""


def save_checkpoint(path: Path, content: dict, *, previous: Path | None = None) -> None:
    """Write `content` to `path`, whole or not at all; keep an earlier file as `previous`. Raises UserError."""
    packed = io.BytesIO()
    torch.save(content, packed)  # in memory first: torch's file writer hides why a disk refused
    kept = "; the earlier file is intact" if path.exists() else ""
    with written_whole(path, f"free some space or choose another --log-folder{kept}") as file:
        file.write(packed.getbuffer())
        if previous is not None and path.exists():
            file.flush()
            os.fsync(file.fileno())  # the new file is safe before the old one is moved
            link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")  # at no moment either file is missing
            link.unlink(missing_ok=True)
            try:
                os.link(path, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, link)
            os.replace(link, previous)
