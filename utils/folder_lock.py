"""A folder for one process at a time."""
import contextlib
import errno
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from config.errors import UserError
from utils.logging import logger

_NAME = ".lock"
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # .NAME.PROCESS.tmp: what is written aside before it gets its name


class FolderLock:
    """Keeps `folder` for this process, and clears away what killed processes had not finished writing there.

    The system holds the lock and drops it when the process ends, however it ends; the file `.lock`, which stays, is only
    what it is held on. It is a record lock, which loader processes do not inherit: what outlives a killed process for a
    moment keeps nobody out. Raises UserError where another process has the folder, or nothing can be written to it.
    """

    def __init__(self, folder: Path):
        try:
            self._file = open(folder / _NAME, "a+b", buffering=0)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written to ({error.strerror}); choose another --log-folder") from error
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # a file system without locks
                logger.warning("%s: cannot be locked (%s); only one process may train in it", folder, error.strerror)
                return
            self._file.seek(0)
            owner = self._file.read().decode(errors="replace").strip() or "of unknown number"
            self._file.close()
            raise UserError(
                f"{folder}: another process ({owner}) is training in it; wait until it has ended, or choose another --checkname"
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds, and only its owner's number is missing
            self._file.truncate(0)
            self._file.write(f"{os.getpid()} on {socket.gethostname()}".encode())
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def release(self) -> None:
        self._file.close()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Inside, no other process that asks is at work in `folder`; waits for it. Gives whether that is sure: not every file system
    has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: waiting for another process that is at work there", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
