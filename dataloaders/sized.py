"""What the data sets have in common: a length, and items that are dictionaries."""
from collections.abc import Iterator

from torch.utils.data import Dataset


class SizedDataset(Dataset[dict]):
    """A data set of known length; its items in order when it is walked through."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[dict]:
        return (self[index] for index in range(len(self)))
