"""Stages tdnet and accel: what a step trains, on which frames, by which teacher and at which rates."""
import numpy as np
import pytest
import torch

from config.command_line import parse
from config.errors import UserError
from dataloaders.loaders import TrainingLoader
from inference.keyframe_schedule import FixedInterval
from inference.stream import VideoSegmenter
from models.flow_none import NoFlow
from models.gsvnet import GSVNet, segment
from models.guided_conv import GuidedConv
from models.released import SEGMENTER_FILES
from models.resize import align
from models.segmenters.base import TrainingRecipe
from models.segmenters.deeplab import DeepLab18, DeepLab101
from streets import StreetSettings, ensure_streets
from tests.models.tiny_video_networks import lively, network_of, small  # noqa: F401 - a fixture
from trainer import optim
from trainer.stages import stage_of
from utils.distributed import Ranks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def long_streets(tmp_path_factory):
    """Sequences that hold clips of seven frames."""
    settings = StreetSettings(height=64, width=128, train=2, val=1, length=9, seed=11)
    return ensure_streets(tmp_path_factory.mktemp("data") / "streets", settings, workers=1)


@pytest.fixture(scope="module")
def parts(small, tmp_path_factory):  # noqa: F811
    """Words that name the files of Accel's parts, and those files' tensors."""
    folder = tmp_path_factory.mktemp("parts")
    whole = lively(network_of("accel18", 19).segmenter).state_dict()
    names = {kind.__name__: {*kind(19).state_dict()} for kind in (DeepLab101, DeepLab18)}
    names["flow"] = {name for name in whole if "correction" not in name} - names["DeepLab101"] - names["DeepLab18"]
    for name, part in names.items():
        torch.save({name: whole[name] for name in part}, folder / f"{name}.pth")
    options = ("--deeplab101", "--deeplab18", "--flow-weights")
    return [word for pair in zip(options, (str(folder / f"{name}.pth") for name in names)) for word in pair]


@pytest.fixture
def stage_for(small, long_streets):  # noqa: F811
    """A stage as the program builds it."""

    def build(*words, ranks=Ranks()):
        options = parse([
            "--dataset", "synthetic", "--data-path", str(long_streets), "--num-worker", "0", "--batch-size", "2",
            "--crop-height", "64", "--crop-width", "96", "--epoch", "2", "--eval-multi-step", "1", *map(str, words),
        ])
        torch.manual_seed(1)
        return stage_of(options)(options, CPU, ranks, None)

    return build


def batch_of(stage, interval=None):
    loader = TrainingLoader(stage.passes, batch=2, workers=0, mixed=True)
    return next(loader.start(interval or next(iter(stage.passes)), seed=(1, 0))[1])


def step(stage, batch, number=0) -> dict:
    losses = stage.loss(batch, (1, 0, 0, number))
    stage.optimizer.zero_grad(set_to_none=True)
    losses["total"].backward()
    stage.optimizer.step()
    stage.scheduler.step()
    return {name: float(x.detach()) for name, x in losses.items()}


def test_iteration_trains_its_path_and_the_sub_networks_of_all(stage_for):
    stage = stage_for("--stage", "tdnet")
    batch = batch_of(stage)
    stage.train_mode()
    for number in range(6):
        losses = step(stage, batch, number)
        learning = {name for name, x in stage.segmenter.named_parameters() if x.grad is not None and x.grad.any()}
        present = number % 4 + 1
        for path in range(1, 5):
            own = {f"head{path}.weight", f"aux{path}.weight", f"enc{path}.w_ks.1.conv.weight"} - {
                f"enc{present}.w_ks.1.conv.weight"}
            assert own <= learning if path == present else not (own - {f"enc{path}.w_ks.1.conv.weight"}) & learning
            assert f"trunk{path}.0.weight" in learning
        assert {name[3] for name in learning if name.startswith("atn")} == {str(present)}
        assert losses["distillation"] == 0
        assert losses["total"] == pytest.approx(losses["out"] + losses["sub"] + losses["auxiliary"])


def test_gaps_between_frames_are_drawn_and_the_labelled_frame_is_the_last(stage_for):
    stage, found = stage_for("--stage", "tdnet", "--multi-step", 1, 2), set()
    (length,) = stage.passes
    assert length == 6
    for seed in range(40):
        chosen = stage._chosen(7, [1, seed])
        assert chosen == stage._chosen(7, [1, seed]) and chosen[-1] == 6
        found.add(tuple(np.diff(chosen)))
    assert found == {(a, b, c) for a in (1, 2) for b in (1, 2) for c in (1, 2)}
    clip = torch.arange(7, dtype=torch.uint8).view(1, 7, 1, 1, 1).expand(2, 7, 64, 96, 3)
    images, _ = stage._inputs({"clip": clip, "label": torch.zeros(2, 64, 96, dtype=torch.uint8)}, (1, 0, 0, 3))
    expected = [stage._chosen(7, [1, 0, 0, 3, n]) for n in range(2)]
    assert [[int(x) for x in one[:, 0, 0, 0]] for one in images] == expected
    with pytest.raises(UserError, match="no labelled train frame has 9 frames before it, which --multi-step 3"):
        stage_for("--stage", "tdnet", "--multi-step", 1, 3)


def test_teachers_logits_reach_the_loss(stage_for, weights, monkeypatch):
    file = weights / SEGMENTER_FILES["swiftnet"]
    stage = stage_for("--stage", "tdnet", "--teacher", "swiftnet", "--teacher-weights", file)
    batch, seen = batch_of(stage), []
    assert not stage.teacher.training and not any(x.requires_grad for x in stage.teacher.parameters())
    assert step(stage, batch)["distillation"] > 0
    frozen = {name: x.clone() for name, x in stage.teacher.state_dict().items()}
    stage.train_mode()
    criterion = stage.criterion
    stage.criterion = lambda outputs, label, *teachers: seen.append(teachers) or criterion(outputs, label, *teachers)
    watched = "trainer.stages.video_networks.segment"
    monkeypatch.setattr(watched, lambda net, frame: seen.append(frame) or segment(net, frame))
    step(stage, batch, 1)
    frame, (teacher,) = seen
    images, _ = stage._inputs(batch, (1, 0, 0, 1))
    assert torch.equal(frame, images[:, -1]) and not teacher.requires_grad
    assert all(torch.equal(x, frozen[name]) for name, x in stage.teacher.state_dict().items())
    with pytest.raises(UserError, match="--teacher: invalid value 'swiftnett'.*did you mean swiftnet"):
        stage_for("--stage", "tdnet", "--teacher", "swiftnett")


def test_only_the_fusion_is_trained(stage_for, parts):
    stage = stage_for("--stage", "accel", "--multi-step", 1, 4, *parts)
    assert [*stage.passes] == [1, 4]
    before = {name: x.clone() for name, x in stage.segmenter.state_dict().items()}
    stage.train_mode()
    for number, interval in enumerate((1, 4)):
        batch = batch_of(stage, interval)
        assert batch["clip"].shape[1] == interval + 1
        step(stage, batch, number)
    changed = {name for name, x in stage.segmenter.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {"correction.weight", "correction.bias"}
    groups = [(x["lr"], x["weight_decay"], [*map(id, x["params"])]) for x in stage.optimizer.param_groups]
    fusion = stage.segmenter.correction
    factor = stage.scheduler.lr_lambdas[0](2)
    assert groups == [(pytest.approx(1e-3 * factor), 5e-4, [id(fusion.weight)]),
                      (pytest.approx(2e-3 * factor), 0.0, [id(fusion.bias)])]


def test_parts_of_accel_come_from_their_files(stage_for, parts):
    state = stage_for("--stage", "accel", *parts).segmenter.state_dict()
    for path in parts[1::2]:
        for name, x in torch.load(path).items():
            assert torch.equal(state[name], x), name
    with pytest.raises(UserError, match="--stage accel trains the fusion .*: add --deeplab18, or train everything"):
        stage_for("--stage", "accel", *parts[:2], *parts[4:])
    with pytest.raises(UserError, match="DeepLab18.pth: does not fit the keyframe segmenter deeplab101"):
        stage_for("--stage", "accel", "--deeplab101", parts[3], *parts[2:])
    with pytest.raises(UserError, match="nothing.pth: not found .expected weights of a part of Accel.; name another"):
        stage_for("--stage", "accel", *parts[:4], "--flow-weights", "nothing.pth")


def test_all_but_the_upsampling_is_trained_on_demand(stage_for):
    stage = stage_for("--stage", "accel", "--multi-step", 2, "--finetune-all", 1, "--lr", 0.1)
    lively(stage.segmenter)
    before = {name: x.clone() for name, x in stage.segmenter.state_dict().items()}
    batch = batch_of(stage)
    stage.train_mode()
    for number in range(2):
        step(stage, batch, number)
    same = {name for name, x in stage.segmenter.state_dict().items() if torch.equal(x, before[name])}
    fixed = {"upsampling.weight", "18_upsampling.weight", "18_bn_data.weight"}
    assert {name for name in same if "num_batches" not in name} == fixed
    assert stage.segmenter.one_kernel
    trained = [id(p) for group in stage.optimizer.param_groups for p in group["params"]]
    assert len(trained) == len({*trained}) and {*trained} == {
        id(p) for p in stage.segmenter.parameters() if p.requires_grad}


def test_scores_of_the_keyframe_network_are_trained_with_it(stage_for, parts):
    """Even under a fusion that ignores both networks."""
    counts = {}
    for words in (parts, ["--finetune-all", 1]):
        stage = stage_for("--stage", "accel", "--multi-step", 2, *words)
        lively(stage.segmenter)
        torch.nn.init.zeros_(stage.segmenter.correction.weight)
        batch = batch_of(stage)
        stage.train_mode()
        stage.loss(batch, (1, 0, 0, 0))["total"].backward()
        head = [p.grad for p in stage.segmenter.deep.head.parameters()]
        counts[len(words)] = sum(grad is not None and bool(grad.abs().sum() > 0) for grad in head)
    assert counts[len(parts)] == 0 and counts[2] == len(head) > 0


def test_clip_of_a_step_is_the_stream_of_its_frames(stage_for, parts):
    """What the stages compute of a clip is what a stream has after its last frame."""
    for words, path in ((["accel", "--multi-step", 3, *parts], ()), (["tdnet", "--multi-step", 1], (3,))):
        stage = stage_for("--stage", *words, "--use-crop", 0)
        lively(stage.segmenter)
        clip, net = batch_of(stage)["clip"], GSVNet(stage.segmenter, NoFlow(), GuidedConv(19))
        outputs = stage.trained.eval()(stage.segmenter.normalise(clip.movedim(-1, -3)).unbind(1), *path)
        segmenter = VideoSegmenter(net, method=stage.method, scale=1.0, schedule=FixedInterval(9))
        labels = [[*segmenter.stream(frames.numpy())][-1] for frames in clip]
        expected = align(outputs[0], (64, 128)).argmax(1)
        assert len(expected.unique()) > 1 and (np.stack(labels) == expected.numpy()).mean() > 0.999


@pytest.mark.parametrize("words, size", [
    (("--stage", "tdnet", "--tdnet", "psp18"), "64 x 96; use --crop-height 769 --crop-width 1537"),
    (("--stage", "accel", "--finetune-all", 1, "--crop-width", 80), "64 x 80; choose .* multiples of 32"),
])
def test_sizes_that_do_not_fit_are_refused(stage_for, words, size):
    with pytest.raises(UserError, match=f"cannot be trained on images of {size}"):
        stage_for(*words, "--multi-step", 1)


def test_rates_of_the_recipes():
    steps = optim.of_recipe(TrainingRecipe(schedule="steps", warm_up=1000, drop=0.75), 40_000, lr=1.0)
    assert [steps(i) for i in (0, 999, 1000, 29_999, 30_000, 39_999)] == [0.1, 0.1, 1.0, 1.0, 0.1, 0.1]
    short = optim.of_recipe(TrainingRecipe(schedule="steps", warm_up=1000), 100, lr=1.0)
    assert [short(i) for i in (0, 4, 5, 99)] == [0.1, 0.1, 1.0, 1.0]
    tdnet = optim.of_recipe(TrainingRecipe(warm_up=1000, start=1e-3), 40_000, lr=1e-2)
    assert [tdnet(i) for i in (0, 500, 1000)] == pytest.approx([1e-3, 1000**-0.5, 1.0])
    assert tdnet(20_500) == pytest.approx(0.5**0.9) and tdnet(40_000) == 0


@pytest.mark.parametrize("words", [("--stage", "tdnet"), ("--stage", "accel", "--multi-step", 1, "--finetune-all", 1)])
def test_half_precision(stage_for, words):
    exact, half = (stage_for(*words, "--amp", amp) for amp in ("off", "bf16"))
    losses = [float(stage.loss(batch_of(stage), (1, 0, 0, 0))["total"].detach()) for stage in (exact, half)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)
