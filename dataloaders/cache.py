"""An optional cache of decoded pictures on disk: raw bytes, memory-mapped, so that a second epoch decodes nothing."""
import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from config.errors import UserError
from utils.files import written_whole
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
        each = _size_of_first(pictures, decode)
        missing = sum(not self._holds(path) for path in pictures)
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
            return _mapped(entry)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # none, or a damaged one, which is replaced
            picture = decode(path)
        except OSError as error:
            raise UserError(f"{entry}: cannot be read ({error.strerror}); mend --cache-dir, choose another, or drop it") from error
        self._write(entry, picture)
        return picture

    def _holds(self, path: Path) -> bool:
        with contextlib.suppress(UserError):  # what is wrong with a picture is said when it is needed
            return self._entry(path).is_file()
        return True

    def _entry(self, path: Path) -> Path:
        try:
            source = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be opened ({error.strerror})") from error
        key = hashlib.sha1(str(path.resolve()).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}-{source.st_size}-{source.st_mtime_ns}.npy"

    def _write(self, entry: Path, picture: np.ndarray) -> None:
        with written_whole(entry, "free some space or drop --cache-dir") as file:
            np.save(file, picture)
        key = entry.name.split("-")[0]
        for other in entry.parent.glob(f"{key}-*.npy"):
            if other != entry:
                other.unlink(missing_ok=True)


def _mapped(entry: Path) -> np.ndarray:
    """A decoded picture, (H,W) or (H,W,3) uint8, memory-mapped. Raises OSError, and ValueError where it is no whole one: left by
    a machine that lost power, say."""
    try:
        picture = np.lib.format.open_memmap(entry, mode="r")  # takes no pickled objects, which could run code
    except OSError:
        raise
    except Exception as error:  # what a damaged header raises is of many kinds
        raise ValueError(f"{entry}: no .npy file") from error
    whole = picture.dtype == np.uint8 and picture.flags.c_contiguous and picture.shape[2:] in ((), (3,)) and picture.ndim >= 2
    if not whole or not picture.size or entry.stat().st_size != picture.offset + picture.nbytes:
        raise ValueError(f"{entry}: no decoded picture")
    return picture


def _size_of_first(pictures: Iterable[Path], decode: Decode) -> int:
    """Bytes of the first picture that can be decoded: what is wrong with the others is said when they are needed."""
    for path in pictures:
        with contextlib.suppress(UserError):
            return decode(path).nbytes
    return 0
