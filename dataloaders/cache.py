"""Optional cache of decoded pictures on disk, as memory-mapped bytes, so that a second epoch decodes nothing."""
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
    """Decoded pictures under `folder`, one .npy file each, written when first read.

    Processes may share it: files are written whole or not at all. Their names contain the size and modification time
    of the source, so a changed source is decoded again and its old entry removed.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def announce(self, pictures: Iterable[Path], decode: Decode) -> None:
        """Log the space that all `pictures` need, before any is written. Raises UserError where the disk has less."""
        pictures = sorted(set(pictures))
        if not pictures:
            return
        each = missing = 0
        for path in pictures:
            with contextlib.suppress(UserError):  # an unreadable picture is reported when it is needed
                missing += not self._entry(path).is_file()
                each = each or decode(path).nbytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be created ({error.strerror}); change --cache-dir") from error
        free, needed = shutil.disk_usage(self.folder).free, missing * each
        logger.info(
            "cache %s: %d of %d pictures to add, about %.2f GiB; %.2f GiB free",
            self.folder, missing, len(pictures), needed / 2**30, free / 2**30,
        )
        if needed > free:
            raise UserError(f"{self.folder}: too little space for the decoded frames; change or omit --cache-dir")

    def read(self, path: Path, decode: Decode, variant: str = "") -> np.ndarray:
        """Return decode(path), memory-mapped and read-only. Raises UserError where the cache cannot be used.

        variant: tells apart what several kinds of `decode` make of one file.
        """
        entry = self._entry(path, variant)
        try:
            picture = _mapped(entry)
        except OSError as error:
            raise UserError(f"{entry}: cannot be read ({error.strerror}); change or omit --cache-dir") from error
        if picture is None:
            picture = decode(path)
            with written_whole(entry, "free some space, or omit --cache-dir") as file:
                np.save(file, picture)
            for other in entry.parent.glob(f"{entry.name.split('-')[0]}-*.npy"):
                if other != entry:
                    other.unlink(missing_ok=True)
        return picture

    def _entry(self, path: Path, variant: str = "") -> Path:
        try:
            source = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be opened ({error.strerror})") from error
        key = hashlib.sha1(f"{path.resolve()}{variant}".encode()).hexdigest()
        return self.folder / key[:2] / f"{key}-{source.st_size}-{source.st_mtime_ns}.npy"


def picture_cache(folder: str) -> PictureCache | None:
    """The cache in `folder` (`--cache-dir`); None if the name is empty."""
    return PictureCache(Path(folder)) if folder else None


def _mapped(entry: Path) -> np.ndarray | None:
    """Map a decoded picture, (H,W) or (H,W,3) uint8; None if it is missing, damaged or incomplete. Raises OSError."""
    try:
        picture = np.lib.format.open_memmap(entry, mode="r")  # rejects pickled objects, which could run code
        valid = picture.ndim >= 2 and picture.shape[2:] in ((), (3,)) and picture.dtype == np.uint8 and picture.size
        whole = entry.stat().st_size == picture.offset + picture.nbytes
        return picture if valid and whole and picture.flags.c_contiguous else None
    except Exception as error:  # damaged headers raise many types
        if isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise
        return None
