"""Clips, flow pairs, their loaders and the cache."""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from config.errors import UserError
from config.synthetic import SYNTHETIC
from dataloaders.cache import PictureCache
from dataloaders.clips import ClipDataset, LabelledFrame, read_clip
from dataloaders.flow_pairs import FlowDataset
from dataloaders.images import id_table, read_ids, read_image
from dataloaders.loaders import TrainingLoader, epoch_order, evaluation_loader, labelled_frames
from dataloaders.stills import StillsDataset
from streets import write_flow
from tests.properties import datasets, seeds, sizes
from utils.visualize import write_picture


@pytest.fixture(scope="module")
def frames(streets):
    return labelled_frames(dataset="synthetic", root=streets, split="train", past=4)


def test_clip_ends_at_the_labelled_frame_and_stays_bytes(frames):
    dataset = ClipDataset(frames, 2, SYNTHETIC)
    item = dataset[0]
    assert item["clip"].shape == (3, 64, 128, 3) and item["clip"].dtype == torch.uint8
    assert item["label"].shape == (64, 128) and item["label"].dtype == torch.uint8
    assert set(item["label"].unique().tolist()) <= set(range(19)) | {250}
    assert torch.equal(item["clip"][-1], read_clip(dataset.frames[0].frames[-1:])[0])
    assert len(dataset) == 3 * 4  # three sequences of six frames, the first two of each without enough past


@pytest.mark.tried(
    "Numbers", "label files of random ids and sizes, from 1 x 1, read as classes and written as ids",
    "ids of classes kept, all others ignored",
)
@settings(max_examples=60)
@given(config=datasets(), size=sizes(20), seed=seeds)
def test_random_label_files_become_classes_and_are_written_as_ids(outcomes, tmp_path, config, size, seed):
    ids = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    write_picture(tmp_path / "l.png", ids)
    write_picture(tmp_path / "f.png", np.zeros((*size, 3), np.uint8))
    label = ClipDataset([LabelledFrame("x", (tmp_path / "f.png",), tmp_path / "l.png", "p.png")], 0, config)[0]["label"]
    meant = dict(zip(config.label_ids, range(config.num_classes))) | dict(config.also)
    assert label.tolist() == [[meant.get(label_id, config.ignore) for label_id in row] for row in ids.tolist()]
    write_picture(tmp_path / "p.png", id_table(config)[label.numpy()])
    written, owned = read_ids(tmp_path / "p.png"), np.isin(ids, config.label_ids)
    assert (written[owned] == ids[owned]).all()
    for label_id, index in config.also:  # written with the class's first id
        assert (written[ids == label_id] == config.label_ids[index]).all()
    outcomes["ids of classes kept, all others ignored"] += 1


@pytest.mark.tried("Data", "frames of different sizes in a clip", "refused in one line")
def test_frame_of_another_size_is_named(tmp_path):
    for name, size in (("a.png", (8, 8, 3)), ("b.png", (8, 10, 3))):
        cv2.imwrite(str(tmp_path / name), np.zeros(size, np.uint8))
    with pytest.raises(UserError, match=r"b.png: 10 x 8 pixels, but .*a.png of the same clip has 8 x 8"):
        read_clip([tmp_path / "a.png", tmp_path / "b.png"])


@pytest.mark.tried("Data", "label of another size than its frame, in training", "refused in one line")
@pytest.mark.parametrize("size, turned", [((8, 32), False), ((8, 16), False), ((32, 16), True), ((16, 31), False)])
@pytest.mark.parametrize("kind", [ClipDataset, StillsDataset])
@pytest.mark.parametrize("cached", [False, True])
def test_label_of_another_size_is_named(tmp_path, kind, size, turned, cached):
    cv2.imwrite(str(tmp_path / "f.png"), np.zeros((16, 32, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "l.png"), np.zeros(size, np.uint8))
    frame = LabelledFrame("x", (tmp_path / "f.png",), tmp_path / "l.png", "p.png")
    items = kind([frame], 0, SYNTHETIC, PictureCache(tmp_path / "cache") if cached else None)
    with pytest.raises(UserError) as caught:
        items[0]
    assert str(caught.value) == (
        f"{tmp_path}/l.png: {size[1]} x {size[0]} pixels, but its frame {tmp_path}/f.png has 32 x 16; save it at the "
        "size of its frame" + ("; EXIF data rotates frames in viewers, not here" if turned else "")
    )


def test_flow_is_in_grid_pixels_averaged_over_valid_ones(tmp_path):
    flow, valid = np.zeros((32, 64, 2), np.float32), np.ones((32, 64), bool)
    flow[..., 0], flow[..., 1] = 16.0, -4.0
    flow[:8, :4] = 500.0
    valid[:8, :4] = False
    write_flow(tmp_path / "f.png", flow, valid)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((32, 64, 3), np.uint8))
    past = (tmp_path / "a.png", tmp_path / "b.png")
    frame = LabelledFrame("x", past, tmp_path / "l.png", "p.png", tmp_path / "f.png")
    item = FlowDataset([frame], 8)[0]
    assert item["flow"].shape == (2, 4, 8) and item["valid"].shape == (1, 4, 8)
    assert torch.allclose(item["flow"][0], torch.tensor(2.0), atol=0.01)
    assert torch.allclose(item["flow"][1], torch.tensor(-0.5), atol=0.01)
    assert item["valid"][0, 0, 0] == 0.5 and item["valid"][0, 1, 1] == 1


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_batches_of_one_process(ranks):
    whole = epoch_order(22, batch=4, words=(1, 2), rank=0, ranks=1, skip=0)
    parts = [epoch_order(22, batch=4, words=(1, 2), rank=r, ranks=ranks, skip=0) for r in range(ranks)]
    share = 4 // ranks
    for batch in range(5):
        joined = [i for part in parts for i in part[batch * share : (batch + 1) * share]]
        assert joined == whole[batch * 4 : batch * 4 + 4]


def test_sampler_depends_only_on_its_seed_and_skips_finished_batches():
    def sampler(words, skip=0):
        return epoch_order(20, batch=4, words=words, rank=0, ranks=1, skip=skip)

    assert sampler((1, 0)) == sampler((1, 0)) != sampler((1, 1))
    assert sampler((1, 0), skip=2) == sampler((1, 0))[8:]
    assert len(epoch_order(3, batch=8, words=(0,), rank=0, ranks=1, skip=0)) == 3


def test_evaluation_covers_every_sample_once_over_the_ranks(frames):
    dataset = ClipDataset(frames, 0, SYNTHETIC)
    names = [x["name"][0] for rank in range(4) for x in evaluation_loader(dataset, workers=0, rank=rank, ranks=4)]
    assert sorted(names) == sorted(frame.name for frame in frames)


def test_cache_returns_the_same_bytes_and_decodes_once(frames, tmp_path, monkeypatch):
    cache = PictureCache(tmp_path / "cache")
    plain, cached = ClipDataset(frames, 1, SYNTHETIC), ClipDataset(frames, 1, SYNTHETIC, cache)
    for _ in range(2):
        assert torch.equal(plain[0]["clip"], cached[0]["clip"]) and torch.equal(plain[0]["label"], cached[0]["label"])
        monkeypatch.setattr(cached.reader, "decode_frame", lambda path: pytest.fail(f"{path} was decoded again"))
        monkeypatch.setattr(cached.reader, "decode_ids", lambda path: pytest.fail(f"{path} was decoded again"))


def test_cache_notices_a_changed_source_and_drops_the_old_entry(tmp_path):
    cache, path = PictureCache(tmp_path / "cache"), tmp_path / "a.png"
    for value in (1, 2):
        cv2.imwrite(str(path), np.full((4, 4 + value, 3), value, np.uint8))
        assert (cache.read(path, read_image) == value).all() and (cache.read(path, read_image) == value).all()
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


@pytest.mark.tried("Data", "entry of the cache of decoded frames cut short", "replaced by the decoded picture")
def test_cache_replaces_a_damaged_entry(tmp_path):
    cache, path = PictureCache(tmp_path / "cache"), tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((4, 4, 3), 7, np.uint8))
    cache.read(path, read_image)
    (entry,) = (tmp_path / "cache").rglob("*.npy")
    entry.write_bytes(b"half")
    assert (cache.read(path, read_image) == 7).all() and (cache.read(path, read_image) == 7).all()


@pytest.mark.tried("Data", "--cache-dir on a disk that is too small", "refused in one line, nothing written")
def test_cache_checks_its_size_and_refuses_a_full_disk(frames, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UserError, match="too little space.*--cache-dir"):
        PictureCache(tmp_path / "cache").announce([frames[0].frames[-1]], read_image)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_training_batches_stack(frames):
    loader = TrainingLoader({1: ClipDataset(frames, 1, SYNTHETIC)}, batch=3, workers=0)
    count, batches = loader.start(1, seed=(0,))
    batches = list(batches)
    assert count == len(batches) == 5
    assert batches[0]["clip"].shape == (3, 2, 64, 128, 3) and len(batches[0]["name"]) == 3


def test_workers_stay_and_each_pass_has_its_own_order(frames):
    passes = {1: ClipDataset(frames, 1, SYNTHETIC), 2: ClipDataset(frames, 2, SYNTHETIC)}
    alone, shared = TrainingLoader(passes, batch=2, workers=0), TrainingLoader(passes, batch=2, workers=1)
    for which, seed, skip in ((1, (0,), 0), (2, (1,), 3), (1, (2,), 0)):
        expected = [batch["name"] for batch in alone.start(which, seed=seed, skip=skip)[1]]
        assert [batch["name"] for batch in shared.start(which, seed=seed, skip=skip)[1]] == expected
    assert list(alone.start(2, seed=(1,), skip=6)[1]) == []
