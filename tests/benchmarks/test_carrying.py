"""--benchmark carry: its rows, and what they say of copying and warping."""
import json

import pytest

from benchmarks import carrying
from benchmarks.carrying import TITLES
from main import main
from streets import StreetSettings, ensure_streets
from tests.films import panning, write_frames

WAYS = [name for name in TITLES if name not in ("warp learned", "gsv")]  # without a trained network
POSITIONS = ("--eval-multi-step", "1", "2", "4")


def carried(weights, folder, *words):
    """Run the benchmark on the CPU; the JSON that it writes."""
    path = folder / "carry.json"
    settings = ["--device", "cpu", "--weights-dir", str(weights), "--num-worker", "0", "--metrics-file", str(path)]
    assert main(["--benchmark", "carry", *settings, *POSITIONS, *map(str, words)]) == 0
    return json.loads(path.read_text())


def on_streets(streets):
    return "--dataset", "synthetic", "--data-path", streets


def on_pictures(folder):
    return "--dataset", "unlabelled", "--data-path", folder


def values(content):
    return [x for ways in content["rows"].values() for by_position in ways.values() for x in by_position]


def has_every_row(content, parts):
    return list(content["rows"]) == parts and all(
        list(ways) == WAYS and all(len(x) == 4 for x in ways.values()) for ways in content["rows"].values()
    )


@pytest.fixture(scope="module")
def long_streets(tmp_path_factory):
    """Sequences that reach beyond the frames that are not counted."""
    settings = StreetSettings(height=64, width=128, train=1, val=1, length=15, seed=4)
    return ensure_streets(tmp_path_factory.mktemp("data") / "long", settings, workers=1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("pictures"), panning([4] * 17, size=(128, 192)))


def test_dry_run_on_streets(streets, weights, tmp_path, capsys):
    content = carried(weights, tmp_path, *on_streets(streets), "--early-stop", 1)
    assert content["dry_run"] and has_every_row(content, ["all frames"])
    assert all(x is None or 0 <= x <= 1 for x in values(content))
    assert list(content["milliseconds"]) == WAYS and all(x > 0 for x in content["milliseconds"].values())
    printed = capsys.readouterr().out
    assert all(line in printed for line in content["table"]) and "128 x 64" in content["settings"]


def test_dry_run_counts_frames(pictures, weights, tmp_path):
    """Otherwise it does not try what the benchmark does."""
    content = carried(weights, tmp_path, *on_pictures(pictures), "--early-stop", 1, "--frame-size", 64, 96)
    assert has_every_row(content, ["all frames", "last 20%"]) and content["dry_run"]
    assert all(x is not None and 0 <= x <= 1 for x in content["rows"]["all frames"]["copy"])


def test_streets_are_scored_against_their_labels(long_streets, weights, tmp_path):
    content = carried(weights, tmp_path, *on_streets(long_streets))
    assert has_every_row(content, ["all frames"]) and all(0 < x < 1 for x in values(content))
    assert content["settings"].endswith("mIoU") and "DIS fine" in content["settings"]
    rows = content["rows"]["all frames"]
    assert rows["copy"][0] == rows["warp"][0] == rows["per-frame"][0]  # the keyframe itself
    assert rows["copy labels"][0] == rows["warp labels"][0]
    assert len({*rows["per-frame"]}) == 1  # the same frames count at every position


def test_videos_are_scored_by_agreement_with_the_segmenter(pictures, weights, tmp_path):
    content = carried(weights, tmp_path, *on_pictures(pictures))
    assert has_every_row(content, ["all frames", "last 20%"]) and all(0 < x <= 1 for x in values(content))
    assert "agree with the segmenter's own labels" in content["settings"] and "192 x 128" in content["settings"]
    for rows in content["rows"].values():
        assert rows["copy labels"][0] == rows["warp labels"][0] == 1 > rows["per-frame"][0]
        for k in (2, 3):  # two and four frames after the keyframe: the camera moves smoothly
            assert rows["warp labels"][k] > rows["copy labels"][k] and rows["warp"][k] > rows["copy"][k]
        assert rows["copy labels"][1] > rows["copy labels"][3]


def test_frames_are_brought_to_the_size_that_is_asked_for(pictures, long_streets, weights, tmp_path, monkeypatch):
    sizes = []
    real = carrying.milliseconds
    monkeypatch.setattr(carrying, "milliseconds", lambda engine, net, frames: sizes.append(
        {frame.shape for frame in frames}) or real(engine, net, frames))
    content = carried(weights, tmp_path, *on_pictures(pictures), "--frame-size", 64, 96)
    assert "96 x 64" in content["settings"] and values(content) and all(0 < x <= 1 for x in values(content))
    content = carried(weights, tmp_path, *on_streets(long_streets), "--frame-size", 96, 192)  # labels keep their size
    assert "192 x 96" in content["settings"] and all(0 < x < 1 for x in values(content))
    assert sizes == [{(64, 96, 3)}] * len(WAYS) + [{(96, 192, 3)}] * len(WAYS)


def test_all_positions_count_the_same_frames(pictures, weights, tmp_path, monkeypatch):
    """Of 18 frames those from the 13th on; of the last fifth, those from 0.8 x 18 on."""
    counts = {}

    def noted(tally, agreement):
        counts[len(counts)] = {x.frames for by in tally.matrices.values() for x in by.values()}
        return real(tally, agreement)

    real = carrying.values_of
    monkeypatch.setattr(carrying, "values_of", noted)
    carried(weights, tmp_path, *on_pictures(pictures), "--frame-size", 32, 48)
    assert counts == {0: {6}, 1: {3}}


@pytest.mark.parametrize("words, told", [
    (("--method", "copy"), "--benchmark carry compares copying and warping by itself; drop --method"),
    (("--split", "val"), "--split"),
    (("--reference", "segmenter"), "--reference has an effect only with --evaluate 1"),
])
def test_words_that_have_no_meaning_here_are_refused(pictures, words, told, capsys):
    assert main(["--benchmark", "carry", *map(str, on_pictures(pictures)), *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("more, without", [((), ()), (("--optical-flow-network", "dis"), ("warp learned",))])
def test_propagation_that_is_named_has_a_row(pictures, weights, tmp_path, more, without):
    content = carried(weights, tmp_path, *on_pictures(pictures), "--early-stop", 1, "--resume", 1, *more)
    assert list(content["rows"]["all frames"]) == [name for name in TITLES if name not in without]
