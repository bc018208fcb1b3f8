"""TDNet's networks and loss against the numbers of its authors' program, and what holds without them."""
import functools
import json
from collections import deque
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.complexity import gmac, parameters
from config.cityscapes import CITYSCAPES
from models.fold import folded
from models.losses import SegmenterLoss, TDNetLoss, alone, divergence
from models.resize import align
from models.segmenters.tdnet import TD4Bise18
from models.segmenters.tdnet_psp import TD4PSP18
from tests.released import arrays_of, fill

PEERS = Path(__file__).resolve().parents[3] / "shared" / "peers"
published = pytest.mark.skipif(not (PEERS / "tdnet.md").is_file(), reason="the fixtures of TDNet are not here")
KINDS = {"td4_bise18": TD4Bise18, "td4_psp18": TD4PSP18}
SMALL = {"bise": lambda: TD4Bise18(5), "psp": lambda: TD4PSP18(5, norm=(9, 17))}
SIZES = {"bise": (100, 150), "psp": (65, 129)}
LIMIT = 1e-4  # relative to the largest value


@functools.cache
def numbers() -> dict:
    return arrays_of(PEERS / "tdnet_seed0.npz")


@functools.cache
def network(kind):
    return fill(TD4Bise18(19) if kind == "bise" else TD4PSP18(19, norm=(17, 33)))


def difference(found, expected) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def close(found, name) -> None:
    assert difference(found, numbers()[name]) <= LIMIT, name


@torch.no_grad()
def logits_of(net, clip, order=(0, 1, 2)):
    """Frames (T,3,H,W) one by one, with the memories of the last three, as a stream has it -> (T,C,h,w)."""
    memories, logits = deque(maxlen=3), []
    for t, image in enumerate(clip):
        z = net.group(image[None], t % 4)
        carried = [memories[n] for n in order] if len(memories) == 3 else []
        logits.append(net.propagated(z, *carried, path=t % 4) if carried else net.alone(z, t % 4))
        memories.append(net.memory(z, t % 4))
    return torch.cat(logits)


@published
@pytest.mark.parametrize("kind, with_heads, without", [("td4_bise18", 52_387_584, 51_787_008),
                                                       ("td4_psp18", None, 54_830_068 - 2_052_000)])
def test_tensors_are_the_published_ones(kind, with_heads, without):
    with torch.device("meta"):
        net = KINDS[kind](19)
    own, theirs = net.state_dict(keep_vars=True), json.loads((PEERS / "tdnet.json").read_text())[kind]["tensors"]
    heads = {id(x) for part in net.training_only() for x in part.state_dict(keep_vars=True).values()}
    unreleased = {name for name, x in own.items() if id(x) in heads} if kind == "td4_psp18" else set()
    classifiers = {name for name in theirs if name.startswith("pretrained") and ".fc." in name}
    assert {name: list(x.shape) for name, x in own.items() if name not in unreleased} == {
        name: shape for name, shape in theirs.items() if name not in classifiers}
    assert len(classifiers) in (0, 8) and all(name.startswith("auxlayer") for name in unreleased)
    assert parameters(net) - sum(map(parameters, net.training_only())) == without
    assert with_heads in (None, parameters(net)) and net.class_tensor in own


@published
@torch.no_grad()
def test_parts_of_bise18():
    net, sides = network("bise"), []
    for path in (0, 1):
        name, image = f"bise_s{path + 1}_", numbers()["clip"][path][None]
        context, encoding = net.get_submodule(f"cp{path + 1}"), net.get_submodule(f"enc{path + 1}")
        for stride, x in zip((4, 8, 16, 32), context.resnet.features(image)):
            close(x[:, ::8], f"{name}feat{stride}")
        _, eighth, sixteenth = context(image)
        close(eighth[:, ::8], f"{name}cp8")
        close(sixteenth[:, ::8], f"{name}cp16")
        z, heads = net.group(image, path), net.training_only()
        close(z[:, ::4], f"{name}ffm")
        close(heads[path](eighth), f"{name}aux16")
        close(heads[4 + path](sixteenth), f"{name}aux32")
        query, values = encoding.w_qs(z).flatten(2), encoding.w_vs(z)
        close(values[:, ::8], f"{name}v_full")
        close(query.transpose(1, 2)[:, ::4, ::4], f"{name}q_full")
        close(net.get_submodule(f"layer_norm{path + 1}_")(values)[:, ::8], f"{name}ln_v")
        sides.append((query, *net.memory(z, path).split([64, 64, 128], dim=1)))
        for part, x in zip("qkv", sides[-1][1:]):
            close(x.transpose(1, 2), f"{name}{part}")
    (_, _, key, value), (full, points, _, _) = sides
    close(net.atn2_1(full, key, value)[:, ::4].unflatten(2, (16, 32)), "bise_atn2_1")
    close(net.atn1_2(points, key, value).transpose(1, 2), "bise_atn1_2_flat")


@published
@torch.no_grad()
def test_parts_of_psp18():
    net, image = network("psp"), numbers()["psp_clip"][:1]
    close(net.pretrained1.features(image)[3][:, ::32], "psp_s1_c4")
    z = net.group(image, 0)
    close(z[:, ::16], "psp_s1_z")
    close(net.enc1.w_qs(z).flatten(2).transpose(1, 2)[:, ::8, ::4], "psp_s1_q_full")
    close(net.enc1.w_vs(z)[:, ::32], "psp_s1_v_full")
    for part, every, x in zip("qkv", (1, 1, 8), net.memory(z, 0).split([64, 64, 512], dim=1)):
        close(x.transpose(1, 2)[..., ::every], f"psp_s1_{part}")


@published
@pytest.mark.parametrize("kind, clip, every", [("bise", "clip", 8), ("psp", "psp_clip", 16)])
def test_sequence(kind, clip, every):
    frames = numbers()[clip]
    logits = logits_of(network(kind), frames)
    close(logits, f"{kind}_seq")
    close(align(logits, frames.shape[-2:])[..., ::every, ::every], f"{kind}_seq_up_{every}")
    with torch.no_grad():
        assert torch.equal(network(kind)(frames[:1]), logits[:1])
        propagated, lone, *_ = network(kind).training_outputs(frames[:4].split(1), 3)
    assert difference(propagated, logits[3:4]) <= LIMIT < difference(lone, logits[3:4])
    assert difference(logits_of(network(kind), frames[:4], order=(1, 0, 2))[3:], logits[3:4]) > 100 * LIMIT


@published
@pytest.mark.parametrize("kind, norm, size, memory, frame, first", [
    ("td4_bise18", None, (768, 1536), 780, 58.69, 55.37), ("td4_bise18", None, (1024, 2048), 1352, 108.22, 98.43),
    ("td4_psp18", (97, 193), (769, 1537), 1225, 257.45, 236.96),
    ("td4_psp18", (129, 257), (1025, 2049), 2145, 475.75, 419.68),
])
def test_cost_is_the_published_one(kind, norm, size, memory, frame, first):
    class Step(nn.Module):
        def forward(self, image, *memories):
            z = net.group(image, 0)
            assert net.memory(z, 0).shape == (1, 128 + net.channels, memory)
            return net.propagated(z, *memories, path=0) if memories else net.alone(z, 0)

    with torch.device("meta"):
        net = KINDS[kind](19, **({"norm": norm} if norm else {})).eval()
        image, carried = torch.empty(1, 3, *size), [torch.empty(1, 128 + net.channels, memory)] * 3
        assert gmac(Step(), image, *carried) == pytest.approx(frame, rel=0.0005)
        assert gmac(Step(), image) == pytest.approx(first, rel=0.005)  # less: a lone frame asks for no queries


@published
def test_published_losses():
    student, teacher, label = (numbers()[f"loss_{part}"] for part in ("student", "teacher", "label"))
    label, criterion = label.long(), SegmenterLoss(ignore=250, ohem=True)
    assert divergence(student, teacher).item() == pytest.approx(numbers()["loss_kd"].item(), rel=1e-6)
    assert criterion([student], label)["total"].item() == pytest.approx(numbers()["loss_ohem_nmin16"].item(), rel=1e-6)
    criterion.share = 100 / label.numel()
    easy = 0.1 * student + 6 * F.one_hot(torch.where(label == 250, 18, label), 19).permute(0, 3, 1, 2)
    assert criterion([easy], label)["total"].item() == pytest.approx(numbers()["loss_ohem_easy"].item(), rel=1e-5)


@pytest.mark.parametrize("kind, weights, kl", [("bise", (1, 1, 1, 1), (1, 1)), ("psp", (1, 0.5, 0.1), (1, 0.5))])
def test_loss_is_the_weighted_sum_of_its_parts(kind, weights, kl):
    criterion = SMALL[kind]().training_loss(CITYSCAPES, alone)
    assert isinstance(criterion, TDNetLoss)
    outputs = [torch.randn(2, 5, 8, 16) for _ in weights]
    label, teacher = torch.randint(0, 5, (2, 64, 128)), torch.randn(2, 5, 8, 16)
    hard = SegmenterLoss(ignore=CITYSCAPES.ignore, ohem=True)
    terms = [weight * hard([x], label)["total"].item() for weight, x in zip(weights, outputs)]
    size = (64, 128) if kind == "bise" else (8, 16)
    found, taught = criterion(outputs, label, teacher), align(teacher, size).softmax(1)
    divergences = [F.kl_div(align(x, size).log_softmax(1), taught, reduction="sum").item() for x in outputs[:2]]
    distillation = (kl[0] * divergences[0] + kl[1] * divergences[1]) / (2 * size[0] * size[1])
    assert found["distillation"].item() == pytest.approx(distillation, rel=1e-4)
    assert [found[part].item() for part in ("out", "sub")] == pytest.approx(terms[:2], rel=1e-5)
    assert found["auxiliary"].item() == pytest.approx(sum(terms[2:]), rel=1e-5)
    assert found["total"].item() == pytest.approx(sum(terms) + distillation, rel=1e-4)
    assert criterion(outputs, label)["distillation"] == 0


@pytest.mark.parametrize("kind", SMALL)
def test_sizes_determinism_and_folding(kind):
    net, clip = fill(SMALL[kind]()), torch.randn(4, 3, *SIZES[kind])
    before, logits = clip.clone(), logits_of(net, clip)
    assert logits.shape == (4, 5, *(-(-side // 8) for side in SIZES[kind])) and logits.isfinite().all()
    assert torch.equal(logits_of(net, clip), logits) and torch.equal(clip, before)
    assert net.size == (SIZES[kind] if kind == "psp" else None)
    assert difference(logits_of(folded(net), clip), logits) <= LIMIT
    with torch.no_grad():
        batch = net.training_outputs([torch.stack([-x, x]) for x in clip], 3)[0]
    assert difference(batch[1:], logits[3:]) <= LIMIT < difference(batch[:1], logits[3:])


@pytest.mark.parametrize("kind, path", [("bise", 0), ("bise", 2), ("psp", 1), ("psp", 3)])
def test_gradients_reach_every_part_that_runs(kind, path):
    net, clip = SMALL[kind]().train(), torch.randn(4, 2, 3, *SIZES[kind])
    outputs = net.training_outputs(clip, path)
    assert len(outputs) == len(net.output_weights)
    sum(x.square().mean() for x in outputs).backward()
    others, oldest = [str(number) for number in (1, 2, 3, 4) if number != path + 1], (path + 1) % 4 + 1
    idle = (f"enc{path + 1}.w_ks", f"enc{oldest}.w_qs", *(start + n for n in others for start in (
        "atn", "layer_norm", "conv_out_", "conv_out16_", "conv_out32_", "head", "auxlayer")))
    for name, x in net.named_parameters():
        if name.startswith(idle):
            assert x.grad is None or not x.grad.any(), name
        else:
            assert x.grad is not None and (name.endswith("bias") or x.grad.any()), name
    assert net.get_parameter(f"layer_norm{path + 1}{'_' * (kind == 'bise')}.ln.bias").grad.any()


@torch.no_grad()
@pytest.mark.parametrize("kind", SMALL)
def test_dropout_in_training_alone(kind):
    net, clip = SMALL[kind](), torch.randn(4, 2, 3, *SIZES[kind])
    for training in (True, False):
        first, second = (net.train(training).training_outputs(clip, 0) for _ in range(2))
        assert torch.equal(first[0], second[0]) != training
        assert torch.equal(first[1], second[1]) != (training and kind == "psp")  # its head has a dropout of its own


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_exports(kind):
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = fill(SMALL[kind]())

        def forward(self, image, *memories):
            z = self.net.group(image, 1)
            return self.net.propagated(z, *memories, path=1), self.net.memory(z, 1)

    step, (image, *earlier) = Step().eval(), torch.randn(4, 1, 3, *SIZES[kind])
    with torch.no_grad():
        memories = [step.net.memory(step.net.group(x, path), path) for x, path in zip(earlier, (2, 3, 0))]
        program = torch.export.export(step, (image, *memories), strict=False)
        for found, expected in zip(program.module()(image, *memories), step(image, *memories), strict=True):
            assert difference(found, expected) <= LIMIT
