"""The command line: released names and defaults, the stages' settings, and messages about mistakes."""
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
    checkname="test", log_folder="./logs", reset_optimizer=True, reset_best_pred=True, resume="0", visualization=False,
    scale=0.75,
)


@pytest.mark.parametrize("name", RELEASED)
def test_released_flag_keeps_name_and_default(name, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert getattr(parse([]), name) == RELEASED[name]
    default = RELEASED[name]
    values = default if isinstance(default, tuple) else [int(default) if isinstance(default, bool) else default]
    words = [str(value) for value in values]
    assert getattr(parse(["--" + name.replace("_", "-"), *words]), name) == default


def test_local_rank_in_either_spelling_or_from_the_environment(monkeypatch):
    assert parse(["--local_rank", "3"]).local_rank == 3
    assert parse(["--local-rank=2"]).local_rank == 2
    monkeypatch.setenv("LOCAL_RANK", "5")
    assert parse([]).local_rank == 5
    for wrong in ("x", "-3"):
        monkeypatch.setenv("LOCAL_RANK", wrong)
        with pytest.raises(UserError,
                           match="LOCAL_RANK in the environment must be a whole number|--local-rank must be"):
            parse([])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--segnt", "bisenet"], r"unknown option --segnt \(did you mean --segnet\?\)"),
        (["--segnet", "swifnet"],
         r"--segnet: invalid value 'swifnet' \(did you mean swiftnet\?\); choose from swiftnet, bisenet"),
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
        (["--use-crop", "0", "--flip", "0.5"], "--flip: --use-crop 0 switches off all augmentation, the flip too"),
        (["--recipe", "camvid-flo"],
         r"--recipe: invalid value 'camvid-flo' \(did you mean camvid-flow\?\); choose from demo-segmenter"),
        (["--evaluate", "1", "--split", "val", "test"], "--split takes one split with --evaluate 1, not 2"),
        (["--split", "val"], "--split has an effect only with --evaluate 1 or --check 1; add one of them or drop it"),
        (["--pictures", "3"], "--pictures has an effect only with --check 1"),
        (["--check", "1", "--pictures", "-1"], "--pictures must be at least 0, not -1"),
        (["--check", "1", "--output", "a", "b"], "--output takes one folder with --check 1, not 2 names"),
        (["--check", "1", "--evaluate", "1"], "--evaluate 1 and --check 1 exclude each other"),
    ],
)
def test_message_names_the_mistake_and_the_fix(words, message):
    with pytest.raises(UserError, match=message):
        parse(words)


def test_segmenter_stage_has_its_own_defaults_and_the_command_line_wins():
    swiftnet = parse(["--stage", "segnet"])
    assert (swiftnet.optim, swiftnet.lr, swiftnet.batch_size, swiftnet.epoch) == ("adam", 4e-4, 14, 250)
    assert (swiftnet.crop_height, swiftnet.crop_width, swiftnet.random_scale) == (768, 768, (0.5, 2.0))
    bisenet = parse(["--stage", "segnet", "--segnet", "bisenet", "--lr", "0.1"])
    assert (bisenet.optim, bisenet.lr, bisenet.crop_height) == ("sgd", 0.1, 1024)


def test_adam_of_the_propagation_has_the_released_weight_decay_and_constant_rates():
    adam = parse(["--optim", "adam"])
    assert (adam.weight_decay, adam.lr_gamma, adam.lr, adam.guide_lr) == (1e-4, 1.0, 0.01, 0.04)
    given = parse(["--optim", "adam", "--weight-decay", "5e-4", "--lr-gamma", "0.992"])
    assert (given.weight_decay, given.lr_gamma) == (5e-4, 0.992)
    sgd = parse(["--optim", "sgd"])
    assert (sgd.weight_decay, sgd.lr_gamma) == (5e-4, 0.992)
    assert parse(["--stage", "segnet", "--segnet", "bisenet", "--optim", "adam"]).weight_decay == 5e-4


def test_no_crop_without_a_given_flip_is_accepted():
    assert not parse(["--use-crop", "0"]).use_crop
    assert not parse(["--use-crop", "0", "--flip", "0"]).use_crop
    assert not parse(["--recipe", "demo-segmenter", "--use-crop", "0"]).use_crop  # the recipe's flip is not the user's


def test_check_reads_all_splits_by_default():
    options = parse(["--check", "1", "--dataset", "camvid"])
    assert (options.check, options.split, options.pictures, options.output) == (True, (), 6, ())
    assert parse(["--check", "1", "--split", "train", "val", "--output", "here"]).split == ("train", "val")


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
