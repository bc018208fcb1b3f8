"""The interface of every keyframe segmenter."""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from config.schema import DatasetConfig
from models.losses import Average, SegmenterLoss
from models.resize import align, scaled_size, size_of

IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)  # RGB, on the 0..255 scale
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
LEAST = 1e-6  # of a probability whose logarithm is taken


@dataclass(frozen=True)
class TrainingRecipe:
    """How a segmenter's authors train it, apart from the options of config/recipes.py.

    schedule: of the learning rate: "poly", "cosine", or "steps", a tenth after the share `drop` of all iterations.
    warm_up: iterations before it; linear from 0, or in equal ratios from `start`; of "steps", at a tenth. trunk_rate:
    factor on rate and weight decay of pretrained `pretrained_modules`. new_rate: factor on the rate of `new_modules`,
    new_bias_rate: a further one on their biases'. decay_all: also biases and the weights of BatchNorm.
    """

    schedule: str = "poly"
    warm_up: int = 0
    start: float = 0.0
    drop: float = 1.0
    nesterov: bool = False
    trunk_rate: float = 1.0
    new_rate: float = 1.0
    new_bias_rate: float = 1.0
    decay_all: bool = True


class MergedClasses(nn.Module):
    """forward: logits (N,C',h,w) -> (N,C,h,w), each the maximum over its `members`, so that the largest one wins as
    before. members: for each of the C classes the indices of its channels."""

    def __init__(self, members: Sequence[Sequence[int]]):
        super().__init__()
        self.members = [list(channels) for channels in members]

    def forward(self, logits: Tensor) -> Tensor:
        return torch.stack([logits[:, channels].amax(dim=1) for channels in self.members], dim=1)


class Segmenter(nn.Module):
    """A keyframe segmenter: all that the rest of the program knows of one.

    forward: RGB image (N,3,H,W) float32, as `normalise` returns it -> scores (N,channels,h',w'), at any stride.
    class_logits: scores -> logits (N,C,h',w') of the classes `names`.
    """

    stride: int  # of a native one
    class_tensor: str  # of a native one: the name of a tensor with one value a class
    prefix = ""  # of the names of its tensors, which published files may lack
    foldable = True  # whether BatchNorm may be folded into the convolution named before it
    classes: int  # channels of its scores
    names: tuple[str, ...] = ()  # of the classes of its logits
    own_names: tuple[str, ...] = ()  # of a foreign one: of the channels of its scores
    colours: tuple[tuple[int, int, int], ...] = ()  # RGB, of `names`; empty: its data set's
    scores = "logits"  # or "probabilities"
    multiple = 1  # both sides of the image have to be multiples of it
    size: tuple[int, int] | None = None  # (H,W) of the image, if it takes no other
    weights_file: str = ""  # absolute path of the file that its weights come from
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN  # of the segmenter's input: RGB, on the 0..255 scale
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    view_mean: tuple[float, float, float] = IMAGENET_MEAN  # of the view: RGB, on the 0..255 scale
    view_std: tuple[float, float, float] = IMAGENET_STD
    resize = staticmethod(align)  # of frames, RGB (N,3,H,W), 0..255, to the size of the image
    recipe = TrainingRecipe()
    learns_boundaries = False  # whether its training loss takes `dataloaders.boundaries.boundary_target` of the labels
    mean: Tensor  # (3,1,1), pixel_mean on the segmenter's device; not part of state_dict
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(self.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.pixel_std).view(3, 1, 1), persistent=False)
        self.merged: nn.Module = nn.Identity()

    def input_size(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Size of the image that a frame of height x width becomes at `scale`."""
        return self.size or scaled_size(height, width, scale, self.multiple)

    def class_logits(self, scores: Tensor) -> Tensor:
        """Scores (N,channels,h',w') of `forward` -> logits (N,C,h',w') of the classes `names`."""
        if self.scores == "probabilities":
            scores = (scores / scores.sum(dim=1, keepdim=True).clamp(min=LEAST)).clamp(min=LEAST).log()
        return self.merged(scores)

    def prepared(self, frame: Tensor, scale: float) -> Tensor:
        """Frame (N,3,H,W), RGB 0..255, any type -> image (N,3,*input_size). Scaled before it is normalised, which is
        the same, and less work."""
        frame = frame.float()
        return self.normalise(self.resize(frame, self.input_size(*size_of(frame), scale)))

    def normalise(self, rgb: Tensor) -> Tensor:
        """RGB (...,3,H,W), 0..255, any type -> float32 of that shape, (x - mean) / std per channel."""
        return (rgb.float() - self.mean) / self.std

    def training_logits(self, image: Tensor) -> list[Tensor]:
        """Normalised image (N,3,H,W) -> logits for the training loss: those of `forward`, then of auxiliary heads."""
        return [self(image)]

    def training_only(self) -> list[nn.Module]:
        """Return the parts that `forward` does not use."""
        return []

    def pretrained_modules(self) -> list[nn.Module]:
        """Return the layers that ImageNet weights cover; recipes may train them at a lower learning rate."""
        return []

    def new_modules(self) -> list[nn.Module]:
        """Return the layers that are trained at `recipe.new_rate`."""
        return []

    def training_loss(self, dataset: DatasetConfig, average: Average) -> nn.Module:
        """Return the loss: (`training_logits`, label (N,H,W) int64) -> scalars, `total` among them. With
        `learns_boundaries`, a third argument is the boundaries (N,H,W)."""
        return SegmenterLoss(ignore=dataset.ignore, ohem=False, average=average)
