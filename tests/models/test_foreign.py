"""Segmenters of every kind through one tester; foreign ones against their own libraries, and whatever is wrong in them.

Without transformers, segmentation_models_pytorch or scipy their tests are skipped; with EXTRAS=1 they fail.
"""
import re
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from config.camvid import CAMVID
from config.command_line import parse
from config.errors import UserError
from config.segmenters import VIDEO_NETWORKS
from main import main
from models.build import SEGMENTERS
from models.gsvnet import segment
from models.load import networks_for_inference
from models.segmenters.base import Segmenter
from tests.main.program import refusal
from tests.models import tiny_networks, user_network
from tests.models.segmenter_tester import check_export, check_frozen, check_inference, check_learns, close
from tests.models.tiny_networks import (
    CLASSES,
    PROGRAM_SIZE,
    TRANSFORMERS,
    UNIVERSAL,
    extra,
    randomised,
    transformers_network,
    user_file,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
BIG = {"pidnet-m", "pidnet-l", "ddrnet23", "torchvision:fcn_resnet50", "torchvision:deeplabv3_resnet50",
       "hf:upernet-convnext", "hf:mask2former", "deeplab101", "accel18"}  # or like another one
FILES = [f"file:{name}" for name in ("module", "views", "pair", "probabilities", "picked", "script", "program")]
HUGGING_FACE = [f"hf:{name}" for name in TRANSFORMERS]
FOREIGN = [
    "torchvision:lraspp_mobilenet_v3_large", "torchvision:fcn_resnet50", "torchvision:deeplabv3_resnet50",
    *HUGGING_FACE, "smp:unet:resnet18", "smp:folder", "smp:folder:softmax2d", *FILES,
]
FROZEN_BIAS = {"bisenetv2": {"segment.S5_5.bn.bias"}}  # the BatchNorm after it subtracts it
DEFORMABLE = {"deeplab101", "accel18"}  # too large for a test; deeplab18 has the same convolution
EXPORTED = (
    *(name for name in SEGMENTERS if name not in BIG | DEFORMABLE), *FOREIGN[:3], "hf:segformer", "hf:upernet-convnext",
    "hf:mobilevit", "hf:dpt", "smp:unet:resnet18", "file:pair", "file:probabilities", "file:program",
)


def listed(names: list[str]) -> list:
    """The names as parameters; those of BIG are slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in BIG else name for name in names]


def built(specification: str, *words: str) -> Segmenter:
    """The segmenter as --video loads it: without a data set, if the words name none."""
    video = ["--method", "per-frame", "--video", "demo", "--output", "labels"]
    return networks_for_inference(parse(["--segnet", specification, *video, *words])).segmenter


@dataclass(frozen=True)
class Foreign:
    """A foreign segmenter: the command line's words for it, the network that they mean, the segmenter that is built
    from them, and how its library is called."""

    words: tuple[str, ...]
    network: nn.Module
    segmenter: Segmenter
    expected: Callable[[Any, Tensor], Tensor]  # (network, image) -> scores


def made(name: str, folder: Path) -> Foreign:
    library, _, kind = name.partition(":")
    if library == "hf":
        network, words = transformers_network(kind, folder), [f"hf:{folder}"]
    elif library == "torchvision":
        network = extra("torchvision").models.get_model(kind, weights=None, weights_backbone=None, num_classes=21)
        words = [name, *saved(randomised(network), folder)]
    elif kind.startswith("folder"):
        network = randomised(extra("segmentation_models_pytorch").Unet(
            "mobilenet_v2", encoder_depth=3, decoder_channels=(16, 8, 8), encoder_weights=None, classes=4,
            activation=kind.partition(":")[2] or None))
        network.save_pretrained(folder)
        words = [f"smp:{folder}"]
    elif library == "smp":
        network = extra("segmentation_models_pytorch").Unet("resnet18", encoder_weights=None, classes=4)
        words = [name, *saved(network, folder)]
    else:
        network, words = user_network.Net().eval(), [f"{user_file(folder)}:{kind}"]
    return Foreign(tuple(words), network, built(*words), CALLS.get(name, CALLS.get(library, lambda net, x: net(x))))


def saved(network: nn.Module, folder: Path) -> tuple[str, str]:
    torch.save(network.state_dict(), folder / "weights.pth")
    return "--segnet-weights", str(folder / "weights.pth")


def of_queries(output) -> Tensor:
    """As transformers' image processors have it in `post_process_semantic_segmentation`."""
    classes, masks = output.class_queries_logits.softmax(dim=-1)[..., :-1], output.masks_queries_logits.sigmoid()
    return torch.einsum("bqc, bqhw -> bchw", classes, masks)


CALLS: dict[str, Callable[[Any, Tensor], Tensor]] = {  # of a library, or of one network: (network, image) -> scores
    "torchvision": lambda network, x: network(x)["out"], "hf": lambda network, x: network(pixel_values=x).logits,
    "hf:mobilevit": lambda network, x: network(pixel_values=x.flip(1)).logits,  # BGR
    **dict.fromkeys([f"hf:{kind}" for kind in UNIVERSAL], lambda network, x: of_queries(network(pixel_values=x))),
    "file:picked": lambda network, x: network(x)["out"],
    "file:program": lambda network, x: torch.cat([network(part[None]) for part in x]),  # exported for one image
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return cache(lambda name: made(name, tmp_path_factory.mktemp(re.sub(r"\W", "_", name))))


def native(name: str) -> Segmenter:
    settings = {"norm": (9, 17)} if name == "td4-psp18" else {}  # of small images
    segmenter = SEGMENTERS[name][0](5, **SEGMENTERS[name][1], **settings)
    segmenter.names = tuple("abcde")
    return segmenter


@pytest.mark.parametrize("name", listed([*SEGMENTERS, *FOREIGN]))
def test_every_segmenter(foreign, name):
    if name in SEGMENTERS:
        check_inference(native(name))
        if name not in VIDEO_NETWORKS:  # whose clips and paths have their own tests
            check_learns(native(name), FROZEN_BIAS.get(name, set()))
    else:
        check_inference(foreign(name).segmenter)
        check_frozen(foreign(name).segmenter)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_export(foreign, name):
    check_export(native(name) if name in SEGMENTERS else foreign(name).segmenter)


@torch.no_grad()
@pytest.mark.parametrize("name", listed(FOREIGN))
def test_scores_are_the_librarys_own(foreign, name):
    segmenter, network = foreign(name).segmenter, foreign(name).network
    image = torch.randn(2, 3, *(segmenter.size or (64, 96)))
    scores = segmenter(image)
    assert torch.equal(scores, foreign(name).expected(segmenter.network, image))
    own = dict(segmenter.network.state_dict())
    assert own.keys() == network.state_dict().keys()
    assert all(torch.equal(x, own[key]) for key, x in network.state_dict().items())
    logits = segmenter.class_logits(scores)
    if segmenter.scores == "probabilities":
        assert torch.allclose(logits.exp(), scores / scores.sum(dim=1, keepdim=True), rtol=1e-4, atol=2e-6)
        assert torch.equal(logits.argmax(dim=1), scores.argmax(dim=1)) and logits.isfinite().all()
    else:
        assert torch.equal(logits, scores)
    probabilities = name.removeprefix("hf:") in UNIVERSAL or name in ("smp:folder:softmax2d", "file:probabilities")
    assert (segmenter.scores == "probabilities") == probabilities


def test_probability_of_zero_has_a_finite_logit():
    segmenter = Segmenter()
    segmenter.scores = "probabilities"
    scores = torch.tensor([[0.0, 0.5, 1.5], [0.0, 0.0, 0.0]])[:, :, None, None]
    logits = segmenter.class_logits(scores)[..., 0, 0]
    assert torch.allclose(logits[0].exp(), torch.tensor([1e-6, 0.25, 0.75])) and logits[1].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", listed(HUGGING_FACE))
def test_names_and_normalisation_are_those_of_the_folder(foreign, name):
    segmenter = foreign(name).segmenter
    assert segmenter.names == CLASSES
    processor = extra("transformers").AutoImageProcessor.from_pretrained(foreign(name).words[0].removeprefix("hf:"))
    frame = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)  # the size that some take alone
    geometry = {"do_resize", "do_center_crop", "do_split_image", "do_pad"} & {*vars(processor)}
    image = processor(list(frame), return_tensors="pt", **dict.fromkeys(geometry, False))["pixel_values"]
    ours = segmenter.normalise(frame)
    assert torch.allclose(ours.flip(1) if name == "hf:mobilevit" else ours, image, atol=1e-5)
    fixed = segmenter.size is not None
    assert fixed == (name in ("hf:dpt", "hf:eomt"))  # all others take frames of any shape, which are not made square
    assert segmenter.input_size(90, 160, 1.0) == ((64, 64) if fixed else (96, 160))


def test_class_of_a_pixel_is_that_of_transformers_own_postprocessing(foreign):
    segmenter = foreign("hf:maskformer").segmenter
    processor = extra("transformers").AutoImageProcessor.from_pretrained(foreign("hf:maskformer").words[0][3:])
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        labels = segmenter.class_logits(segmenter(image)).argmax(dim=1)
        expected = processor.post_process_semantic_segmentation(segmenter.network(pixel_values=image))
    assert torch.equal(labels[0], expected[0])


def test_folder_without_an_image_processor_is_normalised_as_imagenet(tmp_path):
    transformers_network("segformer", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    segmenter = built(f"hf:{tmp_path}")
    assert segmenter.pixel_mean == Segmenter.pixel_mean and segmenter.pixel_std == Segmenter.pixel_std


def test_what_a_users_file_says(foreign):
    segmenter = foreign("file:pair").segmenter
    assert (segmenter.names, segmenter.colours) == (CLASSES, tuple((i, i, i) for i in range(4)))
    assert (segmenter.pixel_mean, segmenter.pixel_std) == ((100, 110, 120), (50, 60, 70))
    assert (segmenter.multiple, segmenter.size) == (4, None)
    silent = foreign("file:module").segmenter
    assert silent.names == ("class 0", "class 1", "class 2", "class 3") and len({*silent.colours}) == 4
    assert (silent.pixel_mean, silent.multiple) == (Segmenter.pixel_mean, 32)
    program = foreign("file:program").segmenter
    assert (program.size, program.batch) == (PROGRAM_SIZE, 1)
    assert foreign("file:views").segmenter.contiguous and not silent.contiguous


@pytest.mark.parametrize("name", ["torchvision:lraspp_mobilenet_v3_large", "smp:fpn:mobilenet_v2"])
def test_file_of_another_number_of_classes(tmp_path, name):
    classes = CAMVID.num_classes
    if name.startswith("smp"):
        network = extra("segmentation_models_pytorch").FPN("mobilenet_v2", encoder_weights=None, classes=classes)
    else:
        torchvision = extra("torchvision")
        network = torchvision.models.get_model(name[12:], weights=None, weights_backbone=None, num_classes=classes)
    content = randomised(network).state_dict() | {"aux_classifier.0.weight": torch.ones(2, 2)}  # of torchvision's
    torch.save({"model": content if name.startswith("torchvision") else network.state_dict()}, tmp_path / "weights.pth")
    words = ["--segnet-weights", str(tmp_path / "weights.pth")]
    assert built(name, *words, "--dataset", "camvid").names == CAMVID.classes
    segmenter, image = built(name, *words), torch.randn(1, 3, 64, 96)
    assert segmenter.names == tuple(f"class {i}" for i in range(classes))
    assert segmenter.weights_file == str(tmp_path / "weights.pth")
    with torch.no_grad():
        expected = network(image)
        assert torch.equal(segmenter(image), expected if isinstance(expected, Tensor) else expected["out"])


def test_categories_of_torchvision(foreign):
    names = foreign("torchvision:lraspp_mobilenet_v3_large").segmenter.names
    assert len(names) == 21 and (names[0], names[15]) == ("__background__", "person")


@torch.no_grad()
@pytest.mark.parametrize("name", ["hf:segformer", "smp:folder", "file:pair"])
def test_file_replaces_a_networks_own_weights(foreign, tmp_path, name):
    network, words = foreign(name).network, foreign(name).words
    changed = {key: x + 0.1 if x.is_floating_point() else x for key, x in network.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": {f"module.{key}": x for key, x in changed.items()}}, tmp_path / "weights.pth")
    loaded = built(words[0], "--segnet-weights", str(tmp_path / "weights.pth"))
    assert all(torch.equal(x, changed[key]) for key, x in loaded.network.state_dict().items())


def test_folder_of_smp_downloads_no_weights_of_its_encoder(foreign, tmp_path):
    folder = shutil.copytree(foreign("smp:folder").words[0].removeprefix("smp:"), tmp_path / "saved")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"encoder_weights": null', '"encoder_weights": "imagenet"'))
    assert "imagenet" in config.read_text()
    assert built(f"smp:{folder}").names == ("class 0", "class 1", "class 2", "class 3")


NET = "from torch import nn\nclass Net(nn.Conv2d):\n    def __init__(self): super().__init__(3, 4, 1)\n"
FORWARD = NET + "    def forward(self, image): return {}\ndef build(): return Net()"
PAIR = NET + "def build(): return Net(), {}"
USERS = {  # content of a user's file -> what the message has after the specification
    "def build(): raise ValueError('lost the weights')": "ValueError: lost the weights",
    "import sys\nsys.exit('usage: train.py')": "SystemExit: usage: train.py",
    "def build(:": "SyntaxError: ",
    "import nothing_of_this_name": "ModuleNotFoundError: No module named 'nothing_of_this_name'",
    "built = 1": "mine.py has no build .did you mean built",
    "def build(): return 3": "must return a torch module .*, or a pair of module and mapping, not int",
    NET + "def build(): return Net(), {}, 1": "must return a torch module .* not tuple",
    NET + "def build(): return Net(), [1]": "must return a torch module .* not tuple",
    FORWARD.format("image / 0"): "has NaN or infinite scores",
    FORWARD.format("nn.functional.dropout(image)"): "returns other scores when it runs again; switch off dropout",
    FORWARD.format("image[:, :1]"): "has one channel; return one for each class, the background too",
    FORWARD.format("image[:, :2]") + ", {'classes': ['a', 'A']}": "two classes have the same name",
    FORWARD.format("image") + ", {'scores': 'probabilities'}": "has negative probabilities; return them, or say",
    PAIR.format({"clases": CLASSES}): r"unknown key 'clases' \(did you mean classes\?\); known keys: classes, colours",
    PAIR.format({"classes": "road"}): "classes must not be 'road'",
    PAIR.format({"classes": [1, 2, 3, 4]}): r"classes must not be \[1, 2, 3, 4\]",
    PAIR.format({"classes": ["a", "b"]}): "2 class names, but 4 channels; list one for each channel",
    PAIR.format({"colours": [(1, 2, 3)]}): "1 colours, but 4 channels",
    PAIR.format({"colours": [(1, 2, 300)] * 4}): "colours must not be ",
    PAIR.format({"mean": [1, 2, 3]}): "mean and std belong together; add the other one",
    PAIR.format({"mean": [0.5, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}): "std must not be .* it is on the 0..255 scale",
    PAIR.format({"mean": ["a", "b", "c"], "std": [1, 1, 1]}): "TypeError: .* in mean: ",
    PAIR.format({"mean": 3, "std": [1, 1, 1]}): "TypeError: .* in mean: 3",
    PAIR.format({"multiple": 0}): "multiple must not be 0",
    PAIR.format({"scores": "softmax"}): "scores must not be 'softmax'",
    PAIR.format({"pick": "out"}): "pick must not be 'out'",
    FORWARD.format("{'out': image}"): r"must return scores \(1,C,h,w\), not dict; see docs/segmenters.md, `pick`",
    FORWARD.format("image.argmax(1)"): r"must return scores \(1,C,h,w\), not torch.int64 \(1, 128, 160\)",
    FORWARD.format("image.long()"): r"must return scores \(1,C,h,w\), not torch.int64 \(1, 3, 128, 160\)",
    FORWARD.format("image[:, :, 0, 0]"): r"must return scores \(1,C,h,w\), not torch.float32 \(1, 3\)",
    FORWARD.format("1 / 0"): r"fails on an image \(1, 3, 128, 160\): ZeroDivisionError: division by zero; see docs/",
}


@pytest.mark.parametrize("content", USERS, ids=lambda content: content.splitlines()[-1][:60])
def test_what_can_be_wrong_in_a_users_file(tmp_path, content):
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UserError) as raised:
        built(f"{tmp_path}/mine.py:build")
    assert re.match(rf"--segnet \S+/mine.py:build: .*{USERS[content]}", raised.value.line), raised.value.line
    assert "\n" not in raised.value.line


def headless(folder: Path, **settings) -> str:
    """A folder with a network of transformers that does not segment, or not yet."""
    library = extra("transformers")
    config = library.SegformerConfig(depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, **settings)
    library.SegformerModel(config).save_pretrained(folder)
    return f"hf:{folder}"


def text_network(folder: Path) -> str:
    extra("transformers").BertConfig().save_pretrained(folder)
    return f"hf:{folder}"


def wrong_file(folder: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1).state_dict(), folder / "weights.pth")


def smp_name(name: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        extra("segmentation_models_pytorch")
        return name

    make.__name__ = name  # of the test
    return make


FAULTS = {  # specification, or what makes it in a folder; whether a wrong file is named; the message
    "torchvison:lraspp": (False, r"invalid value 'torchvison:lraspp'.*; choose from swiftnet, .*, FILE.py:FUNCTION"),
    "torchvision:": (False, "invalid value 'torchvision:'"),
    "mine.py:build": (False, "mine.py not found"),
    "torchvision:fcn_resnet": (False, r"no such network \(did you mean fcn_resnet50\?\); torchvision has deeplabv3_"),
    "torchvision:lraspp_mobilenet_v3_large": (True, "weights.pth: does not fit the keyframe segmenter torchvision:lr"),
    headless: (False, r"ValueError: its weights lack \d+ tensors of the network \(decode_head\..*; name a network for"),
    text_network: (False, "ValueError: Unrecognized configuration class .*; name a network for semantic"),
    smp_name("smp:unet:resnet18"): (True, "weights.pth: does not fit the keyframe segmenter smp:unet:resnet18: "),
    smp_name("smp:unot:resnet18"): (True, "KeyError: .*Wrong architecture type `unot`"),
    smp_name("smp:unet:resnet81"): (True, "KeyError: .*Wrong encoder name `resnet81`"),
    smp_name("smp:unet"): (False, "requires smp:ARCH:ENCODER or a folder"),
    smp_name("smp:unet:resnet34"): (False, "requires trained weights: --segnet-weights FILE, or smp:FOLDER"),
}


@pytest.mark.parametrize("make", FAULTS, ids=lambda make: make if isinstance(make, str) else make.__name__)
def test_what_can_be_wrong_in_a_specification(tmp_path, monkeypatch, capfd, make):
    monkeypatch.chdir(tmp_path)
    named, message = FAULTS[make]
    wrong_file(tmp_path)
    specification = make if isinstance(make, str) else make(tmp_path)
    words = ["--segnet", specification, "--method", "per-frame", "--video", "demo", "--output", "labels"]
    capfd.readouterr()
    assert main([*words, *(["--segnet-weights", "weights.pth"] if named else [])]) == 2
    line = refusal(capfd.readouterr().err)
    assert re.search(message, line) and specification in line, line
    assert not (tmp_path / "labels").exists()


@pytest.mark.slow  # it tries five times
def test_missing_network_is_one_line(tmp_path, monkeypatch, capfd):
    extra("transformers")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    capfd.readouterr()
    words = ["--method", "per-frame", "--video", "demo", "--output", str(tmp_path / "labels")]
    assert main([*words, "--segnet", "hf:nobody/nothing"]) == 2
    assert "--segnet hf:nobody/nothing: OSError: " in refusal(capfd.readouterr().err)


@pytest.mark.parametrize("name, package", [("torchvision:x", "torchvision.models"), ("hf:x/y", "transformers"),
                                           ("smp:unet:resnet18", "segmentation_models_pytorch")])
def test_missing_package(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"--segnet {name}: requires the package {package}; pip install {package}"):
        built(name)


def test_missing_package_skips_a_test_and_with_extras_fails_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delenv(tiny_networks.STRICT, raising=False)
    with pytest.raises(pytest.skip.Exception):
        extra("transformers")
    monkeypatch.setenv(tiny_networks.STRICT, "1")
    with pytest.raises(ImportError):
        extra("transformers")


def test_program_exported_in_training_mode_is_refused(foreign):
    path, _ = foreign("file:program").words[0].rsplit(":", 1)
    with pytest.raises(UserError, match=f"--segnet {path}:training_program: its buffers change when it runs"):
        built(f"{path}:training_program")


def test_segmenter_of_one_size_is_resized_to_from_any(foreign):
    segmenter = foreign("file:program").segmenter
    frame = torch.randint(0, 256, (2, 3, 90, 160)).float()
    with torch.no_grad():
        logits = segment(segmenter, frame, 0.5)
        small = nn.functional.interpolate(frame, PROGRAM_SIZE, mode="bilinear", align_corners=True)
        assert close(logits, segmenter.class_logits(segmenter(segmenter.normalise(small))))
