"""TDNet (Hu et al., CVPR 2020): four shallow networks that take turns, and TD4-Bise18, its variant on BiSeNet."""
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import DatasetConfig
from models.losses import Average, TDNetLoss
from models.published_names import publish
from models.resize import half_pixel, size_of
from models.resnet import ResNet18
from models.segmenters.base import Segmenter, TrainingRecipe
from models.segmenters.bisenet import WIDTH, AttentionRefinement, FeatureFusion, Head
from models.segmenters.blocks import ConvBn

SLOPE = 0.01  # of LeakyReLU
KEYS = 64  # channels of queries and keys
DROPOUT = 0.1


def linear(c_in: int, c_out: int) -> ConvBn:
    """A 1 x 1 convolution with bias alone."""
    return ConvBn(c_in, c_out, 1, bias=True, norm=False, relu=False)


def initialise(network: nn.Module) -> None:
    """Start convolutions as the authors do: Kaiming normal, by the inputs."""
    for module in network.modules():
        if isinstance(module, ConvBn):
            nn.init.kaiming_normal_(module.conv.weight, a=1)


class Encoding(nn.Module):
    """Three 1 x 1 encodings of a feature group, (N,c,h,w) -> (N,64,h,w) queries, (N,64,h,w) keys, (N,c,h,w) values."""

    def __init__(self, channels: int):
        super().__init__()
        self.w_qs, self.w_ks = (
            nn.Sequential(ConvBn(channels, KEYS, 1, bias=True, slope=SLOPE), linear(KEYS, KEYS)) for _ in range(2)
        )
        self.w_vs = nn.Sequential(linear(channels, channels))


class Attention(nn.Module):
    """What each of n points finds in another frame's m points: queries (N,64,n), keys (N,64,m),
    values (N,c,m) -> (N,c,n)."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Sequential(linear(channels, channels))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        similarity = (query / KEYS**0.5).transpose(1, 2) @ key  # (N,n,m)
        found = value @ self.dropout(similarity.softmax(dim=2)).transpose(1, 2)  # (N,c,n)
        return self.dropout(self.fc(found[..., None]))[..., 0]


class TDNet(Segmenter):
    """Frame t runs sub-network ("path") t mod 4 alone. What the other three saw in frames t-3 .. t-1 is carried to it
    by a chain of attentions, so every frame costs the same and there are no keyframes.

    channels: c, of a feature group. step: every n-th row and column of the 1/8 grid is remembered, m points in all.
    forward: RGB image (N,3,H,W) float32, as `normalise` returns it -> logits (N,C,ceil(H/8),ceil(W/8)) of path 0 alone.
    A subclass adds the networks in front of the encodings and behind the attentions.
    """

    paths = 4
    stride = 8
    recipe = TrainingRecipe(warm_up=1000, start=1e-3, decay_all=False)
    trunk: str  # name of a path's trunk, {} its number
    output: tuple[str, ...]  # those of the parts that turn its values into logits
    auxiliary: tuple[str, ...]  # those of its auxiliary heads
    output_weights: tuple[float, ...]  # in the loss, of each of `training_outputs`
    divergence_weights: tuple[float, float]  # of propagated and of lone logits from the teacher's
    full_size_divergence: bool  # whether they are compared at the size of the label, else on the 1/8 grid

    def __init__(self, classes: int, *, channels: int, step: int):
        super().__init__()
        self.classes, self.channels, self.step = classes, channels, step
        for path in range(self.paths):
            self.add_module(f"enc{path + 1}", Encoding(channels))
            for source in self._sources(path):
                self.add_module(f"atn{path + 1}_{source + 1}", Attention(channels))

    def forward(self, image: Tensor) -> Tensor:
        return self.alone(self.group(image, 0), 0)

    @staticmethod
    def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
        return half_pixel(x, size).round()  # as decoded pictures are resized

    def group(self, image: Tensor, path: int) -> Tensor:
        """Normalised image (N,3,H,W) -> the path's feature group z (N,c,h,w)."""
        return self._features(image, path)[0]

    def memory(self, z: Tensor, path: int) -> Tensor:
        """Feature group (N,c,h,w) -> queries, keys and values (N,64+64+c,m) for later frames, row by row.

        m = ceil(h/step) * ceil(w/step). The encodings see single points, so they run on these alone.
        """
        encoding, points = self._part("enc{}", path), z[:, :, :: self.step, :: self.step]
        parts = [encode(points) for encode in (encoding.w_qs, encoding.w_ks, encoding.w_vs)]
        return torch.cat(parts, dim=1).flatten(2)  # (N,64+64+c,m)

    def alone(self, z: Tensor, path: int) -> Tensor:
        """Feature group (N,c,h,w) -> logits (N,C,h,w) of a frame by itself, as while fewer than three precede it."""
        return self._logits(self._part("enc{}", path).w_vs(z), path)

    def propagated(self, z: Tensor, *memories: Tensor, path: int) -> Tensor:
        """Feature group (N,c,h,w), memories (N,64+64+c,m) of frames t-3, t-2, t-1 -> logits (N,C,h,w).

        Values of frame t-3 are carried to the points of t-2, their sum with its own to those of t-1, that to frame t.
        """
        encoding = self._part("enc{}", path)
        queries, keys, values = zip(*(memory.split([KEYS, KEYS, self.channels], dim=1) for memory in memories))
        targets = [*queries[1:], encoding.w_qs(z).flatten(2)]  # (N,64,m) twice, (N,64,h*w)
        carried = torch.zeros_like(values[0])
        for source, target, key, value in zip(self._sources(path), targets, keys, values, strict=True):
            attention = self._part(f"atn{{}}_{source + 1}", path)
            carried = attention(target, key, value + carried)  # (N,c,m) twice, (N,c,h*w)
        return self._logits(carried.unflatten(2, size_of(z)) + encoding.w_vs(z), path)

    def training_outputs(self, clip: Sequence[Tensor], path: int) -> list[Tensor]:
        """Normalised images (N,3,H,W) of frames t-3 .. t, the last for `path` -> its logits: propagated and alone
        (N,C,h,w), then those of auxiliary heads (N,C,h',w'). Gradients reach the networks of all four frames."""
        sources = zip(self._sources(path), clip[:-1], strict=True)
        memories = [self.memory(self.group(image, source), source) for source, image in sources]
        z, inner = self._features(clip[-1], path)
        auxiliary = [self._part(name, path)(x) for name, x in zip(self.auxiliary, inner, strict=True)]
        return [self.propagated(z, *memories, path=path), self.alone(z, path), *auxiliary]

    def training_only(self) -> list[nn.Module]:
        return [self._part(name, path) for name in self.auxiliary for path in range(self.paths)]

    def pretrained_modules(self) -> list[nn.Module]:
        return [self._part(self.trunk, path) for path in range(self.paths)]

    def training_loss(self, dataset: DatasetConfig, average: Average) -> nn.Module:
        weights = self.output_weights, self.divergence_weights
        return TDNetLoss(*weights, ignore=dataset.ignore, full_size_divergence=self.full_size_divergence)

    def _sources(self, path: int) -> list[int]:
        """The paths that frames t-3, t-2, t-1 ran."""
        return [(path + later) % self.paths for later in (1, 2, 3)]

    def _part(self, name: str, path: int) -> Any:
        return self.get_submodule(name.format(path + 1))

    def _features(self, image: Tensor, path: int) -> tuple[Tensor, list[Tensor]]:
        """Image (N,3,H,W) -> feature group (N,c,h,w), and what each of the path's auxiliary heads sees."""
        raise NotImplementedError

    def _logits(self, x: Tensor, path: int) -> Tensor:
        """Values (N,c,h,w) of the frame, with what was carried to it -> logits (N,C,h,w)."""
        for name in self.output:
            x = self._part(name, path)(x)
        return x


class LeakyResNet18(ResNet18):
    """ResNet-18 whose ReLUs are leaky, but for those after a residual sum."""

    def features(self, x: Tensor) -> list[Tensor]:
        x = F.leaky_relu(self.bn1(self.conv1(x)), SLOPE)  # (N,64,H/2,W/2)
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)  # (N,64,H/4,W/4)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                shortcut = x if block.downsample is None else block.downsample(x)
                x = F.leaky_relu(block.bn1(block.conv1(x)), SLOPE)
                x = F.relu(block.bn2(block.conv2(x)) + shortcut)
            maps.append(x)  # (N,channels[i],H/2**(i+2),W/2**(i+2))
        return maps


class Context(nn.Module):
    """Image (N,3,H,W) -> the trunk's map at 1/8, and refined maps at 1/8 and 1/16, all (N,128). There is no spatial
    path: the trunk's map takes its place."""

    def __init__(self, *, pretrained: bool):
        super().__init__()
        self.resnet = LeakyResNet18(pretrained=pretrained)
        self.arm16, self.arm32 = AttentionRefinement(256, SLOPE), AttentionRefinement(512, SLOPE)
        self.conv_head32, self.conv_head16 = (ConvBn(WIDTH, WIDTH, 3, slope=SLOPE) for _ in range(2))
        self.conv_avg = ConvBn(512, WIDTH, 1, slope=SLOPE)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, layer2, layer3, layer4 = self.resnet.features(image)
        x = self.arm32(layer4) + self.conv_avg(layer4.mean(dim=(2, 3), keepdim=True))  # (N,128,H/32,W/32)
        sixteenth = self.conv_head32(F.interpolate(x, size=size_of(layer3)))  # nearest
        x = self.arm16(layer3) + sixteenth  # (N,128,H/16,W/16)
        return layer2, self.conv_head16(F.interpolate(x, size=size_of(layer2))), sixteenth


class TD4Bise18(TDNet):
    """TD4-Bise18: each path a ResNet-18 with BiSeNet's attention refinement. Takes images of any size.

    pretrained: with torchvision's ImageNet weights in the four trunks, which it downloads.
    """

    class_tensor = "conv_out_1.conv_out.weight"
    trunk = "cp{}.resnet"
    output, auxiliary = ("layer_norm{}_", "conv_out_{}"), ("conv_out16_{}", "conv_out32_{}")
    output_weights, divergence_weights, full_size_divergence = (1.0, 1.0, 1.0, 1.0), (1.0, 1.0), True

    def __init__(self, classes: int, *, step: int = 5, pretrained: bool = False):
        super().__init__(classes, channels=WIDTH, step=step)
        for path in range(self.paths):
            number = path + 1
            self.add_module(f"cp{number}", Context(pretrained=pretrained))
            self.add_module(f"ffm{number}", FeatureFusion(2 * WIDTH, WIDTH // 2, SLOPE))
            # One group a channel. The authors' optimiser collects the parameters of LayerNorm, which this is not, so
            # these weights stayed as they started there. Here they are meant to be trained.
            self.add_module(f"layer_norm{number}_", nn.Sequential(OrderedDict(ln=nn.GroupNorm(WIDTH, WIDTH))))
            for name, width in (("conv_out_", 2 * WIDTH), ("conv_out16_", WIDTH // 2), ("conv_out32_", WIDTH // 2)):
                self.add_module(f"{name}{number}", Head(WIDTH, width, classes, bias=False, slope=SLOPE))
        initialise(self)
        publish(self, published_name)

    def _features(self, image: Tensor, path: int) -> tuple[Tensor, list[Tensor]]:
        detail, eighth, sixteenth = self._part("cp{}", path)(image)
        group = self._part("ffm{}", path)(detail, eighth).chunk(2, dim=1)[path % 2]  # the first or last 128 channels
        return group, [eighth, sixteenth]


def published_name(name: str) -> str:
    """Our name of a tensor of TD4-Bise18, whose parts are BiSeNet's -> its authors'."""
    fusion = name.startswith("ffm")
    for ours, theirs in (
        ("channel_attention.1.conv", "conv1" if fusion else "conv_atten"), ("channel_attention.1.bn", "bn_atten"),
        ("channel_attention.2.conv", "conv2"), ("conv_3x3", "conv"), ("conv_1x1", "convblk" if fusion else "conv_out"),
    ):
        name = name.replace(ours, theirs)
    return name
