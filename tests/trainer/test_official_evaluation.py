"""Our scores against the official Cityscapes evaluation, run on the label maps that we save."""
import argparse
import json

import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

from main import main


@pytest.fixture(scope="module")
def evaluated(streets, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    assert main(["--evaluate", "1", "--resume", "1", "--dataset", "synthetic", "--data-path", str(streets), "--weights-dir",
                 str(weights), "--log-folder", str(folder / "logs"), "--num-worker", "0", "--device", "cpu", "--eval-multi-step",
                 "2", "--save-predictions", str(folder / "predictions"), "--metrics-file", str(folder / "metrics.json")]) == 0
    return folder


@pytest.mark.parametrize("position", [0, 2])
def test_class_by_class(evaluated, streets, position):
    predictions = sorted((evaluated / "predictions" / f"position_{position}").iterdir())
    labels = [
        streets / "gtFine" / "val" / "streets" / path.name.replace("pred_labelIds", "gtFine_labelIds") for path in predictions
    ]
    settings = argparse.Namespace(**vars(official.args)) if hasattr(official.args, "__dict__") else official.args
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
