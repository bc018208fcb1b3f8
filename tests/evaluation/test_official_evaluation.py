"""Our scores against the official Cityscapes evaluation, run on the label maps that we save."""
import json

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

from config.cityscapes import CITYSCAPES
from dataloaders.images import id_table, label_table
from main import main
from utils.metrics import ConfusionMatrix, scores


@pytest.fixture(scope="module")
def evaluated(streets, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    words = ["--evaluate", "1", "--resume", "1", "--dataset", "synthetic", "--data-path", str(streets), "--weights-dir",
             str(weights), "--log-folder", str(folder / "logs"), "--num-worker", "0", "--device", "cpu",
             "--eval-multi-step", "2", "--save-predictions", str(folder / "predictions"), "--metrics-file",
             str(folder / "metrics.json")]
    assert main(words) == 0
    return folder


@pytest.mark.parametrize("position", [0, 2])
def test_class_by_class(evaluated, streets, position):
    predictions = sorted((evaluated / "predictions" / f"position_{position}").iterdir())
    folder = streets / "gtFine" / "val" / "streets"
    labels = [folder / path.name.replace("pred_labelIds", "gtFine_labelIds") for path in predictions]
    settings = official.args
    settings.evalInstLevelScore, settings.JSONOutput, settings.quiet = False, False, True
    result = official.evaluateImgLists([str(x) for x in predictions], [str(x) for x in labels], settings)
    rows = json.loads((evaluated / "metrics.json").read_text())["positions"]
    (ours,) = [row for row in rows if row["position"] == position]
    assert ours["frames"] == len(predictions) > 0
    compared = 0
    for name, iou in ours["class_iou"].items():
        theirs = result["classScores"][name]
        if iou is None:
            assert theirs != theirs
        else:
            assert iou == pytest.approx(theirs, abs=1e-9)
            compared += 1
    assert compared >= 10
    assert ours["miou"] == pytest.approx(result["averageScoreClasses"], abs=1e-9)


def test_confusion_matrix_of_wrong_and_unlabelled_pixels(tmp_path):
    """Label maps with every class, many errors and all kinds of void."""
    rng = np.random.default_rng(4)
    matrix, files = ConfusionMatrix(19), []
    ids, table, back = np.array(CITYSCAPES.label_ids), label_table(CITYSCAPES), id_table(CITYSCAPES)
    for number in range(3):
        truth = rng.choice(np.concatenate([ids, [0, 3, 6, 16, 29]]), (40, 60)).astype(np.uint8)
        wrong = rng.random(truth.shape) < rng.random()
        prediction = np.where(wrong | ~np.isin(truth, ids), rng.choice(ids, truth.shape), truth).astype(np.uint8)
        matrix.add(torch.from_numpy(table[truth]), torch.from_numpy(table[prediction]))
        assert (back[table[prediction]] == prediction).all()
        files.append((tmp_path / f"p{number}.png", tmp_path / f"g{number}.png"))
        for path, picture in zip(files[-1], (prediction, truth)):
            cv2.imwrite(str(path), picture)
    settings = official.args
    settings.evalInstLevelScore, settings.JSONOutput, settings.quiet = False, False, True
    result = official.evaluateImgLists([str(p) for p, _ in files], [str(g) for _, g in files], settings)
    theirs = np.array(result["confMatrix"])[np.ix_(ids, ids)]
    assert (theirs == matrix.counts.numpy()).all() and theirs.sum() > 5000
    found = scores(matrix.counts).class_iou
    assert list(found) == [pytest.approx(result["classScores"][name]) for name in CITYSCAPES.classes]
