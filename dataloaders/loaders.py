"""Entry point to the data: labelled frames of a data set by name, and loaders over them."""
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from config.datasets import CUSTOM, UNLABELLED, dataset_config
from config.errors import UserError
from dataloaders.clips import LabelledFrame, SizedDataset
from dataloaders.find_camvid import find_camvid
from dataloaders.find_cityscapes import find_cityscapes
from dataloaders.find_custom import find_custom
from dataloaders.split_scan import SplitScan
from streets import StreetSettings, ensure_streets
from utils.interrupts import end_by_parent, starting_processes

FINDERS = {"cityscapes_2k": find_cityscapes, "camvid": find_camvid, "synthetic": find_cityscapes, CUSTOM: find_custom}
DRY_RUN_FRAMES = 10  # labelled frames that are evaluated with --early-stop 1


def prepare_data(*, dataset: str, root: Path) -> None:
    """Check that the data set is there; render it if it is the synthetic one. Raises UserError."""
    if dataset == "synthetic" and not (root / "synthetic.json").is_file():
        ensure_streets(root, StreetSettings())
    if dataset == CUSTOM:
        dataset_config(dataset, str(root))  # reads the description
    elif dataset != UNLABELLED and not root.is_dir():
        default = dataset_config(dataset, str(root)).default_path
        hint = f"--data-path must be the folder of {dataset} (default {default})"
        if root == Path(default):  # perhaps a newcomer's first try
            hint = (
                f"put {dataset} there (data/README.md tells where it comes from) or name its folder with --data-path; "
                "without data, start with make demo: it renders streets and trains the networks that --dataset "
                "synthetic and --video IN --output OUT need"
            )
        found = "a file, where a folder was expected" if root.exists() else "no such folder"
        raise UserError(f"{root}: {found}; {hint}")


def labelled_frames(
    *, dataset: str, root: Path, split: str, past: int, scan: SplitScan | None = None
) -> list[LabelledFrame]:
    """Return the labelled frames of a split ("train" or "val"), each with up to `past` frames before it.

    `scan` collects the problems; without one, raises the first as a UserError.
    """
    return FINDERS[dataset](Path(root), split, past, scan)


def epoch_order(length: int, *, batch: int, words: Sequence[int], rank: int, ranks: int, skip: int) -> list[int]:
    """Return one rank's indices for one pass: a shuffle that depends only on the seed `words`, in whole global batches.

    The batches of all ranks together are those of a single process. skip: batches to leave out at the start.
    """
    order = np.random.default_rng(list(words)).permutation(length)
    usable = length // batch * batch or length // ranks * ranks  # at least one small batch, of one size on every rank
    if not usable:
        return []
    groups = order[:usable].reshape(-1, ranks, max(1, min(batch, usable) // ranks))  # (batches,ranks,share)
    return groups[skip:, rank].ravel().tolist()


class _Passes(Dataset):
    """The data sets of all passes as one, indexed by (pass, sample), so that they share their workers.

    skip_bad: an unreadable sample is replaced by the next readable one, whose `bad` lists the errors of those skipped.
    Raises UserError if all fail.
    """

    def __init__(self, datasets: Mapping[int, SizedDataset], skip_bad: bool):
        self.datasets, self.skip_bad = datasets, skip_bad

    def __getitem__(self, index: tuple[int, int]) -> dict:
        dataset, sample = self.datasets[index[0]], index[1]
        if not self.skip_bad:
            return dataset[sample]
        bad: list[str] = []
        for number in range(len(dataset)):
            try:
                return dataset[(sample + number) % len(dataset)] | {"bad": bad}
            except UserError as error:
                bad.append(error.line)
        raise UserError(f"none of the {len(dataset)} training samples can be read; the first of them: {bad[0]}")


class TrainingLoader:
    """This rank's share of shuffled batches, `batch` samples over all ranks; the incomplete last batch is dropped.

    A batch has the keys of the items, stacked: `clip` (N,T,H,W,3), `label` (N,H,W), `name` list of N, and so on.
    skip_bad: unreadable samples are replaced by others; the batch's `bad` lists the errors, one line each. mixed: where
    frames of a batch differ in size, its tensors are lists of N; without, that is an error. The worker processes stay
    from pass to pass and epoch to epoch.
    """

    def __init__(
        self, datasets: Mapping[int, SizedDataset], *, batch: int, workers: int, rank: int = 0, ranks: int = 1,
        skip_bad: bool = False, mixed: bool = False,
    ):
        self.datasets, self.batch, self.rank, self.ranks = datasets, batch, rank, ranks
        self._order: list[tuple[int, int]] = []  # refilled in place for every pass
        passes = _Passes(datasets, skip_bad)
        self._loader = _Loader(passes, sampler=self._order, batch=max(1, batch // ranks), workers=workers, mixed=mixed)

    def start(self, which: int, *, seed: Sequence[int], skip: int = 0) -> tuple[int, Iterator[dict]]:
        """Return the number of batches of one pass over data set `which`, and an iterator over them.

        Their order depends only on `seed`. skip: first batches to leave out, which an interrupted run has done.
        """
        length = len(self.datasets[which])
        order = epoch_order(length, batch=self.batch, words=seed, rank=self.rank, ranks=self.ranks, skip=skip)
        self._order[:] = [(which, sample) for sample in order]
        return (len(self._loader), iter(self._loader)) if self._order else (0, iter(()))


def evaluation_loader(
    dataset: SizedDataset, *, workers: int, rank: int = 0, ranks: int = 1, limit: int | None = None
) -> DataLoader:
    """Return a loader of every sample exactly once over all ranks, one by one, in order; at most `limit` of them."""
    return _Loader(dataset, sampler=range(len(dataset))[:limit][rank::ranks], batch=1, workers=workers)


def video_loader(frames: SizedDataset, *, workers: int) -> DataLoader:
    """Return a loader of the frames of videos one by one, in order: the items of the data set, without a batch axis."""
    return _Loader(frames, sampler=range(len(frames)), batch=None, workers=workers)


def _collate(samples: list[dict], mixed: bool) -> dict:
    """Stack samples to a batch; join their `bad`. If sizes differ, return lists if `mixed`, else raise UserError."""
    first = samples[0]
    if isinstance(first, dict) and "bad" in first:
        bad = [line for sample in samples for line in sample["bad"]]
        return _collate([{k: x for k, x in sample.items() if k != "bad"} for sample in samples], mixed) | {"bad": bad}
    for sample in samples[1:] if isinstance(first, dict) else ():
        for part, sides in (("clip", slice(-3, -1)), ("label", slice(None))):
            if part in first and sample[part].shape != first[part].shape:
                if mixed:
                    return {key: [x[key] for x in samples] for key in first}
                (h, w), (other_h, other_w) = sample[part].shape[sides], first[part].shape[sides]
                what = "frames have" if part == "clip" else "label has"
                raise UserError(
                    f"{sample['name']}: its {what} {w} x {h} pixels, those of {first['name']} {other_w} x {other_h}; "
                    "use --batch-size 1, pictures of one size, or --use-crop 1 where the stage crops"
                )
    return default_collate(samples)


class _Loader(DataLoader):
    """A loader whose processes ignore signals: the program still needs their samples, and ends them itself."""

    def __init__(self, dataset: Dataset, *, sampler: Sequence, batch: int | None, workers: int, mixed: bool = False):
        super().__init__(
            dataset, batch_size=batch, sampler=sampler, num_workers=workers, persistent_workers=workers > 0,
            prefetch_factor=4 if workers > 0 else None, pin_memory=torch.cuda.is_available(),
            collate_fn=None if batch is None else partial(_collate, mixed=mixed), worker_init_fn=end_by_parent,
        )

    def __iter__(self) -> Any:
        with starting_processes():
            return super().__iter__()
