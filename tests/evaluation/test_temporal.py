"""Consistency over time of whole evaluations against a program that visits every frame and pixel of a video."""
import numpy as np
import pytest
import torch

from config.datasets import DATASETS
from dataloaders.eval_videos import VideoDataset, videos_of
from dataloaders.loaders import labelled_frames
from evaluation import temporal
from evaluation.evaluated_frames import evaluated_frames
from evaluation.temporal import TRUE_FLOW, TemporalMeasures, flow_source
from inference.engines import build_engines
from models.resize import align
from tests.plain_gsvnet import plain_keyframe, plain_propagated
from tests.released import filled_gsvnet

CLASSES, INTERVAL, WINDOW = 19, 3, 2


@pytest.fixture(scope="module")
def net():
    return filled_gsvnet("swiftnet", "light")


@pytest.fixture(scope="module")
def videos(streets):
    return videos_of(labelled_frames(dataset="synthetic", root=streets, split="val", past=1))


def stream_of(net, images):
    """Label maps (H,W) of one video at the keyframe interval, as the paper defines them."""
    maps, state = [], None
    for t, image in enumerate(images):
        frame = image.permute(2, 0, 1)[None]
        with torch.no_grad():
            state = plain_keyframe(net, frame) if t % INTERVAL == 0 else plain_propagated(net, state, frame)
            maps.append(align(state.logits, tuple(image.shape[:2])).argmax(1)[0].numpy())
    return maps


def test_equals_a_frame_by_frame_program(net, videos, monkeypatch):
    monkeypatch.setattr(temporal, "WINDOWS", (WINDOW,))
    dataset = DATASETS["synthetic"]
    name, flow = flow_source(videos, [], torch.device("cpu"))
    assert (name, flow) == (TRUE_FLOW, None)
    measures = TemporalMeasures(CLASSES, methods=["gsv", "per-frame"], intervals=[1, INTERVAL], flow=None)
    items = VideoDataset(videos, dataset, with_flow=True)
    device = torch.device("cpu")
    engines = build_engines(net, ["gsv", "per-frame"], scale=0.75, device=device)
    for frame in evaluated_frames(
        engines, videos, items, positions=(0,), device=device, intervals=measures.intervals
    ):
        measures.add(frame)
    found = measures.results(torch.device("cpu"))
    both, either = np.zeros((2, CLASSES)), np.zeros((2, CLASSES))  # everywhere, visible
    constant, correct, start, pairs = [], [], 0, 0
    for video in videos:
        frames = [items[start + t] for t in range(len(video))]
        start += len(video)
        maps = stream_of(net, [frame["image"] for frame in frames])
        labels = [frame["label"].numpy() for frame in frames]
        for t in range(len(video) - 1):
            height, width = maps[t].shape
            y, x = np.mgrid[:height, :width]
            flow, visible = frames[t]["ahead"].numpy(), frames[t]["visible"].numpy()
            column, row = np.rint(x + flow[..., 0]).astype(int), np.rint(y + flow[..., 1]).astype(int)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            there = maps[t + 1][row.clip(0, height - 1), column.clip(0, width - 1)]
            for i, counted in enumerate((inside, inside & visible)):
                for c in range(CLASSES):
                    both[i, c] += ((maps[t] == c) & (there == c) & counted).sum()
                    either[i, c] += (((maps[t] == c) | (there == c)) & counted).sum()
            steady = (labels[t] == labels[t + 1]) & (labels[t] < CLASSES)
            kept = steady & (maps[t] == maps[t + 1])
            constant.append(kept.sum() / steady.sum())
            correct.append((kept & (maps[t] == labels[t])).sum() / steady.sum())
            pairs += 1
    row = found["gsv"][INTERVAL]
    tc, visible = (np.mean(b[e > 0] / e[e > 0]) for b, e in zip(both, either))
    assert row.pairs == pairs == row.windows[str(WINDOW)]
    assert row.tc == pytest.approx(tc, abs=1e-4) and row.tc_visible == pytest.approx(visible, abs=1e-4)
    assert row.mvc[str(WINDOW)] == pytest.approx(np.mean(constant), abs=1e-4)
    assert row.mvc_right[str(WINDOW)] == pytest.approx(np.mean(correct), abs=1e-4)
    assert found["gsv"][1].tc == found["per-frame"][1].tc == found["per-frame"][INTERVAL].tc != row.tc
