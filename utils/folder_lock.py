"""A folder for one process at a time."""
import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from config.errors import UserError
from utils.logging import logger

_NAME = ".lock"


class FolderLock:
    """Locks `folder` for this process, until `release` or the end of the process, however it ends.

    The file `.lock`, which remains, only carries the lock. It is a record lock, which loader processes do not inherit:
    those that outlive a killed process for a moment lock nobody out. Raises UserError where another process holds the
    lock, or nothing can be written to the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self._file = open(folder / _NAME, "a+b", buffering=0)
        except OSError as error:
            raise UserError(f"{folder}: not writable ({error.strerror}); choose another --log-folder") from error
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # a file system without locks
                logger.warning("%s: cannot be locked (%s); only one process may train in it", folder, error.strerror)
                return
            self._file.seek(0)
            owner = self._file.read().decode(errors="replace").strip() or "unknown"
            self._file.close()
            raise UserError(
                f"{folder}: another process ({owner}) is training in it; wait until it has ended, or choose another "
                "--checkname"
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only its owner is unknown
            self._file.truncate(0)
            self._file.write(f"{os.getpid()} on {socket.gethostname()}".encode())

    def release(self) -> None:
        self._file.close()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Wait until no other process is inside this context for `folder`. Yields whether that is certain: not every file
    system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: waiting for another process that works there", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
