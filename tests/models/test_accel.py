"""Accel-18 against the numbers of its authors' program, and what holds for it whatever its weights."""
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.complexity import gmac, parameters
from config.errors import UserError
from models.accel import Accel
from models.fold import folded
from models.released import load_segmenter
from models.segmenters.deeplab import DeepLab18, DeepLab101, deformable
from models.warp import warp
from tests.released import arrays_of, fill
from utils.checkpoint import WeightsFile

PEERS = Path(__file__).resolve().parents[3] / "shared" / "peers"
published = pytest.mark.skipif(not PEERS.is_dir(), reason="the fixtures of Accel are not here")
LAYERS = {  # fixture -> the layer that it is the input of
    "pool1": "res2a_branch1", "res2c_relu": "res3a_branch1", "res3b3_relu": "res4a_branch1",
    "res4b22_relu": "res5a_branch1", "res5a_relu": "res5b_branch2a", "res5c_relu": "fc6", "warping_feat": "fc6",
    "relu_fc6": "score", "ReLU2": "conv3", "ReLU10": "Convolution1", "resize_data": "flow_conv1",
    "18_stage1": "18_stage2_unit1_bn1", "18_stage2": "18_stage3_unit1_bn1", "18_stage3": "18_res5a_branch1",
    "18_res5b_relu": "18_feat_upsampling", "18_relu_fc6": "18_score",
}
SIZE, CROPS = (128, 256), {"_8": slice(None), "_corner": slice(20), "_corner_end": slice(-20, None)}


def described() -> dict:
    return json.loads((PEERS / "accel.json").read_text())["accel_18"]


class Call(nn.Module):
    """A function as a module without tensors."""

    def __init__(self, call):
        super().__init__()
        self.forward = call


def as_in_fixtures(network: nn.Module) -> nn.Module:
    state, facts = {**network.state_dict()}, described()
    kept = {name: state[name].clone() for name in facts["fixture_bilinear"] if name in state}
    state = fill(network).state_dict()
    state |= {name: state[name] * factor for name, factor in facts["fixture_scale"].items() if name in state} | kept
    network.load_state_dict(state)
    return network


def lively(network: nn.Module) -> nn.Module:
    """With statistics that matter, and offsets about as large as taps are apart."""
    for name, x in network.state_dict().items():
        if x.ndim == 1:
            x.copy_(torch.rand_like(x) + (0.5 if name.endswith(("weight", "var")) else -0.5))
        elif name.endswith("offset.weight"):
            x.normal_(std=2 / math.sqrt(x[0].numel()))
        elif name.endswith(("score.weight", "fc6.weight", "correction.weight")):
            x.normal_(std=1 / math.sqrt(x[0].numel()))
    return network.eval()


@pytest.fixture(scope="module")
def accel() -> Accel:
    torch.manual_seed(1)
    return lively(Accel(5))


def frames(accel: Accel, clip: torch.Tensor, interval: int):
    """Yield the full-size scores of each frame of a clip (T,3,H,W) and the flow to it."""
    before = torch.empty(0)
    for number, rgb in enumerate(clip):
        image, flow = accel.normalise(rgb[None]), None
        look = accel.look(image)
        if number % interval == 0:
            features = accel.features(image)
            yield accel.scored(features), flow
        else:
            flow = accel.flow(look, before)
            features = warp(features, flow)
            yield accel.fused(features, accel.update(image)), flow
        before = look


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare with a stored array, of which every n-th channel and pixel may be left; closely
    enough to tell the two epsilons of BatchNorm apart."""
    channels, pixels = (-(-found.shape[dim] // expected.shape[dim]) for dim in (1, 3))
    found = found[:, ::channels, ::pixels, ::pixels]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def close_full(found: torch.Tensor, numbers: dict, name: str) -> None:
    for crop, part in CROPS.items():
        channels = slice(None) if crop == "_8" else slice(3)
        close(found[:, channels, part, part], numbers[f"{name}{crop}"])


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that have tensors, by their published names."""
    published = {id(x): name.rpartition(".")[0] for name, x in network.state_dict(keep_vars=True).items()}
    return {published[id(x)]: layer for layer in network.modules() for x in layer.parameters(recurse=False)}


def watched(network: nn.Module, names: set[str]) -> dict[str, torch.Tensor]:
    """Filled with what is at the fixtures `names` whenever the network has run."""
    seen, layers = dict[str, torch.Tensor](), layers_of(network)
    for name in names:
        if name in LAYERS:
            layer = layers[LAYERS[name]]
            layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
        elif layer := layers.get(name.replace("relu0", "bn0")):
            layer.register_forward_hook(
                lambda _, __, y, name=name: seen.update({name: y.relu() if name == "18_relu0" else y}))
    return seen


@published
def test_tensors_parameters_and_cost_are_the_published_ones():
    with torch.device("meta"):
        accel, parts = Accel(19).eval(), {"key": DeepLab101(19), "update_branch_18": DeepLab18(19)}
        image, look, scores = (torch.empty(1, *x) for x in ((3, 1024, 2048), (3, 512, 1024), (19, 64, 128)))
    tensors = {key: list(x.shape) for key, x in accel.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert tensors == described()["tensors"] and parameters(accel) == described()["parameters"]["all"] == 114_320_889
    for name, part in parts.items():
        assert parameters(part) == described()["parameters"][name] and {*part.state_dict()} < {*accel.state_dict()}
    features = torch.empty(1, 2048, 64, 128, device="meta")
    accel.one_kernel = False
    parts = ((accel.flow.forward, look, look), (accel.update, image), (accel.fused, features, scores))
    flow, small, last = (gmac(Call(call), *inputs) for call, *inputs in parts)
    assert gmac(accel, image) == pytest.approx(427.66, rel=5e-5) and flow == pytest.approx(42.01, rel=5e-4)
    assert flow + small + last == pytest.approx(190.58, rel=5e-5)


@published
@torch.no_grad()
def test_update_branch_by_itself():
    numbers, network = arrays_of(PEERS / "accel_seed0.npz"), as_in_fixtures(DeepLab18(19))
    seen = watched(network, {"18_score", "18_res5a_branch2b_offset"})
    found = network(network.normalise(numbers["clip_rgb"][1:2]))
    close_full(found, numbers, "cur_18_croped_score")
    for name, x in seen.items():
        close(x, numbers[f"cur_{name}"])


@published
@pytest.mark.slow
@torch.no_grad()
def test_every_number_of_a_clip():
    numbers, accel = arrays_of(PEERS / "accel_seed0.npz"), as_in_fixtures(Accel(19))
    starts = {0: "key_", 1: "cur_", 4: "cur4_"}
    stored = {start: {x[len(start):] for x in numbers if x.startswith(start)} for start in starts.values()}
    seen, compared = watched(accel, set().union(*stored.values())), 0
    for number, (scores, flow) in enumerate(frames(accel, numbers["clip_rgb"], interval=5)):
        close(scores, numbers["seq_8"][number : number + 1])
        for name in stored.get(starts.get(number, ""), set()) & {*seen}:
            close(seen[name], numbers[f"{starts[number]}{name}"])
            compared += 1
        if number == 1:
            for network in (accel.deep, accel.small):
                found = network.upsample(seen[f"{network.prefix}score"])
                close_full(found, numbers, f"cur_{network.prefix}croped_score")
            close_full(scores, numbers, "cur_correction")
            sides = torch.tensor([15.0, 7.0]).view(2, 1, 1)
            place = torch.stack(torch.meshgrid(torch.arange(16), torch.arange(8), indexing="xy")) + flow
            close(2 * place / sides - 1, numbers["cur_flow_grid"])
        if number == 0:
            close_full(scores, numbers, "key_croped_score")
    assert compared + 3 * 4 + 1 == sum(map(len, stored.values()))


def naive(conv: nn.Conv2d, maps: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """One value after the other, by MXNet's rule."""
    (_, c, h, w), d = maps.shape, conv.dilation[0]
    offset = offset.view(-1, 9, 2, h, w)  # (G,9,2,h,w)
    taken = torch.zeros(c, 9, h, w)
    for channel, tap, row, column in torch.cartesian_prod(*map(torch.arange, taken.shape)).tolist():
        dy, dx = offset[channel * len(offset) // c, tap, :, row, column].tolist()
        y, x = row + (tap // 3 - 1) * d + dy, column + (tap % 3 - 1) * d + dx
        if 0 <= y < h and 0 <= x < w:
            y, x = min(y, h - 1), min(x, w - 1)
            for i, j in {(f(y), g(x)) for f in (math.floor, math.ceil) for g in (math.floor, math.ceil)}:
                taken[channel, tap, row, column] += maps[0, channel, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return torch.einsum("octd,cthw->ohw", conv.weight.view(len(conv.weight), c, 9, 1), taken)[None]


@pytest.mark.parametrize("groups, dilation, spread", [(1, 2, 2.0), (2, 1, 1.0), (2, 2, 0.3)])
@torch.no_grad()
def test_deformable_convolution_at_borders(groups, dilation, spread):
    conv = nn.Conv2d(4, 3, 3, padding=dilation, dilation=dilation, bias=False)
    maps, offset = torch.randn(1, 4, 5, 6), spread * torch.randn(1, 18 * groups, 5, 6)
    torch.testing.assert_close(deformable(conv, maps, offset), naive(conv, maps, offset), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(deformable(conv, maps, 0 * offset), conv(maps), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_fusing_before_upsampling_is_the_published_order_where_all_kernels_are_equal(accel):
    features, update = inputs = torch.randn(1, 2048, 4, 6), torch.randn(1, 5, 4, 6)
    kernels = {x: accel.state_dict()[x].clone() for x in ("upsampling.weight", "18_upsampling.weight")}
    head = gmac(accel.deep.head, features)

    def by_hand() -> torch.Tensor:
        return accel.correction(torch.cat([accel.scored(features), accel.small.upsample(update)], dim=1))

    cheap = gmac(Call(accel.fused), *inputs)
    torch.testing.assert_close(accel.fused(*inputs), by_hand(), rtol=1e-4, atol=1e-5)
    for changed, part in (("upsampling.weight", 0), ("18_upsampling.weight", 4), ("18_upsampling.weight", slice(None))):
        other = kernels[changed].clone()
        other[part] *= 1.5
        accel.load_state_dict({**kernels, changed: other}, strict=False)
        assert torch.equal(accel.fused(*inputs), by_hand())
        assert gmac(Call(accel.fused), *inputs) - head > 3 * (cheap - head)
    accel.load_state_dict(kernels, strict=False)
    assert gmac(Call(accel.fused), *inputs) == cheap


@torch.no_grad()
def test_folded_and_batch(accel):
    image, fast = accel.normalise(torch.randint(0, 256, (2, 3, 64, 96))), folded(accel)
    for part in ("forward", "update"):
        found, alone = getattr(accel, part)(image), getattr(accel, part)(image[1:])
        for other in (torch.cat([found[:1], alone]), getattr(fast, part)(image)):
            assert (other - found).abs().max() <= 1e-4 * found.abs().max()
    assert found.shape == (2, 5, 4, 6)
    assert sum(isinstance(x, nn.BatchNorm2d) for x in fast.modules()) == 7  # before each unit, and on the image
    accel.small.features.bn_data.weight.mul_(3)
    assert torch.equal(accel.update(image), found)  # that weight counts as 1


def test_what_gets_gradients(accel):
    accel.fused(torch.randn(1, 2048, 4, 6), torch.randn(1, 5, 4, 6)).square().mean().backward()
    trained = {name.split(".")[0] for name, x in accel.named_parameters() if x.grad is not None and x.grad.any()}
    assert trained == {"correction", "deep"}
    network = DeepLab18(4)
    assert not network.state_dict()["18_res5b_branch2b_offset.weight"].any()
    lively(network).train()
    network(network.normalise(torch.randint(0, 256, (2, 3, 64, 96)))).square().mean().backward()
    without = {name for name, x in network.named_parameters() if x.grad is None or not x.grad.any()}
    assert without == {name for name, x in network.named_parameters() if not x.requires_grad}
    assert without == {"features.bn_data.weight", "upsampling.weight"}
    assert network.state_dict()["18_bn_data.running_mean"].abs().max() > 1  # statistics of the batch


def test_update_branch_from_each_published_file(accel, tmp_path):
    network, whole = DeepLab18(5), accel.state_dict()
    own = {key: whole[key] for key in network.state_dict()}
    others = {key: x for key, x in whole.items() if key not in own}
    for content in (own, {key[3:]: x for key, x in own.items()}, {**own, **others}, {**others, **own}):
        network.load_state_dict({key: torch.zeros_like(x) for key, x in own.items()})
        load_segmenter(network, WeightsFile(tmp_path / "a.params", content, "", mixed=True), "deeplab-18")
        assert all(torch.equal(x, own[key]) for key, x in network.state_dict().items())
    with pytest.raises(UserError, match="a.params: does not fit the keyframe segmenter deeplab-18"):
        load_segmenter(network, WeightsFile(tmp_path / "a.params", others, "", mixed=True), "deeplab-18")
