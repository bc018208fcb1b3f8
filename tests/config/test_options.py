"""The command line: released names and defaults, stages' recipes, and answers to mistakes."""
import pytest

from config.camvid import CAMVID
from config.cityscapes import CITYSCAPES
from config.command_line import parse
from config.errors import UserError

RELEASED = dict(
    local_rank=0, freeze_bn=False, num_worker=4, lr=0.01, guide_lr=0.04, lr_gamma=0.992, weight_decay=5e-4, param_ce=10,
    param_ce_distil=10, intra=True, train_filter=False, distil=True, optim="sgd", load_flow=True, finetune_all=False,
    batch_size=8, seed=1, epoch=100, crop_height=768, crop_width=1536, use_crop=True, early_stop=False,
    dataset="cityscapes_2k", multi_step=(1, 2, 3, 4), eval_multi_step=(1, 2, 3, 4), eval_single=True, segnet="swiftnet",
    optical_flow_network="light", optical_flow_lr=1e-4, train_optical_flow=True, evaluate=False, eval_interval=1,
    checkname="test", log_folder="./logs", reset_optimizer=True, reset_best_pred=True, resume="0", visualization=False, scale=0.75,
)


@pytest.mark.parametrize("name", RELEASED)
def test_released_flag_keeps_name_and_default(name, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert getattr(parse([]), name) == RELEASED[name]
    default = RELEASED[name]
    words = [str(x) for x in default] if isinstance(default, tuple) else [str(int(default) if isinstance(default, bool) else default)]
    assert getattr(parse(["--" + name.replace("_", "-"), *words]), name) == default


def test_launchers_local_rank_in_either_spelling_or_the_environment(monkeypatch):
    assert parse(["--local_rank", "3"]).local_rank == 3
    assert parse(["--local-rank=2"]).local_rank == 2
    monkeypatch.setenv("LOCAL_RANK", "5")
    assert parse([]).local_rank == 5
    for wrong in ("x", "-3"):
        monkeypatch.setenv("LOCAL_RANK", wrong)
        with pytest.raises(UserError, match="LOCAL_RANK in the environment must be a whole number|--local-rank must be at least 0"):
            parse([])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--segnt", "bisenet"], r"unknown option --segnt \(did you mean --segnet\?\)"),
        (["--segnet", "swifnet"], r"--segnet: invalid value 'swifnet' \(did you mean swiftnet\?\); choose from swiftnet, bisenet"),
        (["stray"], "unknown option stray"),
        (["--batch-size", "0"], "--batch-size must be at least 1, not 0"),
        (["--lr", "-1"], "--lr must be greater than 0, not -1"),
        (["--lr", "nan"], "--lr: must be a finite number, not 'nan'"),
        (["--epoch", "two"], "--epoch: must be a whole number, not 'two'"),
        (["--distil", "yes"], "--distil: must be 0 or 1"),
        (["--lr-gamma", "1.5"], "--lr-gamma must be at most 1"),
        (["--eval-single", "0", "--eval-multi-step"], "nothing to evaluate"),
        (["--random-scale", "2", "1"], "the lower bound first"),
        (["--multi-step", "0"], "--multi-step must be at least 1"),
    ],
)
def test_mistake_is_named_with_its_remedy(words, message):
    with pytest.raises(UserError, match=message):
        parse(words)


def test_segmenter_stage_takes_its_own_recipe_and_the_command_line_wins():
    swiftnet = parse(["--stage", "segnet"])
    assert (swiftnet.optim, swiftnet.lr, swiftnet.batch_size, swiftnet.epoch) == ("adam", 4e-4, 14, 250)
    assert (swiftnet.crop_height, swiftnet.crop_width, swiftnet.random_scale) == (768, 768, (0.5, 2.0))
    bisenet = parse(["--stage", "segnet", "--segnet", "bisenet", "--lr", "0.1"])
    assert (bisenet.optim, bisenet.lr, bisenet.crop_height) == ("sgd", 0.1, 1024)


@pytest.mark.parametrize("dataset, size", [("camvid", (352, 480)), ("synthetic", (192, 384))])
def test_small_data_sets_have_small_crops(dataset, size):
    options = parse(["--dataset", dataset])
    assert (options.crop_height, options.crop_width) == size


def test_class_tables():
    assert CITYSCAPES.num_classes == 19 and CAMVID.num_classes == 11
    for config in (CITYSCAPES, CAMVID):
        assert len(config.label_ids) == len(config.colours) == len(config.class_weights) == config.num_classes
    assert CITYSCAPES.label_ids == (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    assert CITYSCAPES.colours[CITYSCAPES.classes.index("sky")] == (70, 130, 180)
    assert CITYSCAPES.class_weights[17] == 48.21080448 and CAMVID.class_weights[6] == 47.70112012347462
