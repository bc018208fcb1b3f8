"""Which segmenter a propagation was trained on: what its checkpoint records of it."""
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from models.segmenters.base import Segmenter


@dataclass(frozen=True)
class SegmenterIdentity:
    """specification: its name, as --segnet takes it. file: the absolute path of its weights, "" for none. digest: of
    its tensors, see `digest_of`. classes: their names, in order. description: see `described`."""

    specification: str
    file: str
    digest: str
    classes: tuple[str, ...]
    description: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, segmenter: Segmenter, specification: str, classes: tuple[str, ...]) -> "SegmenterIdentity":
        """The identity of a segmenter that has its weights."""
        return cls(specification, segmenter.weights_file, digest_of(segmenter), classes, described(segmenter))

    @classmethod
    def recorded(cls, content: Mapping) -> "SegmenterIdentity | None":
        """What a checkpoint's `segmenter` holds; None for released and older checkpoints, which have none."""
        found = content.get("segmenter")
        if not isinstance(found, Mapping):
            return None
        specification, file, digest = (str(found.get(name, "")) for name in ("specification", "file", "digest"))
        description = found.get("description")
        classes = tuple(map(str, found.get("classes", ())))
        return cls(specification, file, digest, classes, description if isinstance(description, Mapping) else {})

    def as_entry(self) -> dict:
        """A checkpoint's `segmenter`: plain values."""
        return asdict(self) | {"classes": list(self.classes)}


def described(segmenter: Segmenter) -> dict[str, Any]:
    """What determines a segmenter's logits apart from its tensors, as plain values; its code is not among it."""
    return {
        "mean": list(segmenter.pixel_mean), "std": list(segmenter.pixel_std), "scores": segmenter.scores,
        "multiple": segmenter.multiple, "own classes": list(segmenter.own_names),
        "channels of each class (--class-map)": getattr(segmenter.merged, "members", []),
    }


def digest_of(network: nn.Module) -> str:
    """SHA-256 over name, type, shape and bytes of the tensors that `forward` uses, in the order of their names.

    BatchNorm's counters of batches are left out: they change without changing the network.
    """
    spare = network.training_only() if isinstance(network, Segmenter) else []
    unused = {id(x) for part in spare for x in (*part.parameters(), *part.buffers())}
    digest = hashlib.sha256()
    for name, x in sorted(network.state_dict(keep_vars=True).items()):
        if id(x) not in unused and not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
            digest.update(x.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
