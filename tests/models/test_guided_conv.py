"""The guided block against its published form, written naively."""
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.guided_conv import GuidedConv, edge_map, shift_bank
from tests.properties import generator, seeds, sizes

NEIGHBOURS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
STEPS = ("intra.0", "intra.3", *(f"guide.{step}.0" for step in ("encoder", "down1", "down2", "up1", "up2", "decoder")))
WITHOUT_EFFECT = {f"{step}.bias" for step in STEPS}  # BatchNorm subtracts it in training: its gradient is only rounding


def published_fuse(warped, intra, kernels, bank):
    """Filter every class with every filter, stack the eleven candidates, weigh, sum."""
    filtered = F.conv3d(warped[:, None], bank, padding=(0, 1, 1))  # (N,9,C,h,w)
    candidates = torch.cat([warped[:, None], filtered, intra[:, None]], dim=1)  # (N,11,C,h,w)
    return (kernels[:, :, None] * candidates).sum(dim=1)


def shifted(x, dy, dx):
    """candidate(p) = x(p + offset), zeros outside, pixel by pixel."""
    height, width = x.shape[-2:]
    out = torch.zeros_like(x)
    for y, column in itertools.product(range(height), range(width)):
        if 0 <= y + dy < height and 0 <= column + dx < width:
            out[..., y, column] = x[..., y + dy, column + dx]
    return out


def published_edge(warped):
    """Laplacian of the class ids, the first of equally large classes, beyond the border 0; 1 where it is not zero."""
    edge = torch.zeros_like(warped[:, :1])
    for n in range(len(warped)):
        ids = [[max(range(warped.shape[1]), key=lambda c: float(warped[n, c, y, x])) for x in range(warped.shape[3])]
               for y in range(warped.shape[2])]
        for y, row in enumerate(ids):
            for x, centre in enumerate(row):
                places = [(y + dy, x + dx) for dy, dx in NEIGHBOURS]
                around = [ids[i][j] for i, j in places if 0 <= i < len(ids) and 0 <= j < len(row)]
                edge[n, 0, y, x] = float(sum(around) - 8 * centre != 0)
    return edge


def published_kernels(tensors, intra, edge, training):
    """The guiding network from its tensors by name, (N,11,h,w), divided by the sum over the kernels + 1e-9."""

    def block(name, x, stride=1):
        return conv_bn_relu(tensors, f"guide.{name}", x, training, stride=stride)

    e = block("encoder", torch.cat([intra, edge], dim=1))
    half = block("down1", e, 2)
    u = block("up1", F.interpolate(block("down2", half, 2), half.shape[-2:], mode="bilinear", align_corners=True))
    u = block("up2", F.interpolate(u, e.shape[-2:], mode="bilinear", align_corners=True))
    kernels = block("decoder", e + u)
    return kernels / (kernels.sum(dim=1, keepdim=True) + 1e-9)


def conv_bn_relu(tensors, name, x, training, first=0, stride=1):
    x = F.conv2d(x, tensors[f"{name}.{first}.weight"], tensors[f"{name}.{first}.bias"], stride=stride, padding=1)
    running = (tensors[f"{name}.{first + 1}.running_mean"].clone(), tensors[f"{name}.{first + 1}.running_var"].clone())
    norm = tensors[f"{name}.{first + 1}.weight"], tensors[f"{name}.{first + 1}.bias"]
    return F.batch_norm(x, *running, *norm, training=training).relu()


def published_forward(tensors, warped, frame, *, training, use_intra, use_edge):
    """The whole block: the sum of the eleven weighed candidates (N,C,h,w), and the kernels that weighed them."""
    intra = torch.zeros_like(warped)
    if use_intra:
        x = conv_bn_relu(tensors, "intra", frame, training)
        x = conv_bn_relu(tensors, "intra", x, training, first=3)
        intra = F.conv2d(x, tensors["intra.6.weight"], tensors["intra.6.bias"], padding=1).expand_as(warped)
    edge = published_edge(warped.detach()) if use_edge else torch.zeros_like(warped[:, :1])
    kernels = published_kernels(tensors, intra, edge, training)
    return published_fuse(warped, intra, kernels, tensors["filter_bank"]), kernels


blocks = st.fixed_dictionaries({
    **dict.fromkeys(("use_intra", "use_edge", "trained_bank", "ties", "one_frame", "silent"), st.booleans()),
    "classes": st.integers(1, 7), "count": st.integers(1, 3), "size": sizes(14), "seed": seeds,
})


def random_block(*, use_intra, use_edge, trained_bank, ties, one_frame, silent, classes, count, size, seed):
    """A guided block with random tensors, warped logits, and a frame for each or for all of them."""
    rng = generator(seed)
    guided = GuidedConv(classes, use_intra=use_intra, use_edge=use_edge)
    with torch.no_grad():
        for name, x in guided.state_dict().items():
            if name != "filter_bank" and x.is_floating_point():
                # Factors and variances of BatchNorm about 1, all others about 0, so that activations keep their size.
                centre = 1.0 if x.dim() == 1 and name.endswith(("weight", "var")) else 0.0
                x.copy_(centre + (0.3 if x.dim() == 1 else 0.1) * (2 * torch.rand(x.shape, generator=rng) - 1))
        guided.guide.decoder[1].bias += -1.0 if silent else 1.0  # many pixels whose kernels are all zero, or none
    if trained_bank:
        torch.nn.init.normal_(guided.filter_bank, generator=rng)  # as after --train-filter 1
    warped = torch.randn(count, classes, *size, generator=rng)
    if ties:
        warped = warped.round()  # equally large classes, and zeros as after warping
    return guided, warped, torch.randn(1 if one_frame else count, 3, *size, generator=rng)


@pytest.mark.tried(
    "Numbers",
    "the fused sum for random sizes, classes, batches and kernels, with the released and with trained filters",
)
@given(size=sizes(9), classes=st.integers(1, 20), count=st.integers(1, 3), trained=st.booleans(), seed=seeds)
def test_fuse_equals_the_published_sum_of_candidates(outcomes, size, classes, count, trained, seed):
    rng = generator(seed)
    guided = GuidedConv(2)  # classes are the warped logits' own
    if trained:
        torch.nn.init.normal_(guided.filter_bank, generator=rng)
    warped, intra = torch.randn(2, count, classes, *size, generator=rng)
    kernels = torch.rand(count, 11, *size, generator=rng)
    found = guided.fuse(warped, intra, kernels)
    assert torch.allclose(found, published_fuse(warped, intra, kernels, guided.filter_bank), atol=1e-4)
    if not trained:
        candidates = [warped, *(shifted(warped, *offset) for offset in NEIGHBOURS), torch.zeros_like(warped), intra]
        assert torch.allclose(found, sum(kernels[:, k : k + 1] * x for k, x in enumerate(candidates)), atol=1e-5)
    outcomes["equal to the published form"] += 1


@pytest.mark.tried("Numbers", "edges of random logits: sizes from 1 x 1, 1 to 250 classes, equally large classes")
@given(
    size=sizes(9), classes=st.integers(1, 6) | st.integers(1, 250), count=st.integers(1, 2),
    levels=st.sampled_from([1, 2, 1000]), seed=seeds,
)
def test_edges_equal_a_plain_laplacian(outcomes, size, classes, count, levels, seed):
    logits = torch.randint(0, levels, (count, classes, *size), generator=generator(seed)).float()
    assert torch.equal(edge_map(logits), published_edge(logits))
    outcomes["equal to the published form"] += 1


@pytest.mark.tried(
    "Numbers", "kernels of random guiding networks",
    "none negative, and their sum is one, or zero where all are",
)
@settings(max_examples=50)
@given(block=blocks)
def test_kernels_of_random_networks_sum_to_one_or_zero(outcomes, block):
    guided, warped, _ = random_block(**block)
    kernels = guided.eval().guide(warped, edge_map(warped))
    total = kernels.sum(dim=1)
    assert (kernels >= 0).all() and ((total - 1).abs().lt(1e-5) | total.eq(0)).all()
    outcomes["none negative, and their sum is one, or zero where all are"] += 1


@pytest.mark.tried(
    "Numbers",
    "the guided block from end to end: random tensors, sizes, classes, batches and ablations, trained or not",
)
@settings(max_examples=60)
@given(block=blocks, training=st.booleans())
def test_forward_and_gradients_equal_the_published_form(outcomes, block, training):
    guided, warped, frame = random_block(**block)
    training = training and min(block["size"]) > 4  # BatchNorm requires several values, also at a quarter of the grid
    guided.train(training).filter_bank.requires_grad_(True)
    tensors = {name: x.detach().clone() for name, x in guided.state_dict().items()}
    results = []
    for published in (False, True):
        inputs = warped.clone().requires_grad_(True), frame.clone().requires_grad_(True)
        if published:
            learned = {name: tensors[name].requires_grad_(p.requires_grad) for name, p in guided.named_parameters()}
            ablations = {name: block[name] for name in ("use_intra", "use_edge")}
            out, kernels = published_forward(tensors, *inputs, training=training, **ablations)
        else:
            learned = dict(guided.named_parameters())
            out = guided(*inputs)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape)  # a gradient that differs everywhere
        (out * weights).sum().backward()
        gradients = {"warped": inputs[0].grad, "frame": inputs[1].grad, **{name: x.grad for name, x in learned.items()}}
        results.append((out.detach(), gradients))
    (found, gradients), (expected, true_gradients) = results
    total = kernels.detach().sum(dim=1, keepdim=True)
    tiny = (total > 0) & (total < 1 - 1e-5)  # where adding 1e-9 differs from a minimum of 1e-9
    assert torch.allclose(found.where(~tiny, 0), expected.where(~tiny, 0), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(found).all()
    most = max(float(torch.linalg.vector_norm(x)) for x in true_gradients.values() if x is not None)
    for name, true in true_gradients.items():
        assert (gradients[name] is None) == (true is None), name
        assert true is None or torch.isfinite(gradients[name]).all(), name
        # Where one kernel is left, its gradient cancels, and rounding is what remains.
        if true is not None and not ((training and name in WITHOUT_EFFECT) or block["silent"]):
            difference = torch.linalg.vector_norm(gradients[name] - true)
            assert difference <= 1e-3 * torch.linalg.vector_norm(true) + 1e-5 * most, name
    equal = "result and gradients equal to the published form"
    if block["silent"]:
        equal = "result equal to the published form, gradients finite"
    outcomes[equal] += 1


@pytest.mark.parametrize("trained_bank", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (5, 7), (1, 1)])
def test_equals_the_published_form_for_any_filter_bank(size, trained_bank):
    guided = GuidedConv(4)
    if trained_bank:
        torch.nn.init.normal_(guided.filter_bank)
    warped, intra = torch.randn(2, 4, *size), torch.randn(2, 4, *size)
    kernels = torch.rand(2, 11, *size)
    expected = published_fuse(warped, intra, kernels, guided.filter_bank)
    assert torch.allclose(guided.fuse(warped, intra, kernels), expected, atol=1e-5)


def test_filters_shift_to_the_neighbours_and_the_ninth_is_empty():
    bank = shift_bank()
    x = torch.arange(20.0).view(1, 1, 4, 5)
    right = F.conv2d(x, bank[4], padding=1)  # offset (0, 1): what stands to the right
    assert torch.equal(right[..., :-1], x[..., 1:])
    assert bank[8].abs().sum() == 0 and bank.sum() == 8


def test_edges_are_where_the_laplacian_of_the_ids_is_not_zero():
    ids = torch.randint(0, 5, (2, 9, 11))
    logits = F.one_hot(ids, 5).permute(0, 3, 1, 2).float()
    laplacian = torch.ones(1, 1, 3, 3)
    laplacian[..., 1, 1] = -8
    expected = (F.conv2d(ids[:, None].float(), laplacian, padding=1) != 0).float()
    assert torch.equal(edge_map(logits), expected)


def test_kernels_sum_to_one_or_less():
    guided = GuidedConv(4).eval()
    kernels = guided.guide(torch.randn(1, 4, 8, 8), torch.rand(1, 1, 8, 8).round())
    assert (kernels >= 0).all() and (kernels.sum(dim=1) <= 1 + 1e-5).all()


def test_every_parameter_learns_but_the_frozen_bank():
    guided = GuidedConv(4)
    guided(torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert {name for name, p in guided.named_parameters() if p.grad is None} == {"filter_bank"}


def test_bank_learns_when_asked():
    guided = GuidedConv(4)
    guided.filter_bank.requires_grad_(True)
    guided(torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert guided.filter_bank.grad.abs().sum() > 0


def test_one_frame_serves_several_warped_logits():
    guided = GuidedConv(4).eval()
    warped, frame = torch.randn(3, 4, 8, 8), torch.randn(1, 3, 8, 8)
    apart = torch.cat([guided(x[None], frame) for x in warped])
    assert torch.allclose(guided(warped, frame), apart, atol=1e-5)


def test_without_intra_features_the_frame_does_not_matter():
    guided = GuidedConv(4, use_intra=False).eval()
    warped = torch.randn(1, 4, 8, 8)
    assert torch.equal(guided(warped, torch.randn(1, 3, 8, 8)), guided(warped, torch.randn(1, 3, 8, 8)))


def test_ablations_leave_out_what_they_name():
    warped, frame = torch.randn(1, 4, 8, 12), torch.randn(1, 3, 8, 12)
    whole, no_edge, no_intra = (GuidedConv(4, **x).eval() for x in ({}, {"use_edge": False}, {"use_intra": False}))
    for other in (no_edge, no_intra):
        other.load_state_dict(whole.state_dict())  # the same tensors, so that any checkpoint serves
    seen = []
    for guided in (whole, no_edge, no_intra):
        guided.guide.register_forward_hook(lambda _, inputs, __: seen.append(inputs))
        guided(warped, frame)
    (intra, edge), (intra_too, no_edges), (no_features, edge_too) = seen
    assert edge.any() and not no_edges.any() and torch.equal(intra, intra_too)
    assert intra.any() and not no_features.any() and torch.equal(edge, edge_too)
