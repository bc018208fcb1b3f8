"""Reading and writing files of tensors: safely, whole, and with one clear line when something is wrong."""
import argparse
import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Mapping

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
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError,
            AttributeError, IndexError, AssertionError, UnicodeDecodeError, OverflowError, MemoryError) as error:
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


def save_checkpoint(path: Path, content: dict) -> None:
    """Write `content` beside `path` first, flush, then rename: a reader sees the old file or the new one, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); any earlier file there is untouched") from error
    finally:
        temporary.unlink(missing_ok=True)
