"""--method, --carry and --optical-flow-network dis: video without training, training over DIS, and what is refused."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from config.cityscapes import CITYSCAPES
from config.command_line import parse
from config.options import recorded
from dataloaders.images import id_table, read_image
from inference import video_input
from inference.keyframe_schedule import FixedInterval
from inference.stream import VideoSegmenter
from inference.video_input import open_frames
from main import main
from models.build import build_foreign
from models.flow_dis import DISFlow
from models.gsvnet import GSVNet
from models.guided_conv import GuidedConv
from models.released import GSVNET_FILES, read_propagation
from streets import StreetSettings
from tests.films import opened
from tests.main.program import experiment, refusal, trained, training
from tests.models.tiny_networks import user_file
from tests.released import filled_gsvnet
from utils.run_folder import LATEST, with_run

DIS = ["--optical-flow-network", "dis", "--dis-side", "48", "--dis-preset", "medium"]
SETTINGS = {"side": 48, "preset": "medium"}
BRIEF = ["--early-stop", "1"]


@pytest.fixture
def specification(tmp_path):
    """A user's segmenter of four classes."""
    return f"{user_file(tmp_path)}:pair"


@pytest.fixture
def pictures(streets, tmp_path):
    """A folder of one street's six frames."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted((streets / "leftImg8bit_sequence" / "val" / "streets").iterdir())[:6]:
        (folder / path.name).symlink_to(path)
    return folder


def segmented(tmp_path: Path, video: str | Path, *words: str) -> list[np.ndarray]:
    """The label maps that --video writes, as class indices."""
    labels = tmp_path / "labels"
    common = ["--ids", "train", "--engine", "eager", "--device", "cpu"]
    assert main(["--video", str(video), "--output", str(tmp_path / "out.mp4"), str(labels), *common, *words]) == 0
    maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(labels.iterdir())]
    _, _, frames = opened(tmp_path / "out.mp4")
    assert len(frames) == len(maps) and frames[0].shape[:2] == maps[0].shape
    return maps


def equal(maps: list[np.ndarray], segmenter: VideoSegmenter, frames) -> bool:
    """Whether maps are the segmenter's, and show more than one class."""
    assert len(np.unique(maps)) > 1
    return all((a == b).all() for a, b in zip(maps, segmenter.stream(frames), strict=True))


def foreign(specification: str, **settings) -> VideoSegmenter:
    """As the program builds it where no propagation has been trained."""
    segmenter = build_foreign(name=specification)
    return VideoSegmenter(GSVNet(segmenter, DISFlow(), GuidedConv(4)), scale=1.0, **settings)


@pytest.mark.parametrize("words", [[], ["--method", "auto"]])
def test_any_segmenters_video_is_warped_along_dis(specification, tmp_path, monkeypatch, capsys, words):
    monkeypatch.setattr(video_input, "DEMO_STREET", StreetSettings(height=64, width=128, length=5))
    maps = segmented(tmp_path, "demo", "--segnet", specification, *words)
    assert equal(maps, foreign(specification, method="warp", carry="labels"), open_frames("demo"))
    assert not equal(maps, foreign(specification, method="copy", carry="labels"), open_frames("demo"))
    printed = capsys.readouterr().out.splitlines()
    assert words or printed.count("--method auto: warp, dis flow, carrying labels") == 1


@pytest.mark.parametrize("method", ["copy", "warp"])
def test_video_whose_labels_are_carried(specification, pictures, tmp_path, capsys, method):
    words = ["--method", method, "--carry", "labels", "--interval", "4"]
    maps = segmented(tmp_path, pictures, "--segnet", specification, *words, *(DIS[:2] if method == "warp" else []))
    frames = [*open_frames(str(pictures))]
    segmenter = foreign(specification, method=method, carry="labels", schedule=FixedInterval(4))
    assert equal(maps, segmenter, frames)
    assert (maps[3] == maps[0]).all() == (method == "copy") and (maps[4] != maps[0]).any()
    of_logits = foreign(specification, method=method, schedule=FixedInterval(4))
    assert not equal(maps, of_logits, frames)  # these have passed the grid
    assert "--method auto" not in capsys.readouterr().out


def test_video_of_a_trained_propagation_is_propagated(pictures, weights, tmp_path, capsys):
    maps = segmented(tmp_path, pictures, "--resume", "1", "--weights-dir", str(weights))
    assert equal(maps, VideoSegmenter.from_released(weights), open_frames(str(pictures)))
    assert capsys.readouterr().out.splitlines().count("--method auto: gsv, light flow") == 1


@pytest.mark.parametrize("carry", ["logits", "labels"])
def test_video_warped_by_the_flow_network_of_a_trained_propagation(pictures, weights, tmp_path, carry):
    words = ["--method", "warp", "--carry", carry, "--resume", "1", "--weights-dir", str(weights)]
    maps = segmented(tmp_path, pictures, *words)
    segmenter = VideoSegmenter.from_released(weights, method="warp", carry=carry)
    assert equal(maps, segmenter, open_frames(str(pictures)))


@pytest.mark.parametrize("words, message", [
    (["--optical-flow-network", "dis", "--flow-weights", "flow.tar"],
     "error: --flow-weights: --optical-flow-network dis has no weights; drop one of the two"),
    (["--video", "demo", "--output", "o", "--method", "warp", "--optical-flow-network", "dis", "--flow-weights", "f"],
     "error: --flow-weights: --optical-flow-network dis has no weights; drop one of the two"),
    (["--stage", "flow", "--optical-flow-network", "dis"],
     "error: --stage flow trains a flow network; --optical-flow-network dis has nothing to train"),
    (["--dis-side", "128"],
     "error: --dis-side has an effect only with --optical-flow-network dis; add that or drop it"),
    (["--dis-preset", "fast", "--video", "demo", "--output", "o", "--method", "copy"],
     "error: --dis-preset has an effect only with --optical-flow-network dis; add that or drop it"),
    (["--optical-flow-network", "dis", "--dis-side", "8"], "error: --dis-side must be at least 16, not 8"),
    (["--evaluate", "1", "--resume", "1", "--carry", "labels"],
     "error: --carry labels works with --method warp or copy, not gsv, which needs logits"),
    (["--video", "demo", "--output", "o", "--resume", "1", "--carry", "labels"],
     "error: --carry labels works with --method warp or copy, not gsv, which needs logits"),
    (["--evaluate", "1", "--method", "per-frame", "--carry", "labels"],
     "error: --carry labels works with --method warp or copy, not per-frame, which needs logits"),
    (["--evaluate", "1", "--method", "auto"],
     "error: --method auto is for --video; choose gsv, warp, copy or per-frame"),
    (["--evaluate", "1", "--method", "auto", "--resume", "1"],
     "error: --method auto is for --video; choose gsv, warp, copy or per-frame"),
    (["--export", "e", "--resume", "1", "--method", "auto"],
     "error: --method auto is for --video; choose gsv, warp, copy or per-frame"),
    (["--method", "auto"], "error: --method auto is for --video; choose gsv, warp, copy or per-frame"),
    (["--method", "warp", "--optical-flow-network", "dis"],
     "error: --method warp needs no training; use it with --evaluate 1 or --video"),
    (["--export", "e", "--method", "warp", "--optical-flow-network", "dis", "--carry", "labels"],
     "error: --export requires --stage gsv with --method gsv or warp and --carry logits, or --stage segnet for the "
     "segmenter alone"),
])
def test_refused_in_one_line(streets, weights, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main([*training(streets, weights, tmp_path / "logs"), *words]) == 2
    assert refusal(capsys.readouterr().err) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("carry", ["logits", "labels"])
def test_warping_along_a_flow_network_needs_its_weights(specification, tmp_path, capsys, carry):
    words = ["--segnet", specification, "--method", "warp", "--optical-flow-network", "light", "--carry", carry]
    assert main(["--video", "demo", "--output", str(tmp_path / "labels"), "--device", "cpu", *words]) == 2
    line = refusal(capsys.readouterr().err)
    assert line.startswith("error: --method warp requires a flow network: --flow-weights PATH"), line
    assert line.endswith("or --optical-flow-network dis, which needs no weights")
    assert not (tmp_path / "labels").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory, streets, weights):
    """Words and folder of a propagation that was trained over DIS for a few steps."""
    torch.set_num_threads(1)
    words = training(streets, weights, tmp_path_factory.mktemp("dis") / "logs", *BRIEF)
    assert main([*words, *DIS]) == 0
    return words, experiment(Path(words[words.index("--log-folder") + 1]))


def test_checkpoint_over_dis_has_a_flow_without_weights(run):
    _, folder = run
    content = read_propagation(folder / LATEST).content
    assert content["state_dict_of"] == {} and content["flow"] == {"name": "dis", **SETTINGS}
    assert content["args"]["train_optical_flow"] is False  # there is nothing to train, whatever the option is
    recorded = json.loads((folder / "parameters.json").read_text())
    assert (recorded["optical_flow_network"], recorded["dis_side"], recorded["dis_preset"]) == ("dis", 48, "medium")
    assert recorded["train_optical_flow"] is False and recorded["load_flow"] is False
    names = [group["name"] for group in content["optimizer"]["param_groups"] if "name" in group]
    assert not any("flow" in name for name in names)


def test_training_over_dis_moves_the_guided_block(run):
    """Its first BatchNorm has seen ten batches, five of each interval."""
    _, folder = run
    content = read_propagation(folder / LATEST).content
    assert content["progress"]["iteration"] == 10
    moments = content["optimizer"]["state"]
    assert moments and all(x["momentum_buffer"].abs().max() > 0 for x in moments.values())
    assert all(x.isfinite().all() for x in content["state_dict"].values())


@pytest.mark.slow
@pytest.mark.parametrize("source", ["video", "stills"])
def test_resumed_run_over_dis_ends_with_the_weights_of_one_that_was_never_stopped(streets, weights, tmp_path, source):
    words = [*training(streets, weights, tmp_path, *BRIEF, *DIS), "--clip-source", source, "--resume", "auto"]
    assert main([*words, "--checkname", "whole", "--epoch", "2"]) == 0
    assert main([*words, "--checkname", "parts", "--epoch", "1"]) == 0
    before = trained(experiment(tmp_path, name="swiftnet_parts") / LATEST)
    assert main([*words, "--checkname", "parts", "--epoch", "2"]) == 0
    whole, parts = (trained(experiment(tmp_path, name=f"swiftnet_{name}") / LATEST) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    assert any(not torch.equal(before[k], parts[k]) for k in parts)
    assert not any(name.startswith("flow.") for name in parts)


def predictions(words: list[str], folder: Path, *more: str) -> tuple[dict[tuple[str, int], np.ndarray], dict]:
    """Label maps two frames after a keyframe, by street and frame, and the options that the evaluation has recorded."""
    logs = Path(words[words.index("--log-folder") + 1])
    before, out = {*logs.rglob("parameters.json")}, folder / "predictions"
    asked = ["--evaluate", "1", "--temporal", "0", "--eval-multi-step", "2", "--save-predictions", str(out)]
    assert main([*words, *asked, *more]) == 0
    (recorded,) = {*logs.rglob("parameters.json")} - before
    maps = {}
    for path in (out / "position_2").rglob("*.png"):
        _, street, frame, *_ = path.name.split("_")
        maps[street, int(frame)] = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert len(maps) == 2 * 4 and len(np.unique([*maps.values()])) > 1
    return maps, json.loads(recorded.read_text())


def agreement(maps: dict, segmenter: VideoSegmenter, streets: Path) -> float:
    """Share of the pixels of such label maps that are the segmenter's, in the worst frame."""
    shares, ids = [], id_table(CITYSCAPES)
    segmenter.schedule = FixedInterval(3)
    for (street, frame), found in maps.items():
        folder = streets / "leftImg8bit_sequence" / "val" / "streets"
        paths = [folder / f"streets_{street}_{number:06d}_leftImg8bit.png" for number in range(frame - 2, frame + 1)]
        *_, labels = segmenter.stream(np.ascontiguousarray(read_image(path)) for path in paths)
        shares.append((ids[labels] == found).mean())
    return min(shares)


def test_evaluation_of_a_run_over_dis_uses_dis_by_itself(run, streets, tmp_path):
    words, folder = run
    maps, options = predictions(words, tmp_path, "--resume", str(folder / LATEST), "--early-stop", "0")
    assert (options["optical_flow_network"], options["dis_side"], options["dis_preset"]) == ("dis", 48, "medium")
    segmenter = VideoSegmenter.from_run(folder)
    flow = segmenter.engine.method.flow
    assert isinstance(flow, DISFlow) and (flow.side, flow.preset) == (48, "medium")
    assert agreement(maps, segmenter, streets) > 0.999


def test_propagation_trained_over_a_flow_network_is_evaluated_over_dis(streets, weights, tmp_path):
    """An ablation: the released guided block, its flow network replaced."""
    words, both = training(streets, weights, tmp_path / "logs"), {}
    for flow, settings in (("light", []), ("dis", DIS)):
        both[flow], options = predictions(words, tmp_path / flow, "--resume", "1", *settings)
        assert options["optical_flow_network"] == flow and options["load_flow"] == (flow == "light")
    net = filled_gsvnet("swiftnet", "light")
    replaced = VideoSegmenter(GSVNet(net.segmenter, DISFlow(**SETTINGS), net.guided))
    assert agreement(both["dis"], replaced, streets) > 0.999
    assert agreement(both["light"], VideoSegmenter(net), streets) > 0.999
    assert agreement(both["dis"], VideoSegmenter(net), streets) < 0.99
    assert read_propagation(weights / GSVNET_FILES["swiftnet"]).content["state_dict_of"]  # it has a flow network


@pytest.mark.slow
@pytest.mark.parametrize("method, carry", [("copy", "logits"), ("copy", "labels"), ("warp", "logits"),
                                           ("warp", "labels")])
def test_evaluation_of_what_needs_no_training(streets, weights, tmp_path, method, carry):
    words = [*training(streets, weights, tmp_path / "logs"), *DIS]
    maps, options = predictions(words, tmp_path, "--method", method, "--carry", carry)
    assert (options["method"], options["carry"]) == (method, carry)
    net = filled_gsvnet("swiftnet", "light")
    net = GSVNet(net.segmenter, DISFlow(**SETTINGS), net.guided)
    other = VideoSegmenter(net, method="warp" if method == "copy" else "copy", carry=carry)
    assert agreement(maps, VideoSegmenter(net, method=method, carry=carry), streets) > 0.999
    assert agreement(maps, other, streets) < 0.99


def test_run_over_dis_is_not_evaluated_over_a_flow_network_that_it_lacks(run, capsys):
    words, folder = run
    capsys.readouterr()
    more = ["--evaluate", "1", "--resume", str(folder / LATEST), "--optical-flow-network", "light"]
    assert main([*words, *more]) == 2
    assert "was trained with --optical-flow-network dis, but this run has light" in refusal(capsys.readouterr().err)


def test_method_auto_that_is_asked_for_is_logged_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(video_input, "DEMO_STREET", StreetSettings(height=64, width=128, length=2))
    words = ["--segnet", f"{user_file(tmp_path)}:pair", "--engine", "eager", "--device", "cpu", "--method", "auto"]
    assert main(["--video", "demo", "--output", str(tmp_path / "labels"), *words]) == 0
    assert "--method auto: warp, dis flow" in capsys.readouterr().out



def test_side_of_dis_can_be_changed_for_a_run_over_dis(tmp_path):
    options = parse(["--optical-flow-network", "dis"])
    (tmp_path / "parameters.json").write_text(json.dumps(recorded(options)))
    words = ["--evaluate", "1", "--resume", str(tmp_path / "checkpoint.pth.tar"), "--dis-side", "128"]
    assert with_run(parse(words)).dis_side == 128


@pytest.mark.parametrize("task, found", [(["--evaluate", "1"], (1, 6)), ([], (1, 2, 3, 4))])
def test_evaluation_knows_on_which_clips_a_run_was_trained(tmp_path, task, found):
    """So that --split train ends where training did."""
    options = parse(["--dataset", "unlabelled", "--data-path", "a", "--multi-step", "1", "6"])
    (tmp_path / "parameters.json").write_text(json.dumps(recorded(options)))
    assert with_run(parse([*task, "--resume", str(tmp_path / "checkpoint.pth.tar")])).multi_step == found


@pytest.mark.parametrize("words", [["--dataset", "synthetic"], ["--benchmark", "video"]])
def test_schedule_without_a_stream_is_refused(words, capsys):
    assert main([*words, "--schedule", "residual"]) == 2
    assert "--schedule residual is for --video, --evaluate 1" in capsys.readouterr().err


@pytest.mark.parametrize("words, message", [
    (["--resume", "1", "--evaluate", "1", "--dis-side", "128"], "--dis-side has an effect only with"),
    (["--benchmark", "eval", "--optical-flow-network", "dis"], "--benchmark eval measures flow networks"),
    (["--benchmark", "classes", "--optical-flow-network", "dis"], "--benchmark classes measures flow networks"),
    (["--video", "demo", "--output", "o", "--grid", "4"], "--grid has no effect on --carry labels"),
])
def test_options_that_would_be_ignored_are_refused(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err
