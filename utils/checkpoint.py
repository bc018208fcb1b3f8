"""Reading and writing files of tensors: safely, whole, and with one clear line when something is wrong."""
import argparse
import contextlib
import hashlib
import io
import os
import pickle
import re
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from config.errors import UserError
from utils.logging import logger

NUMPY_KINDS = ("f8", "f4", "i8", "i4", "b1")


class _Kind:
    """Stands for numpy.dtype while a file is read: numpy's own would take more from a file than the kind of a number."""

    def __init__(self, code: str, *_: object):
        if code not in NUMPY_KINDS:
            raise pickle.UnpicklingError(f"a numpy number of kind {code!r}")
        self.code = code

    def __setstate__(self, state: object) -> None:  # version, byte order and so on
        if not isinstance(state, tuple) or state[1:2] not in (("<",), ("|",)):
            raise pickle.UnpicklingError("a numpy number of another byte order")


def _scalar(kind: _Kind, data: bytes) -> np.generic:
    """Stands for the function that numpy's numbers are pickled with."""
    return np.frombuffer(data, kind.code, count=1)[0]


# What released checkpoints hold beside tensors, plain numbers and strings: their options, and scores as numpy numbers
# (under the module paths of older and newer versions).
_HARMLESS: list[Callable | tuple[Callable, str]] = [
    argparse.Namespace,
    (_Kind, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]

CHECKSUMS = "SHA256SUMS"  # beside a file, as `sha256sum * > SHA256SUMS` writes it


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_checkpoint(path: Path, expected: str, remedy: str = "") -> Mapping:
    """Read a file of tensors onto the CPU without running anything that it may contain.

    `expected` says what the file should be, `remedy` where to get or put it. Prints the file's checksum, which has to be the
    one that a SHA256SUMS beside it names, if any. Raises UserError for a missing, truncated, damaged, foreign or unsafe file.
    """
    path = Path(path)
    hint = f"; {remedy}" if remedy else ""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "not found"
        raise UserError(f"{path}: {found} (expected {expected}){hint}")
    digest = _digest(path, hint)
    try:
        _refuse_damaged_zip(path)
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is amiss is said below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, TypeError,
            AttributeError, LookupError, AssertionError, OverflowError, MemoryError, struct.error) as error:
        raise UserError(
            f"{path}: cannot be read as {expected} ({os.path.getsize(path)} bytes; truncated, damaged, or not such a "
            f"file: {_reason(error)}){hint}"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected {expected}{hint}")
    logger.info("%s: %s, sha256 %s", path, expected, digest)
    return content


def _digest(path: Path, hint: str) -> str:
    """The file's checksum. Raises UserError where it cannot be read, or a SHA256SUMS beside it names another checksum."""
    try:
        digest, sums = sha256(path), path.with_name(CHECKSUMS)
        lines = sums.read_text(errors="replace").splitlines() if sums.is_file() else []
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror}){hint}") from error
    for line in lines:
        known, _, name = line.partition(" ")
        if name.lstrip(" *") == path.name and known.lower() != digest:
            raise UserError(f"{path}: its sha256 is {digest}, {sums} says {known}; it is damaged, or another file{hint}")
    return digest


def _reason(error: Exception) -> str:
    """What torch has against a file, without its advice to read it unsafely."""
    text = str(error).strip() or type(error).__name__
    foreign = re.search(r"GLOBAL (\S+)", text)
    if foreign:
        return f"it asks for {foreign[1]}, which weights do not need and which is not run"
    told = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    return (told[1] if told else text.splitlines()[0])[:160]


def _refuse_damaged_zip(path: Path) -> None:
    """Raise BadZipFile where a part of a file in torch's present format has not the checksum that it was written with.

    torch does not look at them, and would take a flipped byte for a weight.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":  # the format before 2020, which has no checksums
            return
    with zipfile.ZipFile(path) as content:
        if any(part.compress_type != zipfile.ZIP_STORED for part in content.infolist()):
            raise zipfile.BadZipFile("compressed parts, which torch does not write")
        damaged = content.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"wrong checksum of its part {damaged}")


def tensors_of(content: Mapping, path: Path, expected: str) -> dict[str, Tensor]:
    """`content` as a state dict, free of the prefix that a data-parallel wrapper leaves."""
    if not content or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise UserError(f"{path}: holds no plain state dict where {expected} was expected")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, expected: str, *, strict: bool = True) -> None:
    """Copy `tensors` into `module`; names and shapes have to fit, and the values have to be numbers.

    With strict=False, names that the module lacks are ignored (missing ones never are). Raises UserError.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    surplus = [name for name in tensors if name not in own] if strict else []
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    problems = []
    for label, names in (("missing", missing), ("not part of it", surplus), ("of another shape", wrong)):
        if names:
            problems.append(f"{len(names)} tensors {label} ({names[0]}{', ...' if len(names) > 1 else ''})")
    if problems:
        raise UserError(f"{path}: does not fit {expected}: {'; '.join(problems)}")
    for name in own:
        reason = _impossible(name, tensors[name], own[name])
        if reason:
            raise UserError(f"{path}: {name} {reason}; the file is damaged, or its training diverged: take an earlier one")
    module.load_state_dict({name: tensors[name] for name in own})


def _impossible(name: str, tensor: Tensor, own: Tensor) -> str:
    """Why `tensor` cannot be the value of a module's tensor `own`; empty where it can."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_floating_point() != own.is_floating_point():
        values = " without values" if tensor.is_meta else ""
        return f"is a {tensor.dtype} tensor of layout {tensor.layout}{values}, where a plain one of {own.dtype} is wanted"
    if not bool(tensor.isfinite().all()):
        return "holds NaN or infinite values"
    if name.endswith("running_var") and bool((tensor < 0).any()):
        return "holds negative variances"
    return ""


def save_checkpoint(path: Path, content: dict, *, previous: Path | None = None) -> None:
    """Write `content` beside `path` first, flush, then rename: a reader sees the old file or the new one, whole.

    The file that stood at `path` is kept as `previous`, where given. Raises UserError when the disk refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    packed = io.BytesIO()
    torch.save(content, packed)  # in memory first: torch's file writer hides why a disk refused
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(packed.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep_as(path, previous)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{path}: cannot be written ({reason}); free some space or choose another --log-folder; "
            + ("the file of before is whole" if path.exists() else "nothing was left half-written")
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _keep_as(path: Path, previous: Path) -> None:
    """Let `previous` be what `path` is now, without a moment in which either is missing."""
    link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)
    os.replace(link, previous)


def random_state() -> dict:
    """State of torch's generators in this process, as tensors."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: Mapping) -> None:
    """Bring back what `random_state` returned, as far as this machine has the devices."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
