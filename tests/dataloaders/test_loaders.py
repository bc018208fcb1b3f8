"""Data sets by name, and how samples are shared between processes."""
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from config.datasets import NAMES, UNLABELLED, dataset_config
from config.errors import UserError
from dataloaders.loaders import FINDERS, TrainingLoader, epoch_order, evaluation_loader, labelled_frames, prepare_data


def shares(length: int, batch: int, ranks: int, words=(1,), skip=0) -> list[list[int]]:
    return [epoch_order(length, batch=batch, words=words, rank=r, ranks=ranks, skip=skip) for r in range(ranks)]


def test_every_data_set_can_be_found():
    assert {*FINDERS, UNLABELLED} == {*NAMES}


@pytest.mark.parametrize("split, count", [("train", 18), ("val", 12)])
def test_synthetic_frames_are_all_labelled(streets, split, count):
    assert len(labelled_frames(dataset="synthetic", root=streets, split=split, past=0)) == count


@pytest.mark.tried("Data", "--data-path that does not exist", "refused in one line")
@pytest.mark.parametrize("dataset", ["cityscapes_2k", "camvid"])
def test_missing_folder_is_named_with_its_default(tmp_path, dataset):
    with pytest.raises(UserError, match=f"nowhere: no such folder; --data-path .*{dataset} .default ./data/"):
        prepare_data(dataset=dataset, root=tmp_path / "nowhere")


def test_finished_synthetic_streets_are_not_changed(streets):
    before = sorted((path, path.stat().st_mtime_ns) for path in streets.rglob("*"))
    prepare_data(dataset="synthetic", root=streets)
    assert sorted((path, path.stat().st_mtime_ns) for path in streets.rglob("*")) == before


@pytest.mark.parametrize("length, batch, ranks", [(22, 4, 1), (22, 4, 2), (24, 8, 4), (7, 8, 2), (5, 8, 4), (8, 8, 8)])
def test_ranks_get_different_samples_and_equally_many(length, batch, ranks):
    parts = shares(length, batch, ranks)
    together = [index for part in parts for index in part]
    assert len(set(together)) == len(together) and set(together) <= set(range(length))
    assert {len(part) for part in parts} == {(length // batch * batch or length) // ranks}


@pytest.mark.parametrize("skip", [0, 1, 3])
def test_every_rank_resumes_at_the_same_batch(skip):
    for whole, rest in zip(shares(26, 4, 2), shares(26, 4, 2, skip=skip)):
        assert rest == whole[skip * 2 :]


def test_skipping_everything_returns_nothing():
    assert shares(8, 4, 2, skip=2) == [[], []]


def test_no_samples_no_batches():
    assert shares(0, 4, 2) == [[], []]


def test_each_word_matters():
    orders = [tuple(shares(30, 5, 1, words=words)[0]) for words in ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4))]
    assert len(set(orders)) == 4


@pytest.mark.parametrize(
    "length, ranks, limit, expected", [(7, 1, None, 7), (7, 3, None, 7), (2, 4, None, 2), (7, 3, 4, 4), (3, 2, 10, 3)]
)
def test_evaluation_visits_each_of_the_first_samples_once(length, ranks, limit, expected):
    dataset = TensorDataset(torch.arange(length))
    loaders = [evaluation_loader(dataset, workers=0, rank=r, ranks=ranks, limit=limit) for r in range(ranks)]
    parts = [[int(x) for (x,) in loader] for loader in loaders]
    assert sorted(x for part in parts for x in part) == list(range(expected))
    assert all(part == sorted(part) for part in parts)


@pytest.mark.tried("Data", "frames of different sizes in a batch", "refused in one line")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_different_sizes_names_them(workers):
    samples = [
        {"clip": torch.zeros(1, 8, w, 3), "label": torch.zeros(8, w), "name": f"frame {w}"} for w in (10, 12)
    ]
    loader = TrainingLoader({0: samples}, batch=2, workers=workers)
    told = r"frame 1[02]: its frames have 1[02] x 8 pixels, those of frame 1[02] 1[02] x 8; .* --batch-size 1"
    with pytest.raises(UserError, match=told):
        list(loader.start(0, seed=(1,))[1])


@pytest.mark.parametrize("dataset", ["cityscapes_2k", "camvid"])
def test_newcomer_without_data_learns_what_to_do_next(tmp_path, monkeypatch, dataset):
    monkeypatch.chdir(tmp_path)
    default = Path(dataset_config(dataset, "").default_path)
    message = "data/README.md .* start with make demo: .* --dataset synthetic and --video IN --output OUT need"
    with pytest.raises(UserError, match=message) as caught:
        prepare_data(dataset=dataset, root=default)
    line = str(caught.value)
    assert line.startswith(f"{default}: no such folder; put {dataset} there") and "\n" not in line
