"""The cache of decoded pictures: damaged entries are replaced, and nothing in it is trusted or executed."""
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from config.errors import UserError
from dataloaders.cache import PictureCache
from dataloaders.images import read_ids, read_image

DOOR = "Data"
PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
REPLACED = "replaced by the decoded picture"


@pytest.fixture
def source(tmp_path) -> Path:
    assert cv2.imwrite(str(tmp_path / "a.png"), PICTURE[..., ::-1])
    return tmp_path / "a.png"


@pytest.fixture
def cache(tmp_path, source) -> PictureCache:
    """Holds the picture of `source`."""
    cache = PictureCache(tmp_path / "cache")
    cache.read(source, read_image)
    return cache


def entry_of(cache: PictureCache) -> Path:
    (entry,) = cache.folder.rglob("*.npy")
    return entry


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def saved(tmp_path: Path, array: np.ndarray, save=np.save) -> bytes:
    with open(tmp_path / "other.npy", "wb") as file:
        save(file, array)
    return (tmp_path / "other.npy").read_bytes()


@pytest.mark.tried(
    DOOR, "entry of the cache of decoded frames: of another kind or shape, a pickle, an archive, empty, too long",
    REPLACED,
)
@pytest.mark.parametrize(
    "make",
    [
        lambda where: b"",
        lambda where: b"half",
        lambda where: saved(where, PICTURE.astype(np.int8)),
        lambda where: saved(where, PICTURE.astype(np.float32)),
        lambda where: saved(where, PICTURE[..., :2]),
        lambda where: saved(where, PICTURE[0, 0]),
        lambda where: saved(where, PICTURE[None]),
        lambda where: saved(where, np.asfortranarray(PICTURE)),
        lambda where: saved(where, PICTURE[:0]),
        lambda where: saved(where, PICTURE) + b"more",
        lambda where: saved(where, PICTURE, np.savez),
        lambda where: saved(where, np.array([Trap(where / "sprung")], object)),
        lambda where: pickle.dumps(Trap(where / "sprung")),
    ],
)
def test_entry_that_is_not_a_picture_is_replaced(tmp_path, source, cache, make):
    entry_of(cache).write_bytes(make(tmp_path))
    for _ in range(2):
        assert (cache.read(source, read_image) == PICTURE).all()
    assert isinstance(cache.read(source, lambda path: pytest.fail("decoded again")), np.memmap)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.tried(DOOR, "entry of the cache of decoded frames cut at every byte")
def test_cut_entry_is_replaced(outcomes, source, cache):
    entry = entry_of(cache)
    whole = entry.read_bytes()
    for length in range(len(whole)):
        entry.write_bytes(whole[:length])
        assert (cache.read(source, read_image) == PICTURE).all() and entry.read_bytes() == whole
        outcomes[REPLACED] += 1


@pytest.mark.tried(DOOR, "every byte of a cached frame's header changed")
@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_entry_with_a_wrong_byte_in_its_header_is_replaced(outcomes, source, cache):
    entry = entry_of(cache)
    whole = entry.read_bytes()
    header = len(whole) - PICTURE.nbytes
    for place, bit in ((place, bit) for place in range(header) for bit in (0, 3, 5)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        entry.write_bytes(damaged)
        assert (cache.read(source, lambda path: PICTURE) == PICTURE).all()
        outcomes["harmless" if entry.read_bytes() == damaged else REPLACED] += 1
    assert outcomes[REPLACED] > header


@pytest.mark.tried(DOOR, "folder of the cache of decoded frames removed while it is used", "created again")
def test_folder_may_be_removed_while_it_is_used(source, cache):
    kept = cache.read(source, read_image)
    shutil.rmtree(cache.folder)
    assert (kept == PICTURE).all() and (cache.read(source, read_image) == PICTURE).all()
    assert entry_of(cache).is_file()


@pytest.mark.tried(
    DOOR, "--cache-dir that is a file, or below one, or holds a folder in an entry's place", "refused in one line"
)
@pytest.mark.parametrize("place", ["a.png", "a.png/below"])
def test_file_in_the_folders_place_is_refused(tmp_path, source, place):
    cache = PictureCache(tmp_path / place)
    for use in (lambda: cache.read(source, read_image), lambda: cache.announce([source], read_image)):
        with pytest.raises(UserError, match=f"{place}.*: cannot be (created|written) .*--cache-dir") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.tried(
    DOOR, "--cache-dir that is a file, or below one, or holds a folder in an entry's place", "refused in one line"
)
def test_folder_in_an_entrys_place_is_refused(source, cache):
    entry = entry_of(cache)
    entry.unlink()
    entry.mkdir()
    with pytest.raises(UserError, match="cannot be read .Is a directory.; change or omit --cache-dir"):
        cache.read(source, read_image)


@pytest.mark.tried(DOOR, "disk that fails while a frame is cached", "refused in one line, nothing half-written")
def test_failing_disk_writes_nothing(tmp_path, source, monkeypatch):
    def fail(file, array):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    message = "cannot be written .No space left on device.; free some space, or omit --cache-dir"
    with pytest.raises(UserError, match=message):
        PictureCache(tmp_path / "cache").read(source, read_image)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.tried(DOOR, "damaged frames when the cache is prepared", "accepted; each is reported when it is read")
def test_announcement_skips_damaged_frames(tmp_path, source):
    (tmp_path / "0.png").write_bytes(b"no picture")
    (tmp_path / "1.png").symlink_to("nowhere")
    PictureCache(tmp_path / "cache").announce([source, tmp_path / "0.png", tmp_path / "1.png"], read_image)


def test_frames_and_labels_are_both_cached(tmp_path, source):
    cache = PictureCache(tmp_path / "cache")
    cv2.imwrite(str(tmp_path / "l.png"), PICTURE[..., 0])
    for _ in range(2):
        assert cache.read(tmp_path / "l.png", read_ids).shape == (6, 8)
        assert cache.read(source, read_image).shape == (6, 8, 3)
