"""Losses against plain formulas."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from models import full_size_loss
from models.losses import FlowLoss, PropagationLoss, SegmenterLoss
from tests.properties import generator, random_labels, seeds, sizes, upsampled

IGNORE = 250


def test_propagation_loss_is_the_published_formula():
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    label = torch.randint(0, 3, (2, 4, 6))
    label[0, 0] = IGNORE
    weights = [1.0, 2.0, 5.0]
    loss = PropagationLoss(weights, param_ce=10, param_distil=7, ignore=IGNORE)(logits, label, teacher)
    p, q = teacher.softmax(1), logits.softmax(1)
    kl = (p * (p.log() - q.log())).mean()
    seen = label != IGNORE
    chosen = q.permute(0, 2, 3, 1)[seen].gather(1, label[seen][:, None])[:, 0]
    w = torch.tensor(weights)[label[seen]]
    ce = -(w * chosen.log()).sum() / w.sum()
    assert torch.allclose(loss["ce"], ce) and torch.allclose(loss["distillation"], kl)
    assert torch.allclose(loss["total"], 10 * (ce + 7 * kl))


def test_no_teacher_no_distillation():
    logits = torch.randn(1, 3, 4, 4)
    criterion = PropagationLoss([1.0] * 3, param_ce=10, param_distil=10, ignore=IGNORE)
    loss = criterion(logits, torch.zeros(1, 4, 4).long(), None)
    assert loss["distillation"] == 0 and torch.allclose(loss["total"], 10 * loss["ce"])


@pytest.mark.tried("Numbers", "a batch without a labelled pixel", "a loss of zero, and no gradient")
def test_unlabelled_batch_has_zero_loss_and_no_nan():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    label = torch.full((1, 4, 4), IGNORE)
    loss = PropagationLoss([1.0] * 3, param_ce=10, param_distil=10, ignore=IGNORE)(logits, label, None)
    loss["total"].backward()
    assert loss["total"] == 0 and not logits.grad.any()


def test_ohem_keeps_the_hard_pixels_or_a_sixteenth():
    torch.manual_seed(0)
    label = torch.randint(0, 3, (1, 8, 8))
    logits = torch.randn(1, 3, 8, 8)
    losses = F.cross_entropy(logits, label, reduction="none").flatten()
    hard = losses[losses > -torch.log(torch.tensor(0.7))]
    criterion = SegmenterLoss(ignore=IGNORE, ohem=True)
    assert torch.allclose(criterion([logits], label)["total"], hard.mean())
    sure = 20.0 * F.one_hot(label, 3).permute(0, 3, 1, 2).float() + logits
    easy = F.cross_entropy(sure, label, reduction="none").flatten()
    assert torch.allclose(criterion([sure], label)["total"], easy.topk(4).values.mean())


def test_segmenter_loss_adds_its_outputs():
    logits, label = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    criterion = SegmenterLoss(ignore=IGNORE, ohem=False)
    assert torch.allclose(criterion([logits, logits], label)["total"], 2 * criterion([logits], label)["total"])


def test_flow_loss_is_the_mean_end_point_error_where_valid():
    flow, truth = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    truth[0, :, 0, 0] = torch.tensor([3.0, 4.0])
    truth[0, :, 1, 1] = 100.0
    valid = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    assert FlowLoss()(flow, truth, valid)["total"] == 2.5


def pixels(logits, label):
    """Yield each pixel's class or IGNORE, and the log-probabilities, float64, of logits upsampled to the label."""
    planes = np.moveaxis(upsampled(logits, label.shape[-2:]), 1, -1)
    for classes, scores in zip(label.flatten().tolist(), planes.reshape(-1, logits.shape[1]).tolist()):
        most = max(scores)
        total = most + math.log(sum(math.exp(x - most) for x in scores))
        yield classes, [x - total for x in scores]


sizes_of_batch = dict(classes=st.integers(1, 6), count=st.integers(1, 4), coarse=sizes(5), size=sizes(10), seed=seeds)


def random_batch(classes, count, coarse, size, seed):
    label = random_labels(np.random.default_rng(seed), (count, *size), classes, IGNORE).long()
    return 3 * torch.randn(count, classes, *coarse, generator=generator(seed)), label


@pytest.mark.tried(
    "Numbers",
    "the propagation's loss on random logits, teachers, labels and class weights, by one process and by several",
)
@given(taught=st.booleans(), ranks=st.integers(1, 3), **sizes_of_batch)
def test_propagation_loss_equals_plain_python(outcomes, taught, ranks, classes, count, coarse, size, seed):
    logits, label = random_batch(classes, count * ranks, coarse, size, seed)
    rng = generator(seed)
    weights = (0.5 + 5 * torch.rand(classes, generator=rng)).tolist()
    teacher = 3 * torch.randn(count * ranks, classes, *size, generator=rng) if taught else None
    predicted = list(pixels(logits, label))
    weight = sum(weights[t] for t, _ in predicted if t != IGNORE)
    ce = -sum(weights[t] * q[t] for t, q in predicted if t != IGNORE) / weight if weight else 0.0
    kl = 0.0
    if taught:
        pairs = [(p, q) for (_, ps), (_, qs) in zip(pixels(teacher, label), predicted) for p, q in zip(ps, qs)]
        kl = sum(math.exp(p) * (p - q) for p, q in pairs) / len(pairs)
    # Each process has its part of the batch, and divides by the processes' mean weight.
    criterion = PropagationLoss(
        weights, param_ce=3, param_distil=7, ignore=IGNORE,
        average=lambda own: own.new_tensor(weight / ranks) if ranks > 1 else own,
    )
    losses = [criterion(x, y, t) for x, y, t in zip(
        logits.chunk(ranks), label.chunk(ranks), teacher.chunk(ranks) if taught else [None] * ranks)]
    for name, expected in (("ce", ce), ("distillation", kl), ("total", 3 * (ce + 7 * kl))):
        assert sum(float(loss[name]) for loss in losses) / ranks == pytest.approx(expected, rel=1e-4, abs=1e-5), name
    outcomes["equal to plain Python"] += 1


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("coarse, taught, size", [
    ((3, 5), (4, 2), (16, 24)), ((1, 1), (9, 7), (9, 7)), ((9, 7), None, (9, 7)), ((6, 9), (1, 3), (4, 5)),
])
def test_gradient_at_full_size_is_that_of_torch(monkeypatch, rows, coarse, taught, size):
    monkeypatch.setattr(full_size_loss, "ROWS", rows)
    logits = torch.randn(2, 3, *coarse, requires_grad=True)
    teacher = None if taught is None else torch.randn(2, 3, *taught)
    label, weights = torch.randint(0, 3, (2, *size)), torch.tensor([1.0, 2.0, 5.0])
    label[:, 0] = IGNORE
    planes = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
    expected = F.cross_entropy(planes, label, weights, ignore_index=IGNORE)
    if teacher is not None:
        aim = F.interpolate(teacher, size=size, mode="bilinear", align_corners=True).log_softmax(1)
        expected = expected + 7 * (aim.exp() * (aim - planes.log_softmax(1))).mean()
    gradient, = torch.autograd.grad(30 * expected, logits)
    found = PropagationLoss(weights.tolist(), param_ce=10, param_distil=7, ignore=IGNORE)(logits, label, teacher)
    (3 * found["total"]).backward()
    torch.testing.assert_close(found["total"], 10 * expected)
    torch.testing.assert_close(logits.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.tried("Numbers", "the segmenter's loss on random logits and labels, of all pixels and of the hard ones")
@given(ohem=st.booleans(), threshold=st.sampled_from([0.001, 0.7, 0.99]), **sizes_of_batch)
def test_segmenter_loss_equals_plain_python(outcomes, ohem, threshold, classes, count, coarse, size, seed):
    logits, label = random_batch(classes, count, coarse, size, seed)
    losses = sorted((-q[t] for t, q in pixels(logits, label) if t != IGNORE), reverse=True)
    if ohem:
        hard = [x for x in losses if x > -math.log(threshold)]
        losses = max(hard, losses[: label.numel() // 16], key=len)
    expected = sum(losses) / len(losses) if losses else 0.0
    found = SegmenterLoss(ignore=IGNORE, ohem=ohem, threshold=threshold)([logits], label)["total"]
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    outcomes["equal to plain Python"] += 1


@pytest.mark.tried("Numbers", "the flow's loss on random flows, of which some pixels are valid in part or not at all")
@given(size=sizes(8), count=st.integers(1, 3), unknown=st.sampled_from([0.0, 0.5, 1.0]), seed=seeds)
def test_flow_loss_equals_plain_python(outcomes, size, count, unknown, seed):
    rng = generator(seed)
    flow, truth = (4 * torch.randn(2, count, 2, *size, generator=rng)).round()  # some are met exactly
    valid = torch.rand(count, 1, *size, generator=rng) * (torch.rand(count, 1, *size, generator=rng) >= unknown)
    flow.requires_grad_(True)
    total = FlowLoss()(flow, truth, valid)["total"]
    total.backward()
    weighed = [(v, math.dist(f, t)) for v, f, t in zip(
        valid.flatten().tolist(), *(x.detach().movedim(1, -1).reshape(-1, 2).tolist() for x in (flow, truth)))]
    expected = sum(v * error for v, error in weighed) / max(1.0, sum(v for v, _ in weighed))
    assert total.item() == pytest.approx(expected, rel=1e-4, abs=1e-6) and torch.isfinite(flow.grad).all()
    outcomes["equal to plain Python, and a gradient without NaN"] += 1
