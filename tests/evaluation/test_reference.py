"""Evaluation against the segmenter's own labels: the labels, the agreement, consistency over time, and the files."""
import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from config.command_line import parse
from config.datasets import DATASETS
from dataloaders.eval_videos import VideoDataset, VideoFrame, videos_of, with_own_label
from dataloaders.loaders import labelled_frames
from evaluation.evaluate import Evaluation, Tally
from evaluation.evaluated_frames import evaluated_frames
from evaluation.metrics_json import read_metrics
from evaluation.temporal import REFERENCE, TemporalMeasures
from inference.engines import build_engines
from main import main
from models.gsvnet import segment
from models.resize import align
from tests.main.program import training
from tests.released import filled_gsvnet
from utils.distributed import Ranks
from utils.metrics import scores

CPU, CLASSES = torch.device("cpu"), 19
ROUNDING = 8  # pixels of a frame that may differ: folded networks round differently
KEYS = [  # of the metrics.json of an ordinary evaluation, as before there was a reference
    "dataset", "segnet", "flow", "intra", "edge", "method", "scale", "classes", "positions", "avg_miou", "pooled_miou",
    "min_miou", "intervals", "temporal_flow", "worst",
]


@pytest.fixture(autouse=True)
def without_charts(request, monkeypatch):
    """Drawing them takes longer than the evaluation of a few small frames."""
    if "files_of" not in request.node.name:
        monkeypatch.setattr("evaluation.report.svg", lambda *_: "")


@pytest.fixture(scope="module")
def net():
    return filled_gsvnet("swiftnet", "light")


@pytest.fixture(scope="module")
def videos(streets):
    return videos_of(labelled_frames(dataset="synthetic", root=streets, split="val", past=1))


@pytest.fixture(scope="module")
def items(videos):
    return VideoDataset(videos, DATASETS["synthetic"], with_labels=False)


@pytest.fixture(scope="module")
def own(net, videos, items):
    """The segmenter's labels of every frame at full size, video by video, without any of the evaluation's code."""
    found, number = [], 0
    for video in videos:
        found.append([])
        for _ in video:
            image = items[number]["image"]
            with torch.no_grad():
                logits = segment(net.segmenter, image.permute(2, 0, 1)[None], 0.75)
            found[-1].append(align(logits, tuple(image.shape[:2])).argmax(1)[0].to(torch.uint8))
            number += 1
    return found


def frames_of(net, videos, items, methods=("copy",), carry="labels", **settings):
    engines = build_engines(net, methods, scale=0.75, carry=carry, device=CPU)
    settings = {"positions": (0, 1, 2), "reference": True, **settings}
    return evaluated_frames(engines, videos, items, device=CPU, **settings)


def test_label_is_the_segmenters_own_at_full_size(net, videos, items, own):
    expected = [label for video in own for label in video]
    found = [frame.label for frame in frames_of(net, videos, items)]
    assert len(found) == len(expected) == 12
    for label, label_of_segmenter in zip(found, expected):
        assert label.dtype == torch.uint8 and label.shape == (64, 128)
        assert (label != label_of_segmenter).sum() <= ROUNDING
    assert len(torch.stack(found).unique()) > 3


def test_carried_labels_agree_entirely_at_the_keyframe_and_logits_on_the_grid_do_not(net, videos, items):
    shares = {}
    for carry in ("labels", "logits"):
        for frame in frames_of(net, videos[:1], items, carry=carry):
            shares.setdefault(carry, []).append(scores(frame.counts["copy"][0]).pixel_accuracy)
            assert torch.equal(frame.predictions["copy"][0], frame.label) or carry == "logits"
    assert shares["labels"] == [1.0] * 6 and all(0.5 < x < 1 for x in shares["logits"])


@pytest.mark.parametrize("method", ["copy", "per-frame"])
def test_agreement_equals_a_direct_count(net, videos, items, own, method):
    """A copied label map agrees where the labels of two frames do."""
    tally = Tally(CLASSES, methods=[method], positions=(0, 1, 2))
    carry = "labels" if method == "copy" else "logits"
    for frame in frames_of(net, videos, items, [method], carry):
        tally.add(frame)
        for k in frame.positions:
            agree = (frame.predictions[method][k] == frame.label).float().mean()
            assert scores(frame.counts[method][k]).pixel_accuracy == pytest.approx(float(agree), abs=1e-6)
    if method == "copy":
        for k, matrix in tally.matrices[method].items():
            pairs = [(video[t], video[t - k]) for video in own for t in range(k, len(video))]
            expected = np.mean([float((a == b).float().mean()) for a, b in pairs])
            assert matrix.frames == len(pairs) == 12 - 2 * k
            assert scores(matrix.counts).pixel_accuracy == pytest.approx(expected, abs=2 * ROUNDING / (64 * 128))


def test_consistency_of_the_reference_equals_a_count_by_hand(net, videos, items, own):
    """With a flow that moves every pixel one to the right and two down."""
    def flow(first, second):
        assert first.shape == second.shape == (64, 128, 3)
        return torch.tensor([1.0, 2.0]).expand(64, 128, 2)

    measures = TemporalMeasures(CLASSES, methods=["copy"], intervals=[1, 2], flow=flow, reference=True)
    for frame in frames_of(net, videos, items, carry="labels", intervals=(1, 2)):
        measures.add(frame)
    found = measures.results(CPU)
    both, either = np.zeros(CLASSES), np.zeros(CLASSES)
    for video in own:
        for before, after in pairwise(video):
            here, there = before[:-2, :-1].numpy(), after[2:, 1:].numpy()
            for c in range(CLASSES):
                both[c] += ((here == c) & (there == c)).sum()
                either[c] += ((here == c) | (there == c)).sum()
    expected = np.mean(both[either > 0] / either[either > 0])
    (interval, row), = found[REFERENCE].items()
    assert interval == 1 and row.pairs == 10 and 0 < expected < 1
    assert row.tc == pytest.approx(expected, abs=2e-3)
    assert row.tc_visible is None  # forward and backward flow contradict each other everywhere
    assert found["copy"][1].tc == row.tc != found["copy"][2].tc  # at interval 1 every label map is the segmenter's own


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("temporal", [True, False])
def test_processes_share_every_frame_once(streets, ranks, temporal):
    words = ["--dataset", "synthetic", "--data-path", str(streets), "--evaluate", "1", "--reference", "segmenter"]
    options, names = parse([*words, "--method", "copy", "--num-worker", "0"]), []
    for rank in range(ranks):
        evaluation = Evaluation(options, CPU, Ranks(rank=rank, count=ranks), temporal=temporal)
        names += [frame.path.name for video in evaluation.videos for frame in video if frame.labelled is not None]
    assert len(names) == len(set(names)) == 12


def test_predictions_of_frames_without_a_label_do_not_collide():
    """Frames are often numbered anew in every folder."""
    frames = [with_own_label(VideoFrame(Path("clips", name, "frames", "0001.png"))) for name in ("a", "b")]
    assert len({frame.labelled.prediction for frame in frames}) == 2


def evaluated(streets, weights, logs, *more):
    """The run folder of `--evaluate 1`."""
    assert main([*training(streets, weights, logs), "--evaluate", "1", *map(str, more)]) == 0
    return max(logs.glob("run/*/*/experiment_*"))


OWN = ("--reference", "segmenter", "--method", "copy", "--carry", "labels")


def test_files_of_an_evaluation_against_the_segmenter(streets, weights, tmp_path, capsys):
    folder = evaluated(streets, weights, tmp_path, *OWN, "--eval-multi-step", 1, 2)
    content = json.loads((folder / "metrics.json").read_text())
    assert content["reference"] == "segmenter" and content["carry"] == "labels"
    assert set(content) == {*KEYS, "reference", "carry", "reference_temporal", "milliseconds"}
    metrics = read_metrics(folder / "metrics.json")
    assert json.dumps(metrics.to_json()) == json.dumps(content)
    times = metrics.milliseconds
    assert list(times) == ["1", "2", "3", "4", "5"] and all(math.isfinite(x) and x > 0 for x in times.values())
    assert times["1"] > times["2"] > times["5"]  # a copy costs less than the segmenter
    assert metrics.reference_temporal.pairs == 10 and 0 < metrics.reference_temporal.tc < 1
    assert metrics.positions[0].pixel_accuracy == 1.0 == metrics.positions[0].miou
    assert [row.frames for row in metrics.positions] == [12, 10, 8]
    assert metrics.intervals[0].temporal.tc == pytest.approx(metrics.reference_temporal.tc)
    printed, page = capsys.readouterr().out, (folder / "report.html").read_text()
    for text in (printed, page, (folder / "metrics.md").read_text()):
        assert "TC of the segmenter&#39;s own labels" in text or "TC of the segmenter's own labels" in text
        assert "Milliseconds a frame by keyframe interval" in text
    assert page.rstrip().endswith("</html>") and "compared with the segmenter" in page


def test_label_files_are_not_read(streets, weights, tmp_path):
    harmed = shutil.copytree(streets, tmp_path / "streets")
    labels = [*harmed.rglob("*labelIds.png")]
    assert len(labels) == 30
    for number, path in enumerate(labels):
        path.write_bytes(b"not a picture" if number % 2 else b"")
    found = [
        read_metrics(evaluated(data, weights, tmp_path / name, *OWN, "--early-stop", 1) / "metrics.json")
        for name, data in (("whole", streets), ("harmed", harmed))
    ]
    assert found[0].positions == found[1].positions and found[0].reference_temporal == found[1].reference_temporal


def test_ordinary_evaluation_has_the_keys_that_it_always_had(streets, weights, tmp_path):
    folder = evaluated(streets, weights, tmp_path, "--resume", 1)
    assert list(json.loads((folder / "metrics.json").read_text())) == KEYS
    assert read_metrics(folder / "metrics.json").reference == "labels"


@pytest.mark.parametrize("words", [("--method", "gsv", "--resume", "1"), ("--method", "per-frame")])
def test_every_method_is_compared_with_the_segmenter(streets, weights, tmp_path, words):
    folder = evaluated(streets, weights, tmp_path, "--reference", "segmenter", "--early-stop", 1, *words)
    metrics = read_metrics(folder / "metrics.json")
    assert metrics.method == words[1] and 0 < metrics.positions[1].pixel_accuracy < 1
    assert all(x > 0 for x in metrics.milliseconds.values())


def test_predictions_of_every_frame_are_saved(streets, weights, tmp_path):
    evaluated(streets, weights, tmp_path / "logs", *OWN, "--save-predictions", tmp_path / "out")
    counts = {folder.name: len([*folder.rglob("*.png")]) for folder in (tmp_path / "out").iterdir()}
    assert counts == {"position_0": 12, "position_1": 10}
