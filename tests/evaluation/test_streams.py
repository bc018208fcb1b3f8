"""Evaluation of streams, whose keyframes a schedule chooses, against VideoSegmenter on the same frames."""
import contextlib
import json
import shutil
import signal
from collections import Counter

import numpy as np
import pytest
import torch

from config.command_line import parse
from config.datasets import DATASETS
from dataloaders.eval_videos import VideoDataset, videos_of
from dataloaders.loaders import labelled_frames
from evaluation.metrics_json import read_metrics
from inference.keyframe_schedule import build_schedule
from inference.stream import VideoSegmenter
from main import main
from models.load import networks_for_inference
from tests.main.program import Program, refusal, training
from utils.metrics import ConfusionMatrix, scores

CLASSES = 19
DIS = ("--optical-flow-network", "dis")
SCHEDULES = {
    "residual": ("--schedule", "residual", "--residual-threshold", "3"),
    "cut": ("--schedule", "cut", "--cut-threshold", "0.25", "--interval", "3"),
}
METHODS = {
    "copy": ("--method", "copy"), "copied labels": ("--method", "copy", "--carry", "labels"),
    "warp": ("--method", "warp", *DIS), "warped labels": ("--method", "warp", *DIS, "--carry", "labels"),
    "gsv": ("--method", "gsv", "--resume", "1"),
}


@pytest.fixture(autouse=True)
def without_charts(monkeypatch):
    """Drawing them takes longer than the evaluation of a few small frames."""
    monkeypatch.setattr("evaluation.report.svg", lambda *_: "")


def words_of(streets, weights, logs, *more):
    return [*training(streets, weights, logs), "--eval-multi-step", "1", "2", "--evaluate", "1", *more]


def evaluated(words, logs):
    assert main(words) == 0
    return read_metrics(max(logs.glob("run/*/*/experiment_*")) / "metrics.json")


def streamed(words, streets, split="val"):
    """By position: number of frames, and their confusion matrix, of VideoSegmenter on every video of the split."""
    options = parse(words)
    segmenter = VideoSegmenter(
        networks_for_inference(options), schedule=build_schedule(options), scale=options.scale, method=options.method,
        carry=options.carry,
    )
    videos = videos_of(labelled_frames(dataset="synthetic", root=streets, split=split, past=5))
    items, number, found = VideoDataset(videos, DATASETS["synthetic"]), 0, {}
    for video in videos:
        segmenter.reset()
        for _ in video:
            item = items[number]
            labels = segmenter(item["image"].numpy())
            matrix = found.setdefault(segmenter.state.since, ConfusionMatrix(CLASSES))
            matrix.add(item["label"], torch.from_numpy(labels))
            number += 1
    return found


@pytest.mark.parametrize("schedule, method", [
    ("residual", "copy"), ("residual", "gsv"), ("cut", "warped labels"),
    *(pytest.param(schedule, method, marks=pytest.mark.slow) for schedule, method in (
        ("cut", "copy"), ("cut", "copied labels"), ("residual", "copied labels"), ("residual", "warp"), ("cut", "warp"),
        ("residual", "warped labels"), ("cut", "gsv"),
    )),
])
def test_stream_is_that_of_video_segmenter(streets, weights, tmp_path, schedule, method):
    words = words_of(streets, weights, tmp_path, *SCHEDULES[schedule], *METHODS[method])
    metrics, expected = evaluated(words, tmp_path), streamed(words, streets)
    assert 2 < expected[0].frames < 12 and len(expected) > 1  # the schedule has chosen something
    assert {row.position: row.frames for row in metrics.positions} == {k: x.frames for k, x in expected.items()}
    assert sum(row.frames for row in metrics.positions) == 12  # every labelled frame once
    for row in metrics.positions:
        assert np.abs(np.array(row.confusion) - expected[row.position].counts.numpy()).sum() <= 4 * row.frames
    pooled = scores(sum(x.counts for x in expected.values())).miou
    assert metrics.pooled_miou == pytest.approx(pooled, abs=1e-3)
    use = metrics.schedule
    assert (use.name, use.frames, use.keyframes) == (schedule, 12, expected[0].frames)


def test_stream_line_and_key_are_written(streets, weights, tmp_path, capsys):
    words = words_of(streets, weights, tmp_path, *SCHEDULES["residual"], *METHODS["copy"])
    metrics = evaluated(words, tmp_path)
    folder = max(tmp_path.glob("run/*/*/experiment_*"))
    content = json.loads((folder / "metrics.json").read_text())
    keyframes = metrics.positions[0].frames
    assert content["schedule"] == {"name": "residual", "frames": 12, "keyframes": keyframes}
    assert json.dumps(metrics.to_json()) == json.dumps(content)
    assert not {"reference", "reference_temporal", "milliseconds", "temporal_flow"} & {*content}
    line = f"schedule residual: {keyframes} keyframes in 12 frames, {100 * keyframes / 12:.2f} %"
    assert line in capsys.readouterr().out and line in (folder / "report.html").read_text()


def test_positions_do_not_depend_on_those_that_are_asked_for(streets, weights, tmp_path):
    """A stream has a position at every frame, also one beyond --eval-multi-step."""
    settings = ("--schedule", "residual", "--residual-threshold", "1000", *METHODS["copy"])
    words = words_of(streets, weights, tmp_path, *settings)
    metrics = evaluated([*words, "--eval-multi-step", "1"], tmp_path)
    assert [(row.position, row.frames) for row in metrics.positions] == [(k, 2) for k in range(6)]
    assert metrics.schedule.keyframes == 2


def test_stream_begins_with_its_video_where_few_frames_are_labelled(streets, weights, tmp_path):
    """Only the last of six frames has a label: whatever positions are asked for, the stream has all six."""
    sparse = shutil.copytree(streets, tmp_path / "streets")
    for path in (sparse / "gtFine" / "val").rglob("*labelIds.png"):
        if "_000005_" not in path.name:
            path.unlink()
    settings = ("--schedule", "residual", "--residual-threshold", "1000", *METHODS["copy"])
    metrics = evaluated(words_of(sparse, weights, tmp_path, *settings), tmp_path)
    assert [(row.position, row.frames) for row in metrics.positions] == [(5, 2)]
    assert (metrics.schedule.frames, metrics.schedule.keyframes) == (12, 2)


def test_every_frame_segmented_is_a_stream_of_keyframes(streets, weights, tmp_path):
    words = words_of(streets, weights, tmp_path, *SCHEDULES["residual"], "--method", "per-frame")
    metrics = evaluated(words, tmp_path)
    assert [(row.position, row.frames) for row in metrics.positions] == [(0, 12)]
    assert (metrics.schedule.frames, metrics.schedule.keyframes) == (12, 12)


def test_stream_against_the_segmenters_own_labels(streets, weights, tmp_path):
    words = words_of(streets, weights, tmp_path, *SCHEDULES["residual"], *METHODS["copied labels"])
    metrics = evaluated([*words, "--reference", "segmenter"], tmp_path)
    assert metrics.positions[0].pixel_accuracy == 1 and metrics.positions[1].pixel_accuracy < 1
    assert sum(row.frames for row in metrics.positions) == 12 and metrics.reference_temporal is None
    assert {row.position: row.frames for row in metrics.positions} == {
        k: x.frames for k, x in streamed(words, streets).items()
    }


def test_the_budget_is_refused_since_it_depends_on_the_machine(streets, weights, tmp_path, capsys):
    words = words_of(streets, weights, tmp_path, "--schedule", "budget", "--budget", "20", *METHODS["copy"])
    assert main(words) == 2
    assert "--schedule budget depends on the machine's speed" in refusal(capsys.readouterr().err)


def test_saved_predictions_of_a_stream_are_every_frame_once(streets, weights, tmp_path):
    words = words_of(streets, weights, tmp_path / "logs", *SCHEDULES["residual"], *METHODS["copy"])
    metrics = evaluated([*words, "--save-predictions", str(tmp_path / "out")], tmp_path / "logs")
    found = [*(tmp_path / "out").rglob("*.png")]
    assert len({path.name for path in found}) == len(found) == 12
    assert Counter(path.relative_to(tmp_path / "out").parts[0] for path in found) == {
        f"position_{row.position}": row.frames for row in metrics.positions
    }


@pytest.mark.slow
@pytest.mark.parametrize("ranks, more", [
    (2, (*SCHEDULES["residual"], *METHODS["copied labels"])),
    (3, (*SCHEDULES["cut"], *METHODS["copy"])),  # one process has no video at all
    (2, ("--reference", "segmenter", *METHODS["warped labels"])),
])
def test_several_processes_find_what_one_does(streets, weights, tmp_path, ranks, more):
    one, several = tmp_path / "one", tmp_path / "several"
    metrics = evaluated(words_of(streets, weights, one, *more), one)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    launched = Program(words_of(streets, weights, several, *more), tmp_path / "launched", launcher=launcher)
    try:
        assert launched.status() == 0, launched.errors[-2000:]
    finally:
        with contextlib.suppress(ProcessLookupError):
            launched.signal(signal.SIGKILL)
    (folder,) = several.glob("run/*/*/experiment_*")
    found = read_metrics(folder / "metrics.json")
    assert (found.positions, found.intervals) == (metrics.positions, metrics.intervals)
    assert found.schedule == metrics.schedule and found.pooled_miou == metrics.pooled_miou
    assert found.reference_temporal == metrics.reference_temporal


@pytest.mark.parametrize("words, message", [
    (("--engine", "onnx", "--precision", "fp16"), "--engine onnx: computes in fp32, int8 on a CPU, not in fp16"),
    (("--engine", "eager", "--precision", "int8"), "computes in fp32, bf16 on a CPU, not in int8; use --engine onnx"),
])
def test_engine_that_does_not_work_leaves_no_folder(streets, weights, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.setattr("evaluation.evaluate.pairs_of_videos", None)  # no frame is read for it
    assert main(words_of(streets, weights, tmp_path / "logs", "--resume", "1", *words)) == 2
    assert message in refusal(capsys.readouterr().err) and not [*tmp_path.iterdir()]
