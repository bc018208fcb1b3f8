"""Recipes set what the commands behind the figures set; --help and docs/options.md show all options and recipes."""
import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from config.command_line import parse
from config.options import FIELDS, Options, flag, groups
from config.recipes import RECIPES
from docs.make_options import options_page
from main import main

ROOT = Path(__file__).resolve().parents[2]
CAMVID_PROPAGATION = (
    "--clip-source stills --dataset camvid --data-path CAMVID --segnet-weights SEGNET --flow-weights FLOW "
    "--train-optical-flow 0 --optim adam --weight-decay 0 --batch-size 8 --crop-height 192 --crop-width 288 "
    "--random-scale 0.6 1.1 "
)
DEMO = (
    "--dataset synthetic --pretrained-backbone 0 --num-worker 2 --eval-multi-step 1 2 --multi-step 1 2 --scale 0.75 "
    "--optim adam "
)
LONG = {  # the commands as docs/results.md gave them, and the demonstration's settings, before there were recipes
    "demo-segmenter": DEMO + "--stage segnet --lr 2e-3 --weight-decay 1e-4 --batch-size 8 --epoch 5 --flip 0.5 "
    "--crop-height 128 --crop-width 256 --random-scale 0.5 1.0 --eval-interval 5",
    "demo-flow": DEMO + "--stage flow --lr 2e-3 --weight-decay 0 --batch-size 16 --epoch 6 --eval-interval 6 "
    "--crop-height 192 --crop-width 384",
    "demo-propagation": DEMO + "--lr 1e-3 --guide-lr 2e-3 --optical-flow-lr 1e-4 --lr-gamma 0.6 --weight-decay 0 "
    "--batch-size 4 --epoch 2 --eval-interval 2 --crop-height 160 --crop-width 320 --random-scale 1 1 "
    "--segnet-weights SEGNET --flow-weights FLOW",
    "streets-segmenter": "--stage segnet --dataset synthetic --data-path STREETS --pretrained-backbone 0 --epoch 14 "
    "--lr 2e-3 --batch-size 8 --crop-height 160 --crop-width 320 --random-scale 0.5 1.0 --scale 0.75 --eval-interval 7 "
    "--checkname streets",
    "streets-flow": "--stage flow --dataset synthetic --data-path STREETS --epoch 6 --lr 2e-3 --batch-size 16 "
    "--checkname streets",
    "streets-propagation": "--dataset synthetic --data-path STREETS --segnet-weights SEGNET --flow-weights FLOW "
    "--optim adam --lr 1e-3 --guide-lr 2e-3 --optical-flow-lr 1e-4 --lr-gamma 0.9 --weight-decay 0 --batch-size 4 "
    "--epoch 2 --crop-height 160 --crop-width 320 --random-scale 1 1 --checkname streets",
    "camvid-segmenter": "--stage segnet --dataset camvid --data-path CAMVID --pretrained-backbone 0 --epoch 60 "
    "--lr 1e-3 --batch-size 8 --crop-height 192 --crop-width 256 --random-scale 0.45 1.1 --scale 0.75 --eval-interval "
    "10 "
    "--checkname camvid",
    "camvid-flow": "--stage flow --clip-source stills --dataset camvid --data-path CAMVID --epoch 40 --lr 2e-3 "
    "--batch-size 16 --checkname stills",
    "camvid-propagation": CAMVID_PROPAGATION + "--lr 1e-3 --guide-lr 2e-3 --lr-gamma 0.6 --epoch 3 --checkname first",
    "camvid-propagation-long": CAMVID_PROPAGATION.replace("--flow-weights FLOW ", "")
    + "--resume FIRST --multi-step 3 4 --lr 4e-4 --guide-lr 8e-4 --lr-gamma 0.4 --epoch 2 --checkname second",
    "unlabelled": "--dataset unlabelled --data-path VIDEOS --segnet torchvision:deeplabv3_resnet50",
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_sets_what_the_long_command_set(name):
    program, *words = shlex.split(RECIPES[name].command)
    assert (program, words[:3]) == ("python", ["main.py", "--recipe", name])
    assert dataclasses.replace(parse(words[1:]), recipe="") == parse(shlex.split(LONG[name]))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_states_figure_time_and_machine(name):
    recipe = RECIPES[name]
    results = (ROOT / "docs" / "results.md").read_text()
    assert all(figure in results for figure in re.findall(r"\d+\.\d+", recipe.expected))
    assert "minutes on" in recipe.time and "2026" in recipe.time
    assert set(recipe.settings) <= set(FIELDS)


def test_given_options_override_the_recipe():
    options = parse(["--recipe", "camvid-segmenter", "--epoch", "3", "--dataset", "synthetic", "--scale", "1"])
    assert (options.epoch, options.dataset, options.scale, options.lr) == (3, "synthetic", 1.0, 1e-3)
    assert options.data_path == "./data/synthetic"


def test_recipe_and_demonstration_set_the_same():
    for name in ("demo-segmenter", "demo-flow", "demo-propagation"):
        settings = RECIPES[name].settings
        assert {key: getattr(parse(["--recipe", name]), key) for key in settings} == settings


def test_every_option_is_in_one_group_and_the_common_ones_come_first():
    names = [name for group in groups().values() for name in group]
    assert sorted(names) == sorted(FIELDS) and len(set(names)) == len(names)
    common = next(iter(groups().values()))
    assert 12 <= len(common) <= 18 and {"stage", "evaluate", "dataset", "resume", "video"} <= set(common)
    assert len(groups()) > 5 and all(groups().values())


def test_help_shows_common_options_first_then_groups_and_recipes(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert text.index("common options:") < text.index("--stage") < text.index("networks:") < text.index("--edge")
    assert all(flag(name) in text for name in FIELDS) and all(f"\n  {name} " in text for name in RECIPES)


def test_options_page_is_up_to_date():
    page = (ROOT / "docs" / "options.md").read_text()
    assert page == options_page() + "\n", "python -m docs.make_options > docs/options.md"
    assert all(f"`{flag(name)} " in page for name in FIELDS)


def test_plain_options_are_the_defaults_of_the_command_line(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert parse([]) == dataclasses.replace(Options(), data_path="./data/cityscapes")
