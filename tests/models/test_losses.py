"""Losses against plain formulas."""
import torch
from torch.nn import functional as F

from models.losses import FlowLoss, PropagationLoss, SegmenterLoss

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
    loss = PropagationLoss([1.0] * 3, param_ce=10, param_distil=10, ignore=IGNORE)(logits, torch.zeros(1, 4, 4).long(), None)
    assert loss["distillation"] == 0 and torch.allclose(loss["total"], 10 * loss["ce"])


def test_unlabelled_batch_gives_zero_and_no_nan():
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
