"""Descriptions of users' own data: what is read from them, and messages about mistakes."""
import copy
import itertools
import math
import sys

import numpy as np
import pytest
import yaml

from config.command_line import parse
from config.custom import Part, distinct_colours, read_custom
from config.datasets import dataset_config
from config.errors import UserError
from dataloaders.images import id_table, label_table

DOOR = "Data"
WHOLE = {
    "name": "harbour",
    "classes": {
        "water": {"id": 1, "colour": [30, 60, 160]},
        "quay": {"id": 0, "colour": [128, 128, 128], "weight": 4.5},
        "boat": {"ids": [7, 3, 255]},
    },
    "train": {"frames": "frames/train/*/*.jpg", "labels": "labels/train/*/*_mask.png", "step": 2},
    "val": {"frames": "frames/val/*.jpg", "labels": "labels/val/*.png", "video": False},
    "crop": [96, 128],
}


def write(folder, content) -> str:
    """Write the description to a file, a text unchanged. Return its path."""
    path = folder / "harbour.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return str(path)


def changed(*keys, value="left out") -> dict:
    """WHOLE with another value at the place that `keys` lead to, or without it."""
    content = copy.deepcopy(WHOLE)
    entry = content
    for key in keys[:-1]:
        entry = entry[key]
    if value == "left out":
        del entry[keys[-1]]
    else:
        entry[keys[-1]] = value
    return content


def test_everything_in_a_description_is_read(tmp_path):
    data = read_custom(write(tmp_path, WHOLE))
    config = data.config
    assert (config.name, config.classes, config.crop) == ("harbour", ("water", "quay", "boat"), (96, 128))
    assert (config.label_ids, config.also, config.class_weights) == ((1, 0, 7), ((3, 2), (255, 2)), (1.0, 4.5, 1.0))
    assert config.colours[:2] == ((30, 60, 160), (128, 128, 128)) and len(config.colours) == 3
    assert data.splits == {
        "train": (Part("frames/train/*/*.jpg", "labels/train/*/*_mask.png", True, 2),),
        "val": (Part("frames/val/*.jpg", "labels/val/*.png", False, None),),
    }


def test_ids_become_classes_and_predictions_use_the_first(tmp_path):
    config = dataset_config("custom", write(tmp_path, WHOLE))
    table = label_table(config)
    assert {int(i): int(table[i]) for i in np.flatnonzero(table != 250)} == {0: 1, 1: 0, 3: 2, 7: 2, 255: 2}
    assert id_table(config)[:3].tolist() == [1, 0, 7]


def test_optional_keys_can_be_left_out(tmp_path):
    content = {"classes": {"a": {"id": 1}, "b": {"id": 2}}, "val": WHOLE["val"]}
    data = read_custom(write(tmp_path, content))
    assert (data.config.name, data.config.crop, list(data.splits)) == ("harbour", None, ["val"])
    assert (data.config.class_weights, data.config.also) == ((1.0, 1.0), ())


def test_folder_stands_for_its_dataset_yaml(tmp_path):
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(WHOLE))
    assert read_custom(str(tmp_path)).file == tmp_path / "dataset.yaml"


def test_split_may_be_a_list_of_parts(tmp_path):
    content = changed("train", value=[WHOLE["train"], WHOLE["val"]])
    assert [part.video for part in read_custom(write(tmp_path, content)).splits["train"]] == [True, False]
    content["train"][1] = {"frames": "*.jpg", "labels": "*.png", "vidoe": True}
    with pytest.raises(UserError, match=r"harbour.yaml: train: part 2: unknown key vidoe \(did you mean video\?\)"):
        read_custom(write(tmp_path, content))


def test_options_use_crop_and_description(tmp_path):
    path = write(tmp_path, WHOLE)
    options = parse(["--dataset", "custom", "--data-path", path, "--stage", "segnet"])
    assert (options.dataset, options.data_path, options.crop_height, options.crop_width) == ("custom", path, 96, 128)
    assert parse(["--dataset", "custom", "--data-path", path, "--crop-width", "64"]).crop_width == 64


def test_250_classes_fit_and_get_different_colours(tmp_path):
    content = changed("classes", value={f"class {i}": {"id": i} for i in range(250)})
    config = read_custom(write(tmp_path, content)).config
    assert config.num_classes == 250 and len(set(config.colours)) == 250
    assert label_table(config)[249] == 249 and label_table(config)[250] == config.ignore


def test_aliases_are_supported(tmp_path):
    splits = "val: &files {frames: 'f/*.jpg', labels: 'l/*.png'}\ntrain: *files\n"
    data = read_custom(write(tmp_path, "classes: {a: {id: 0}, b: {id: 1}}\n" + splits))
    assert data.splits["train"] == data.splits["val"] == (Part("f/*.jpg", "l/*.png"),)


def test_generated_colours_are_reproducible_and_far_apart():
    taken = [(255, 0, 0), (0, 0, 255)]
    colours = distinct_colours(10, taken)
    assert colours == distinct_colours(10, taken)
    everything = [(0, 0, 0), (255, 255, 255), *taken, *colours]
    assert min(math.dist(a, b) for a, b in itertools.combinations(everything, 2)) > 100


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise("abcdefghij")
)
SPLITS = "val: {frames: 'f/*.jpg', labels: 'l/*.png'}\n"


@pytest.mark.tried(DOOR, "description of custom data with a mistake in it", "refused in one line")
@pytest.mark.parametrize(
    "content, message",
    [
        (changed("classes"), "harbour.yaml: classes: must have one entry per class, in order: NAME: {id: NUMBER}"),
        (changed("classes", value=["water", "quay"]), "classes: must have one entry per class"),
        (changed("classes", value={"boat": {"id": 1}}),
         "boat is the only class, .* add one for the other pixels, .*: background: {id: 0}"),
        (changed("classes", value={f"c{i}": {"id": 0} for i in range(251)}),
         "251 classes, the limit is 250; join some with ids: "),
        (changed("classes", "water", value=1),
         "classes: water: must be {id: ..., ...}, not 1; known keys: id, ids, colour, weight, role"),
        (changed("classes", "water", "color", value=[1, 2, 3]),
         r"classes: water: unknown key color \(did you mean colour\?\)"),
        (changed("classes", "water", "id"), "water: must have either id: NUMBER or ids: "),
        (changed("classes", "water", "ids", value=[5]), "water: must have either id: NUMBER or ids: "),
        (changed("classes", "boat", "ids", value=[]), r"boat: ids must be a list of numbers, not \[\]"),
        (changed("classes", "boat", "ids", value=3), "boat: ids must be a list of numbers, not 3"),
        (changed("classes", "quay", "id", value=1), "quay: id 1 belongs to water already; use each id once"),
        (changed("classes", "boat", "ids", value=[4, 5, 4]), "boat: id 4 belongs to boat already"),
        (changed("classes", "quay", "id", value=256),
         "quay: ids of 8-bit label files are whole numbers 0..255, not 256"),
        (changed("classes", "quay", "id", value=-1), "whole numbers 0..255, not -1"),
        (changed("classes", "quay", "id", value="2"), "whole numbers 0..255, not '2'"),
        (changed("classes", "quay", "id", value=True), "whole numbers 0..255, not True"),
        (changed("classes", "quay", "colour", value=[1, 2]),
         r"quay: colour must be \[RED, GREEN, BLUE\], each 0..255, not \[1, 2\]"),
        (changed("classes", "quay", "colour", value=[1, 2, 256]), "colour must be"),
        (changed("classes", "quay", "colour", value="grey"), "colour must be .* not 'grey'"),
        (changed("classes", "quay", "role", value="flying"),
         "quay: role must be one of movable, ground, sky, or left out .*, not 'flying'"),
        (changed("classes", "quay", "weight", value=0), "quay: weight must be a number above 0, not 0"),
        (changed("classes", "quay", "weight", value=math.inf), "weight must be a number above 0, not inf"),
        (changed("classes", "quay", "weight", value=math.nan), "weight must be a number above 0, not nan"),
        (changed("classes", "quay", "weight", value="4"), "weight must be a number above 0, not '4'"),
        (changed("classes", value={"on": {"id": 1}, "b": {"id": 2}}) | {"name": 5},
         "name must be text, not 5; put it in quotes"),
        (changed("trian", value={}),
         r"harbour.yaml: unknown key trian \(did you mean train\?\); known keys: name, classes, train, val, test,"),
        ({"classes": WHOLE["classes"]}, "harbour.yaml: no train, val or test is there; add one: train: {frames"),
        (changed("val", value="frames/*"), "val: must be {frames: ..., ...}, not 'frames/\\*'"),
        (changed("val", "labels"), 'val: labels is missing; add labels: GLOB, as labels: "labels/\\*/\\*.png"'),
        (changed("val", "frames", value="frames/a.jpg"),
         "val: frames: frames/a.jpg has no wildcard to tell files apart; put \\* in it"),
        (changed("val", "frames", value="**/a/**/*.jpg"),
         r"may contain \*\* \(folders of any depth\) once, before a file name"),
        (changed("val", "frames", value="frames/**"),
         "may contain \\*\\* .folders of any depth. once, before a file name"),
        (changed("val", "frames", value=7), "val: frames must be text, not 7"),
        (changed("val", "video", value="no"), "val: video must be true or false, not 'no'"),
        (changed("train", "step", value=0), "train: step must be a whole number, at least 1, not 0"),
        (changed("crop", value=[16, 128]),
         r"crop must be \[HEIGHT, WIDTH\] in pixels, each 32..16384, not \[16, 128\]"),
        (changed("crop", value=96), "crop must be .HEIGHT, WIDTH. .* not 96"),
        ("classes: {no: {id: 1}, b: {id: 2}}\nval: {}",
         "YAML does not read the class name False as text; put it in quotes"),
        ("classes:\n  water: {id: 1}\n  water: {id: 2}\n", "harbour.yaml, line 3: duplicate key water; keep one"),
        ("train: {}\nval: {}\ntrain: {}\n", "harbour.yaml, line 3: duplicate key train"),
        ("classes: [1, 2\nval: {}", r"harbour.yaml, line 2: not YAML \(.*\); see docs/custom_data.md"),
        ("name: \x07", r"harbour.yaml: not YAML \(special characters are not allowed\)"),
        ("a: &a {b: *a}", "harbour.yaml: unknown key a"),
        ("classes: &c {a: *c}", "harbour.yaml: classes: a: unknown key a"),
        (LAUGHS, r"harbour.yaml: unknown key a \(did you mean val\?\)"),
        (LAUGHS.replace("j: ", "crop: ") + "classes: {}", "harbour.yaml: unknown key a"),
        ("classes: {a: &a {id: 1}, b: {<<: *a}}\n", "harbour.yaml, line 1: << is not supported; write the keys out"),
        ("[" * 3000, "harbour.yaml: not YAML .maximum recursion depth exceeded"),
        ("classes:\n\twater: {id: 1}\n",
         "harbour.yaml, line 2: not YAML .found character '.t' that cannot start any token"),
        ("a: 1\n---\nb: 2\n", "harbour.yaml, line 2: not YAML .but found another document"),
        ("a: !own 1", "harbour.yaml, line 1: not YAML .could not determine a constructor for the tag '!own'"),
        (changed("crop", value=[10**20, 64]), "crop must be .HEIGHT, WIDTH. in pixels, each 32..16384"),
        (changed("crop", value=list(range(5000))), r"crop must be .* not \[0, 1, 2, 3, 4, 5, \.\.\.\]$"),
        (changed("name", value="x" * 200_000),
         "name must be a line of printable text, at most 100 characters, not 'xxx"),
        (changed("name", value="two\nlines"),
         r"name must be a line of printable text, at most 100 characters, not 'two\\nlines'"),
        (changed("name", value="\x1b[31mred"), "name must be a line of printable text"),
        (changed("classes", value={" ": {"id": 1}, "b": {"id": 2}}), "classes: class name must be text, not ' '"),
        (changed("classes", value={"a\nb": {"id": 1}, "b": {"id": 1}}),
         "classes: class name must be a line of printable text"),
        (changed("val", "frames", value="f\0/*.jpg"),
         "val: frames must be a line of printable text, at most 1000 characters"),
        ("name: '" + "x" * 9_000_000 + "'",
         "harbour.yaml: 9000008 bytes, too large for a description; choose a YAML file"),
        ("name: 2026-13-01", "harbour.yaml: not YAML .month must be in 1..12"),
        ("? [1, 2]\n: 3", "harbour.yaml, line 1: not YAML .found unhashable key"),
        ("", "harbour.yaml: must have classes, train and val at its top level"),
        ("- 1", "harbour.yaml: must have classes, train and val at its top level"),
    ],
)
def test_message_names_the_mistake_and_the_fix(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_custom(write(tmp_path, content))
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


@pytest.mark.tried(DOOR, "missing description of custom data", "refused in one line")
@pytest.mark.parametrize(
    "words, message",
    [
        ([], r"--dataset custom requires --data-path FILE.yaml, the description of your data \(docs/custom_data.md\)"),
        (["--data-path", "nowhere.yaml"],
         "nowhere.yaml: no such file; --data-path must be a description of your data .*; . holds harbour.yml"),
        (["--data-path", "."],
         ".: no dataset.yaml there; --data-path must be a description or its folder .*; . holds harbour.yml"),
    ],
)
def test_missing_description_is_asked_for(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harbour.yml").touch()
    with pytest.raises(UserError, match=message):
        parse(["--dataset", "custom", *words])


@pytest.mark.tried(DOOR, "description of custom data with a tag that would run code",
                   "refused in one line, nothing executed")
@pytest.mark.parametrize("tag",
                         ["!!python/object/apply:os.system", "!!python/object/new:os.system",
                          "!!python/object/apply:os.mkdir"])
def test_tags_execute_nothing(tmp_path, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    for place in ("{}", "classes: {}", "name: {}"):
        with pytest.raises(UserError,
                           match="harbour.yaml, line 1: not YAML .could not determine a constructor for the tag"):
            read_custom(write(tmp_path, place.replace("{}", f"{tag} ['mkdir made']")))
    assert [path.name for path in tmp_path.iterdir()] == ["harbour.yaml"]


@pytest.mark.tried(DOOR, "another file given as the description of custom data: a picture, an archive, noise",
                   "refused in one line")
@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"PK\x03\x04" + bytes(100), bytes(range(256)) * 8, b"PK", b"\xff\xfe",
                b"\0"]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "harbour.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match="harbour.yaml.*: (not YAML|must have classes, train and val)") as caught:
        read_custom(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.tried(DOOR, "description of custom data cut at every byte, and every byte of it changed")
def test_damaged_description_is_read_or_refused_in_one_line(outcomes, tmp_path):
    path = tmp_path / "harbour.yaml"
    whole = (f"classes:\n  water: {{id: 1, weight: 2.5}}\n  quay: {{ids: [2, 3], colour: [1, 2, 3]}}\n{SPLITS}crop: "
             f"[64, 96]\n").encode()
    damaged = [whole[:length] for length in range(len(whole))]
    flipped = itertools.product(range(len(whole)), range(8))
    damaged += [whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :] for place, bit in flipped]
    for content in damaged:
        path.write_bytes(content)
        try:
            read_custom(str(path))
            outcomes["read: still a valid description"] += 1
        except UserError as error:
            assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1
            outcomes["refused in one line"] += 1


def test_missing_yaml_package_is_named_with_the_command_to_install_it(tmp_path, monkeypatch):
    path = write(tmp_path, WHOLE)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(UserError, match="harbour.yaml: PyYAML is not installed; pip install -r requirements.txt"):
        read_custom(path)
