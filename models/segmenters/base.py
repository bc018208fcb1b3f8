"""What every keyframe segmenter offers beside its `forward`."""
from torch import Tensor, nn


class Segmenter(nn.Module):
    """A keyframe segmenter.

    forward: RGB image (N,3,H,W) float, normalised with `pixel_mean` and `pixel_std` -> logits (N,C,H/stride,W/stride).
    """

    stride: int
    classes: int
    pixel_mean: tuple[float, float, float]  # RGB, on the 0..255 scale
    pixel_std: tuple[float, float, float]

    def training_logits(self, image: Tensor) -> list[Tensor]:
        """The logits that the training loss looks at: those of `forward` first, then those of auxiliary heads."""
        raise NotImplementedError

    def training_only(self) -> list[nn.Module]:
        """The parts that `forward` does not use."""
        raise NotImplementedError

    def pretrained_modules(self) -> list[nn.Module]:
        """The layers that ImageNet weights cover."""
        raise NotImplementedError
