"""What a batch of the propagation stage becomes, before the networks."""
import pytest
import torch

from config.command_line import parse
from dataloaders.loaders import TrainingLoader
from tests.main.program import training
from tests.plain_gsvnet import plain_view
from tests.released import filled_gsvnet
from trainer.stages.propagation import PropagationStage
from utils.distributed import Ranks


@pytest.mark.parametrize("size", [(64, 96), (96, 160)])
@pytest.mark.parametrize("source", ["video", "stills"])
def test_first_and_last_view_show_the_augmented_frames(streets, weights, tmp_path, monkeypatch, source, size):
    """The views of a clip's ends are computed from its bytes and equal those of the augmented frames up to rounding."""
    monkeypatch.setattr(PropagationStage, "_check_crop", lambda *_: None)  # the second crop is larger than the frames
    net = filled_gsvnet("swiftnet", "light")
    crop = ["--crop-height", str(size[0]), "--crop-width", str(size[1])]
    options = parse([*training(streets, weights, tmp_path / "logs"), *crop, "--clip-source", source])
    stage = PropagationStage(options, torch.device("cpu"), Ranks(), None, net=net)
    for step, batch in enumerate(TrainingLoader(stage.passes, batch=2, workers=0).start(2, seed=(1, 0))[1]):
        ends, views, label = stage.inputs(batch, (1, 0, 0, step))
        assert len(views) == 3 and ends.shape == (2, 2, 3, *size) and label.shape == (2, *size)
        for view, frame in ((views[0], ends[:, 0]), (views[-1], ends[:, 1])):
            assert view.is_contiguous() and (view - plain_view(net, frame)).abs().max() < 1e-3
        if step == 3:
            return
