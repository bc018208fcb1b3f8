"""Files that are written whole or not at all."""
import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from config.errors import UserError

SPACE = "free some space, or choose another folder"


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON, whole or not at all. Raises UserError if that fails."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises UserError if that fails."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview, hint: str = SPACE) -> None:
    """Write a file, whole or not at all. Raises UserError with `hint` if that fails."""
    with written_whole(path, hint) as file:
        file.write(content)


@contextlib.contextmanager
def written_whole(path: Path, hint: str = SPACE, *, ending: str = "") -> Iterator[BinaryIO]:
    """Open a temporary file next to `path`, which is flushed to the disk and renamed to `path` when the block ends.

    Its name is `.NAME.PROCESS.tmp`, and `ending` for libraries that look at it. An error in the block removes it and
    keeps what was at `path`. Raises UserError, which names the file and the fix (`hint`), for an OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{ending}")
    try:
        with file_errors(path, hint):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def file_errors(path: Path | str, hint: str = SPACE) -> Iterator[None]:
    """Turn an OSError of the block into a UserError that names the file and the fix."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); {hint}") from error


def check_writable(path: Path, flag: str) -> None:
    """Check before the work that a file can be written at `path`, the value of `flag`. Raises UserError."""
    with file_errors(f"{flag} {path}", "choose another place"):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
