"""What a batch of the propagation stage becomes, before the networks."""
import numpy as np
import pytest
import torch

from config.command_line import parse
from dataloaders.loaders import TrainingLoader
from models.flow_dis import DISFlow
from models.resize import align
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
        ends, views, label, _ = stage.inputs(batch, (1, 0, 0, step))
        assert len(views) == 3 and ends.shape == (2, 2, 3, *size) and label.shape == (2, *size)
        for view, frame in ((views[0], ends[:, 0]), (views[-1], ends[:, 1])):
            assert view.is_contiguous() and (view - plain_view(net, frame)).abs().max() < 1e-3
        if step == 3:
            return


@pytest.mark.parametrize("source", ["video", "stills"])
def test_classical_flow_compares_each_frame_of_the_clip_with_the_one_before(
    streets, weights, tmp_path, monkeypatch, source
):
    """Without augmentation, what is compared shows what the views show; the flow of a step goes with its view."""
    pairs = []

    def between(self, previous, current, size):
        pairs.append((previous, current))
        return np.full((2, *size), len(pairs), np.float32)

    monkeypatch.setattr(DISFlow, "between", between)
    net = filled_gsvnet("swiftnet", "dis")
    words = ["--optical-flow-network", "dis", "--clip-source", source, "--use-crop", "0"]
    options = parse([*training(streets, weights, tmp_path / "logs"), *words])
    stage = PropagationStage(options, torch.device("cpu"), Ranks(), None, net=net)
    batch = next(iter(TrainingLoader(stage.passes, batch=1, workers=0).start(2, seed=(1, 0))[1]))
    _, views, _, flows = stage.inputs(batch, (1, 0, 0, 0))
    assert torch.allclose(flows[1], 2 * flows[0]) and flows[0].min() > 0
    assert all(flow.shape == (1, 2, *views[0].shape[-2:]) for flow in flows)
    weights_of_grey = torch.tensor([0.114, 0.587, 0.299]).view(3, 1, 1)  # BGR
    shown = []
    for view in views:
        rgb = view[0].flip(0) * net.view.std + net.view.mean
        shown.append((rgb.flip(0) * weights_of_grey).sum(0).numpy())
    assert np.abs(shown[0] - shown[1]).mean() > 3
    for (previous, current), *pair in zip(pairs, shown, shown[1:]):
        for look, grey in zip((previous, current), pair):
            small = align(torch.from_numpy(look)[None, None].float(), grey.shape)[0, 0].numpy()
            assert np.abs(small - grey).mean() < 2.5
