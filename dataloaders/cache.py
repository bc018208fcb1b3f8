"""An optional cache of decoded pictures on disk: raw bytes, memory-mapped, so that a second epoch decodes nothing."""
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from config.errors import UserError
from utils.logging import logger

Decode = Callable[[Path], np.ndarray]


class PictureCache:
    """Decoded pictures under `folder`, one .npy file each, made when first asked for.

    Several processes may share it: a file is written aside and renamed, so that it is there whole or not at all. Its
    name holds size and modification time of the source, so a changed source is decoded anew, and the old entry removed.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def announce(self, pictures: Iterable[Path], decode: Decode) -> None:
        """Say how much all `pictures` will take before any is written. Raises UserError where the disk has less."""
        pictures = sorted(set(pictures))
        if not pictures:
            return
        each = decode(pictures[0]).nbytes
        missing = sum(not self._entry(path).is_file() for path in pictures)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made ({error.strerror}); choose another --cache-dir") from error
        free, needed = shutil.disk_usage(self.folder).free, missing * each
        logger.info(
            "cache %s: %d of %d pictures to add, about %.2f GiB; %.2f GiB free", self.folder, missing, len(pictures),
            needed / 2**30, free / 2**30,
        )
        if needed > free:
            raise UserError(f"{self.folder}: too little space for the decoded frames; choose another --cache-dir, or none")

    def read(self, path: Path, decode: Decode) -> np.ndarray:
        """What decode(path) returns, memory-mapped and read-only."""
        entry = self._entry(path)
        try:
            return np.load(entry, mmap_mode="r")
        except FileNotFoundError:
            pass
        except ValueError:  # not a whole .npy file, left by a machine that lost power, say
            entry.unlink(missing_ok=True)
        picture = decode(path)
        self._write(entry, picture)
        return picture

    def _entry(self, path: Path) -> Path:
        try:
            source = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be opened ({error.strerror})") from error
        key = hashlib.sha1(str(path.resolve()).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}-{source.st_size}-{source.st_mtime_ns}.npy"

    def _write(self, entry: Path, picture: np.ndarray) -> None:
        temporary = entry.with_name(f".{entry.name}.{os.getpid()}.tmp")
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.save(file, picture)
            os.replace(temporary, entry)
        except OSError as error:
            raise UserError(f"{entry}: cannot be written ({error.strerror}); free some space or drop --cache-dir") from error
        finally:
            temporary.unlink(missing_ok=True)
        key = entry.name.split("-")[0]
        for other in entry.parent.glob(f"{key}-*.npy"):
            if other != entry:
                other.unlink(missing_ok=True)
