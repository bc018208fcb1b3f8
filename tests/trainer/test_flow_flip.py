"""Stage flow flips its views itself, with the true flow; --use-crop 0 switches that off too."""
import pytest
import torch

from config.command_line import parse
from trainer.stages.flow_network import FlowStage

VIEWS = [torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6) + t for t in range(2)]
TRUTH, VALID = torch.randn(2, 2, 4, 6), torch.ones(2, 1, 4, 6)


def compared(*words: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The current view that the network gets, and the true flow that its output is compared with."""
    stage = object.__new__(FlowStage)
    stage.options, stage.device = parse(["--stage", "flow", *words]), torch.device("cpu")
    stage._inputs = lambda batch, seed: (VIEWS, TRUTH, VALID)
    stage.trained = lambda current, previous: current
    stage.criterion = lambda flow, truth, valid: {"view": flow, "truth": truth}
    result = stage.loss({}, (seed,))
    return result["view"], result["truth"]


def test_flip_turns_views_and_the_horizontal_flow():
    view, truth = compared("--flip", "1")
    assert torch.equal(view, VIEWS[1].flip(-1))
    assert torch.equal(truth[:, 0], -TRUTH[:, 0].flip(-1)) and torch.equal(truth[:, 1], TRUTH[:, 1].flip(-1))


@pytest.mark.parametrize("words", [["--flip", "0"], ["--use-crop", "0"]])
def test_without_a_flip_views_and_flow_are_unchanged(words):
    for number in range(10):  # with the default --flip 0.4, some of these would be flipped
        view, truth = compared(*words, seed=number)
        assert torch.equal(view, VIEWS[1]) and torch.equal(truth, TRUTH)
