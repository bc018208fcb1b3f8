"""Anybody's network as a keyframe segmenter. It is frozen, always in evaluation mode, and asked only for scores."""
import importlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from config.class_map import plain
from config.custom import distinct_colours
from config.errors import UserError
from models.segmenters.base import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from utils.checkpoint import WeightsFile
from utils.logging import logger

PROBE = 128  # pixels, at least, of the shorter side of the image that a network is tried on
GUIDE = "docs/segmenters.md"


class ForeignSegmenter(Segmenter):
    """specification: its name on the command line. network: its weights may come from `file`, a state dict. call:
    (network, image (N,3,H,W)) -> scores (N,channels,h',w').

    names: of the classes, in order; empty: `class 0`, `class 1`, ... colours: RGB, by default generated. mean, std:
    RGB, on the 0..255 scale; by default ImageNet's. multiple: as in `Segmenter`. only_size: (H,W) of the image if the
    network turns out to take no other. Raises UserError where it does not work so.
    """

    stride = 1
    foldable = False  # its parts may run in another order than they are named in

    def __init__(
        self, specification: str, network: nn.Module, *, file: WeightsFile | None = None,
        call: Callable[[nn.Module, Tensor], Any] = lambda network, image: network(image), names: Sequence[str] = (),
        colours: Sequence[Sequence[int]] = (), mean: Sequence[float] = (), std: Sequence[float] = (),
        multiple: int = 32, scores: str = "logits", only_size: tuple[int, int] | None = None,
    ):
        if not len(mean):
            logger.info("%s: frames are normalised by ImageNet's mean and standard deviation", specification)
        normalisation = (mean, std) if len(mean) else (IMAGENET_MEAN, IMAGENET_STD)
        self.pixel_mean, self.pixel_std = ((float(r), float(g), float(b)) for r, g, b in normalisation)
        super().__init__()
        self.training = False
        self.network, self.call, self.scores, self.multiple = network, call, scores, multiple
        if file is not None:
            file.into(network, f"the keyframe segmenter {specification}", keys=("state_dict", "model"))
            self.weights_file = str(file.path.absolute())
        with suppress(NotImplementedError):  # exported programs refuse it
            network.eval()
        for x in network.parameters():  # the network's own method fails on a TorchScript module
            x.requires_grad_(False)
        self.contiguous = False  # whether the image has to be, for a network that makes views of it
        self.batch, self.size = _only_input(network)
        self.classes = self._probe(specification, only_size)
        self.own_names = self.names = tuple(names) or tuple(f"class {number}" for number in range(self.classes))
        self.colours = tuple((int(r), int(g), int(b)) for r, g, b in colours or distinct_colours(self.classes))
        for kind, values in (("class names", self.names), ("colours", self.colours)):
            if len(values) != self.classes:
                raise UserError(f"--segnet {specification}: {len(values)} {kind}, but {self.classes} channels; list "
                                "one for each channel")
        if len({*map(plain, self.names)}) < self.classes:
            raise UserError(f"--segnet {specification}: two classes have the same name; tell them apart")

    def forward(self, image: Tensor) -> Tensor:
        """RGB image (N,3,H,W) float32, as `normalise` returns it -> scores (N,channels,h',w')."""
        if self.contiguous:
            image = image.contiguous()
        if self.batch in (None, len(image)):
            return self.call(self.network, image)
        return torch.cat([self.call(self.network, part) for part in image.split(1)])

    def train(self, mode: bool = True) -> "ForeignSegmenter":
        """Stay in evaluation mode."""
        return self

    def _probe(self, specification: str, only_size: tuple[int, int] | None) -> int:
        """Run the network on an image that is not square; returns the number of channels. Sets what it needs: one size,
        or contiguous images. Raises UserError where it fails."""
        side, errors = -(-PROBE // self.multiple) * self.multiple, []
        buffers = [x.clone() for x in self.network.buffers()]
        sizes = [self.size] if self.size else [None, only_size] if only_size else [None]
        for self.size, self.contiguous in itertools.product(sizes, (False, True)):
            noise = torch.Generator().manual_seed(0)
            image = torch.randn(1, 3, *(self.size or (side, side + self.multiple)), generator=noise)
            image = image.contiguous(memory_format=torch.channels_last)
            try:
                with torch.no_grad():
                    found: Any = self(image)
                    again: Any = self(image)
                break
            except (Exception, SystemExit) as error:  # anything may be in there
                errors.append(f"fails on an image {tuple(image.shape)}: {reason_of(error)}")
        else:
            raise UserError(f"--segnet {specification}: {errors[0]}; see {GUIDE}")
        if not all(map(torch.equal, buffers, self.network.buffers())):
            raise UserError(f"--segnet {specification}: its buffers change when it runs, so it is in training mode; "
                            "call eval() before you export it")
        if self.size:
            logger.info("%s: takes frames of %d x %d alone, to which all are resized", specification, *self.size)
        if not isinstance(found, Tensor) or found.ndim != 4 or len(found) != 1 or not found.is_floating_point():
            shown = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"--segnet {specification}: must return scores (1,C,h,w), not {shown}; see {GUIDE}, `pick`")
        self._check_scores(specification, found, again)
        return found.shape[1]

    def _check_scores(self, specification: str, scores: Tensor, again: Tensor) -> None:
        """Raise UserError for scores of noise (1,C,h,w), computed twice, that no segmentation can be made of."""
        checks = {
            "has NaN or infinite scores": not bool(scores.isfinite().all()),
            "returns other scores when it runs again; switch off dropout":
                not torch.allclose(scores, again, 1e-3, 1e-3),
            "has one channel; return one for each class, the background too (`pick`)": scores.shape[1] < 2,
            'has negative probabilities; return them, or say scores: "logits"':
                self.scores == "probabilities" and bool((scores < 0).any()),
        }
        for problem, found in checks.items():
            if found:
                raise UserError(f"--segnet {specification}: {problem}; see {GUIDE}")


def _only_input(network: nn.Module) -> tuple[int | None, tuple[int, int] | None]:
    """Batch and size (H,W) of the image that an exported program is for; None for what it leaves open."""
    shape: Sequence = (None, None, None, None)
    if isinstance(network, torch.fx.GraphModule):
        inputs = [node.meta["val"] for node in network.graph.nodes if node.op == "placeholder" and "val" in node.meta]
        shape = inputs[0].shape if inputs else shape
    batch, _, height, width = (side if isinstance(side, int) else None for side in shape)
    return batch, (height, width) if height and width else None


def required(package: str, specification: str) -> ModuleType:
    """Import an optional package, which may report errors alone. Raises UserError if it is missing."""
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"--segnet {specification}: requires the package {package}; pip install {package}") from error
    for name in (package, "huggingface_hub"):  # which set their levels when they are imported
        logging.getLogger(name).setLevel(logging.ERROR)
    return module


@contextmanager
def as_user_errors(specification: str, hint: str = "") -> Iterator[None]:
    """Whatever a library, a download or a user's code raises becomes a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"--segnet {specification}: {reason_of(error)}{hint}") from error


def reason_of(error: BaseException) -> str:
    """Type and first line of an error; of a missing package all lines, since a later one says how to get it."""
    text = str(error).strip()
    shown = " ".join(text.split()) if isinstance(error, ImportError) else next(iter(text.splitlines()), "")
    return f"{type(error).__name__}: {shown[:300].rstrip('.')}"
