"""Exported files: whole, described, made of standard operators, and giving the program's labels without it."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import onnxscript
import pytest
import torch
from PIL import Image

from config.cityscapes import CITYSCAPES
from config.command_line import parse
from config.errors import UserError
from dataloaders.images import id_table
from docs.examples import onnx_numpy
from inference import export
from inference import onnx_graphs as graphs
from inference.export import graphs as graphs_of
from inference.export import run_export
from inference.stream import VideoSegmenter
from main import main
from models.build import build_foreign
from models.flow_dis import PRESETS, DISFlow
from models.gsvnet import GSVNet
from models.guided_conv import GuidedConv
from models.load import flow_of
from models.released import released_name
from models.steps import FixedViewStep, ViewStep
from tests.films import panning, write_frames
from tests.models.test_methods import moving
from tests.models.tiny_networks import user_file
from tests.released import fill, filled_gsvnet

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "onnx_numpy.py"
# Of the default domain; TensorRT's table of operators (onnx-tensorrt, 8.5 and later) has all of them.
STANDARD = set(
    "Add ArgMax AveragePool BatchNormalization Cast Clip Concat ConstantOfShape Conv ConvTranspose Div Equal Gather "
    "GatherND GridSample LeakyRelu MaxPool Mul Not Pad ReduceMean ReduceSum Relu Reshape Resize Sigmoid Slice Sub "
    "Transpose Unsqueeze Where".split()
)
FILES = {f"{name}.{kind}" for name in ("view", "keyframe", "propagation") for kind in ("onnx", "pt2")} | {"model.json"}
SIZES = {"swiftnet": (64, 128), "bisenet": (72, 100)}


def options_for(folder: Path, segmenter: str, size: tuple[int, int], flow: str = "light", *words: str):
    height, width = map(str, size)
    return parse(["--export", str(folder), "--export-size", height, width, "--segnet", segmenter,
                  "--optical-flow-network", flow,
                  "--resume", "1", *words])


@pytest.fixture(scope="module", ids=lambda names: names[0], params=[
    pytest.param(names, marks=pytest.mark.slow) for names in (("swiftnet", "light"), ("bisenet", "flownet"))
])
def exports(request, tmp_path_factory):
    """Network, options, and the description that was returned."""
    torch.set_num_threads(1)
    segmenter, flow = request.param
    net = filled_gsvnet(segmenter, flow)
    options = options_for(tmp_path_factory.mktemp("export") / "deep" / segmenter, segmenter, SIZES[segmenter], flow)
    return net, options, run_export(net, options)


def test_folder_holds_what_its_description_lists(exports):
    net, options, returned = exports
    folder = Path(options.export)
    assert {path.name for path in folder.iterdir()} == FILES
    content = json.loads((folder / "model.json").read_text())
    assert content == returned
    height, width = options.export_size
    grid = [height // 8, width // 8]
    assert content["frame"] == {"size": [height, width], "dtype": "uint8", "channel_order": "RGB"}
    assert content["grid"] == {"size": grid, "stride": 8}
    assert content["keyframe"] == {"interval": 3, "scale": 0.75, "size": [height // 4 * 3, width // 4 * 3]}
    assert content["normalisation"]["mean"] == list(net.segmenter.pixel_mean)
    assert content["normalisation"]["std"] == list(net.segmenter.pixel_std)
    assert [each["name"] for each in content["classes"]] == list(CITYSCAPES.classes)
    assert content["classes"][8] == {"index": 8, "name": "vegetation", "label_id": 21, "colour": [107, 142, 35]}
    assert content["labels"]["align_corners"] is True and len(content["loop"]) == 5
    assert content["opset"] == graphs.OPSET >= 16
    assert content["versions"] == {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
                                   "onnx": onnx.__version__,
                                   "onnxscript": onnxscript.__version__}
    for graph in content["graphs"].values():
        session = onnxruntime.InferenceSession(str(folder / graph["onnx"]), providers=[graphs.CPU_PROVIDER])
        for described, real in ((graph["inputs"], session.get_inputs()), (graph["outputs"], session.get_outputs())):
            assert [(x["name"], x["shape"]) for x in described] == [(x.name, x.shape) for x in real]
            types = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
            assert [types[x["dtype"]] for x in described] == [x.type for x in real]
        assert 0 <= graph["max_abs_difference"] <= 1e-3 * graph["max_abs_value"]


def test_graphs_hold_standard_operators_alone_and_nothing_of_the_machine(exports):
    _, options, content = exports
    for graph in content["graphs"].values():
        path = Path(options.export) / graph["onnx"]
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [(each.domain, each.version) for each in model.opset_import] == [("", graphs.OPSET)]
        assert {node.domain for node in model.graph.node} == {""} and not model.functions
        assert {node.op_type for node in model.graph.node} == set(graph["operators"]) <= STANDARD
        shapes = [x.type.tensor_type.shape.dim for x in (*model.graph.input, *model.graph.output,
                                                         *model.graph.value_info)]
        assert all(dim.HasField("dim_value") for shape in shapes for dim in shape)  # nothing depends on the data
        assert os.fsencode(Path(__file__).resolve().parents[2]) not in path.read_bytes()


def test_programs_load_and_agree(exports):
    net, options, content = exports
    for graph in graphs_of(net, options.export_size, options.scale):
        program = torch.export.load(Path(options.export) / content["graphs"][graph.name]["program"])
        inputs = export.random_inputs(graph, seed=7)
        with torch.no_grad():
            expected, found = graph.step(*inputs.values()), program.module()(*inputs.values())
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), graph.name


def test_example_finds_the_programs_labels_with_numpy_and_without_torch(exports, streets, tmp_path):
    net, options, _ = exports
    (height, width), blocker = options.export_size, tmp_path / "blocker"
    paths = sorted((streets / "leftImg8bit_sequence" / "val" / "streets").iterdir())[:5]
    frames = [np.array(Image.open(path).convert("RGB").resize((width, height))) for path in paths]
    for number, frame in enumerate(frames):
        np.save(tmp_path / f"{number}.npy", frame)
    blocker.mkdir()
    blocked = "import sys\nfor name in ('torch', 'cv2', 'onnx'):\n    sys.modules[name] = None\n"
    (blocker / "sitecustomize.py").write_text(blocked)
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), options.export, str(tmp_path / "labels"),
         *(str(tmp_path / f"{n}.npy") for n in range(5))],
        env={**os.environ, "PYTHONPATH": str(blocker)}, cwd=tmp_path, capture_output=True, text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    table = id_table(CITYSCAPES)
    for number, labels in enumerate(VideoSegmenter(net).stream(frames)):
        found = np.asarray(Image.open(tmp_path / "labels" / f"{number}.png"))
        assert len(np.unique(found)) > 1
        assert (found == table[labels]).mean() >= 0.999, number


SMALL_DIS = {"name": "dis", "side": 48, "preset": "medium", "opencv_preset": 2, "finest_scale": 1}
FLOWS = {"light": "light", "none": "none", "dis": SMALL_DIS}
MOTION = {"light": "previous_view", "none": "previous_view", "dis": "flow"}  # the input that tells it


@pytest.fixture(scope="module", ids="-".join, params=[
    pytest.param(names, marks=pytest.mark.slow)
    for names in (("gsv", "light"), ("gsv", "dis"), ("warp", "dis"), ("warp", "light"), ("warp", "none"))
])
def method_exports(request, tmp_path_factory):
    """As `exports`, of a user's segmenter of four classes, for each method and flow."""
    torch.set_num_threads(1)
    (method, flow), folder = request.param, tmp_path_factory.mktemp("methods")
    specification, settings = f"{user_file(folder)}:pair", ["--dis-side", "48", "--dis-preset", "medium"]
    words = [*(settings if flow == "dis" else []), "--scale", "0.75", "--method", method]
    options = options_for(folder / "export", specification, (64, 104), flow, *words)
    guided = fill(GuidedConv(4), released_name)
    net = GSVNet(build_foreign(name=specification), fill(flow_of(options)), guided).eval()
    if flow == "light":
        net.flow.toflow.bias.data.copy_(torch.tensor([2.0, -1.5]))  # quarters of a grid pixel
    return net, options, run_export(net, options)


def test_export_of_each_method_names_its_inputs_and_its_flow(method_exports):
    _, options, content = method_exports
    flow, folder, grid = options.optical_flow_network, Path(options.export), [8, 13]
    assert (content["method"], content["flow"]) == (options.method, FLOWS[flow])
    assert {path.name for path in folder.iterdir()} == FILES and content == json.loads(
        (folder / "model.json").read_text())
    shapes = {"previous_logits": [1, 4, *grid], "previous_view": [1, 3, *grid], "view": [1, 3, *grid],
              "flow": [1, 2, *grid], "image": [1, 64, 104, 3]}
    inputs = {"view": ["image"], "keyframe": ["image"], "propagation": ["previous_logits", MOTION[flow], "view"]}
    for name, graph in content["graphs"].items():
        session = onnxruntime.InferenceSession(str(folder / graph["onnx"]), providers=[graphs.CPU_PROVIDER])
        expected = [(key, shapes[key]) for key in inputs[name]]  # also those that the method does not need
        assert [(x["name"], x["shape"]) for x in graph["inputs"]] == expected
        assert [(x.name, x.shape) for x in session.get_inputs()] == expected
        assert set(graph["operators"]) <= STANDARD
    loop = " ".join(content["loop"])
    assert f"propagation(previous_logits, {MOTION[flow]}, view)" in loop and ("DIS" in loop) == (flow == "dis")


def test_example_finds_the_labels_of_each_method(method_exports, tmp_path):
    """In a Python without torch; OpenCV is there for DIS alone."""
    net, options, _ = method_exports
    noise = np.random.default_rng(3).integers(0, 256, (14, 22, 3), dtype=np.uint8)
    picture = cv2.resize(noise, (150, 100), interpolation=cv2.INTER_CUBIC)
    frames = [np.ascontiguousarray(picture[3 * t : 3 * t + 64, 5 * t : 5 * t + 104]) for t in range(5)]
    for number, frame in enumerate(frames):
        np.save(tmp_path / f"{number}.npy", frame)
    blocked = ["torch", "onnx", *([] if options.optical_flow_network == "dis" else ["cv2"])]
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nfor name in {blocked}:\n    sys.modules[name] = None\n")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), options.export, str(tmp_path / "labels"),
         *(str(tmp_path / f"{n}.npy") for n in range(5))],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    segmenter = VideoSegmenter(net, method=options.method)
    for number, labels in enumerate(segmenter.stream(frames)):
        found = np.asarray(Image.open(tmp_path / "labels" / f"{number}.png"))
        assert len(np.unique(found)) > 2 and (found == labels).mean() >= 0.999, number


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (46, 61)])
def test_sizes_that_nothing_divides_export(tmp_path, size):
    net = filled_gsvnet("swiftnet", "none", classes=5)
    for graph in graphs_of(net, size, 0.75):
        model = graphs.onnx_model(graph, graphs.exported(graph))
        assert export.compared(graph, model)["max_abs_difference"] < 1e-3
        assert {node.op_type for node in model.graph.node} <= STANDARD


@pytest.mark.parametrize("size", [(64, 128), (46, 61), (8, 40)])
def test_view_of_fixed_size_is_the_streams_view(size):
    net = filled_gsvnet("swiftnet", "none", classes=5)
    image = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    assert torch.allclose(FixedViewStep(net, size)(image), ViewStep(net)(image), rtol=0, atol=1e-5)


@pytest.mark.tried("Video", "export whose graphs do not agree with PyTorch", "one line; the export of before stays")
def test_wrong_graph_is_refused_and_keeps_earlier_files(tmp_path, monkeypatch):
    right = graphs.run_session
    monkeypatch.setattr(export, "run_session", lambda made, **inputs: right(made, **inputs) + 0.1)
    (tmp_path / "model.json").write_text("of before")
    with pytest.raises(UserError, match=r"--export: values of view up to [\d.]+ differ by 1.0e-01 in ONNX Runtime"):
        run_export(filled_gsvnet("swiftnet", "none"), options_for(tmp_path, "swiftnet", (32, 64), "none"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of before"]


@pytest.mark.slow
def test_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    net = filled_gsvnet("swiftnet", "none")
    with pytest.raises(UserError, match="file/out: cannot be written .*choose another folder for --export"):
        run_export(net, options_for(tmp_path / "file" / "out", "swiftnet", (32, 64), "none"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="view.onnx: cannot be written .No space left on device.; free some space"):
        run_export(net, options_for(tmp_path / "out", "swiftnet", (32, 64), "none"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "words, message",
    [
        (["--export-size", "64", "64"], "--export-size has an effect only with --export DIR"),
        (["--export", "x", "--export-size", "16", "64", "--resume", "1"], "--export-size must be at least 32, not 16"),
        (["--export", "x", "--resume", "1", "--evaluate", "1"], "--export and --evaluate 1 exclude each other"),
        (["--export", "x", "--resume", "1", "--method", "copy"], "--export requires --stage gsv with --method gsv"),
        (["--export", "x", "--method", "warp", "--optical-flow-network", "dis", "--carry", "labels"],
         "--export requires --stage gsv with --method gsv or warp and --carry logits"),
        (["--engine", "onx"], r"--engine: invalid value 'onx' \(did you mean onnx\?\)"),
    ],
)
def test_mistakes_are_named(words, message):
    with pytest.raises(UserError, match=message):
        parse(words)


@pytest.mark.slow
def test_command_line_exports_a_released_file(weights, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["--export", str(folder), "--export-size", "32", "64", "--resume", "1", "--weights-dir", str(weights),
                 "--device", "cpu",
                 "--interval", "5", "--dataset", "synthetic"]) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == FILES
    assert re.search(r"keyframe: ONNX Runtime and PyTorch differ by at most \d\.\de-0\d, the largest value is", printed)
    assert json.loads((folder / "model.json").read_text())["keyframe"]["interval"] == 5
    assert main(["--export", str(folder), "--resume", str(tmp_path / "none.tar")]) == 2
    assert "none.tar: not found" in capsys.readouterr().err


def test_example_has_the_programs_flow_where_the_grid_is_larger_than_the_look():
    frames, dis = moving((1024, 2048), count=2), DISFlow(64, "fast")
    settings = {"opencv_preset": PRESETS["fast"][0], "finest_scale": PRESETS["fast"][1]}
    looks = [onnx_numpy.look_of(frame, 64) for frame in frames]
    expected = dis.between(*map(dis.look, frames), (128, 256))
    assert np.allclose(onnx_numpy.flow_between(*looks, settings, 128, 256)[0], expected, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("precision, kinds", [("int8", {"keyframe"}), ("fp16", {"keyframe", "propagation"})])
def test_variants_in_lower_precision_are_described_and_the_example_runs_them(tmp_path, precision, kinds):
    height, width = SIZES["swiftnet"]
    frames = panning([3] * 5, size=(height, width))
    write_frames(tmp_path / "frames", frames)
    words = ["--precision", precision, "--calibrate", str(tmp_path / "frames")]
    net = filled_gsvnet("swiftnet", "light")
    content = run_export(net, options_for(tmp_path / "out", "swiftnet", (height, width), "light", *words))
    found = {name: graph["variants"][precision] for name, graph in content["graphs"].items() if "variants" in graph}
    assert found.keys() == kinds
    for name, variant in found.items():
        assert 0.8 < variant["agreement"] <= 1
        assert (tmp_path / "out" / variant["onnx"]).stat().st_size < (tmp_path / "out" / f"{name}.onnx").stat().st_size
    pictures = [tmp_path / "frames" / f"{number:03}.png" for number in range(5)]
    onnx_numpy.main(tmp_path / "out", tmp_path / "labels", pictures, precision)
    table = id_table(CITYSCAPES)
    for path, labels in zip(pictures, VideoSegmenter(net).stream(frames)):
        assert (np.asarray(Image.open(tmp_path / "labels" / path.name)) == table[labels]).mean() > 0.8


@pytest.mark.parametrize("precision, message", [
    ("bf16", "--export: bf16 has no file of its own; ask OpenVINO"),
    ("int8", "--export: int8 is compared on frames; name some with --calibrate PATH"),
])
def test_precisions_that_cannot_be_exported_are_refused(precision, message):
    with pytest.raises(UserError, match=message):
        parse(["--export", "x", "--resume", "1", "--precision", precision])
