"""The guided block against its published form, written naively."""
import pytest
import torch
from torch.nn import functional as F

from models.guided_conv import GuidedConv, edge_map, shift_bank


def published_fuse(warped, intra, kernels, bank):
    """Filter every class with every filter, stack the eleven candidates, weigh, sum."""
    count, classes, h, w = warped.shape
    filtered = F.conv3d(warped[:, None], bank, padding=(0, 1, 1))  # (N,9,C,h,w)
    candidates = torch.cat([warped[:, None], filtered, intra[:, None]], dim=1)  # (N,11,C,h,w)
    return (kernels[:, :, None] * candidates).sum(dim=1)


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
    assert torch.allclose(guided(warped, frame), apart, atol=1e-6)


def test_without_intra_features_the_frame_does_not_matter():
    guided = GuidedConv(4, use_intra=False).eval()
    warped = torch.randn(1, 4, 8, 8)
    assert torch.equal(guided(warped, torch.randn(1, 3, 8, 8)), guided(warped, torch.randn(1, 3, 8, 8)))


def test_ablations_leave_out_what_they_name():
    warped, frame = torch.randn(1, 4, 8, 12), torch.randn(1, 3, 8, 12)
    whole, no_edge, no_intra = GuidedConv(4).eval(), GuidedConv(4, use_edge=False).eval(), GuidedConv(4, use_intra=False).eval()
    for other in (no_edge, no_intra):
        other.load_state_dict(whole.state_dict())  # the same tensors, so that any checkpoint serves
    seen = []
    for guided in (whole, no_edge, no_intra):
        guided.guide.register_forward_hook(lambda _, inputs, __: seen.append(inputs))
        guided(warped, frame)
    (intra, edge), (intra_too, no_edges), (no_features, edge_too) = seen
    assert edge.any() and not no_edges.any() and torch.equal(intra, intra_too)
    assert intra.any() and not no_features.any() and torch.equal(edge, edge_too)
