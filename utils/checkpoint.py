"""Reading and writing files of tensors: safely, whole, and with one clear line when something is wrong."""
import argparse
import contextlib
import hashlib
import io
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from config.errors import UserError
from utils.logging import logger

# What released checkpoints hold beside tensors, numbers and strings: their options, and scores as numpy scalars
# under the module path of older numpy versions.
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")},
]


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_checkpoint(path: Path, expected: str, remedy: str = "") -> Mapping:
    """Read a file of tensors onto the CPU without running anything that it may contain.

    `expected` says what the file should be, `remedy` where to get or put it. Prints the file's checksum.
    Raises UserError for a missing, truncated, foreign or unsafe file.
    """
    path = Path(path)
    hint = f"; {remedy}" if remedy else ""
    if not path.is_file():
        raise UserError(f"{path}: not found (expected {expected}){hint}")
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, TypeError,
            AttributeError, LookupError, AssertionError, OverflowError, MemoryError, struct.error) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: cannot be read as {expected} ({os.path.getsize(path)} bytes; truncated, damaged, or not such a "
            f"file: {first_line[:160]}){hint}"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected {expected}{hint}")
    logger.info("%s: %s, sha256 %s", path, expected, sha256(path))
    return content


def tensors_of(content: Mapping, path: Path, expected: str) -> dict[str, Tensor]:
    """`content` as a state dict, free of the prefix that a data-parallel wrapper leaves."""
    if not content or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise UserError(f"{path}: holds no plain state dict where {expected} was expected")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, expected: str, *, strict: bool = True) -> None:
    """Copy `tensors` into `module`; names and shapes have to fit.

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
    module.load_state_dict({name: tensors[name] for name in own})


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
