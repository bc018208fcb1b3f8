"""Files that are written whole or not at all."""
import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from config.errors import UserError


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON, whole or not at all. Raises UserError when the disk refuses."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises UserError when the disk refuses."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file, whole or not at all. Raises UserError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a refusal of the disk into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); make room, or choose another folder") from error


def refuse_unwritable(path: Path, name: str) -> None:
    """Find out before the work whether a file can be written at `path`, which the flag `name` gives. Raises UserError."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{name} {path}: cannot be written ({error.strerror}); choose another place") from error
