"""The classes of a segmenter and those of a data set; any number of them in propagation, loss and label map."""
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from config.camvid import CAMVID
from config.cityscapes import CITYSCAPES
from config.class_map import members, read_class_map, same_names
from config.command_line import parse
from config.errors import UserError
from models.guided_conv import GuidedConv
from models.label_map import label_map
from models.load import networks_for_inference
from models.losses import PropagationLoss
from models.segmenters.base import MergedClasses, Segmenter
from tests.models.test_guided_conv import published_edge, published_fuse, published_kernels
from tests.released import fill

ROOT = Path(__file__).resolve().parents[2]
FILE = '''
from torch import nn


def build():
    return nn.Conv2d(3, {count}, 1), {settings}
'''


def matched(folder, names, class_map: str = "", dataset: str = "camvid") -> Segmenter:
    """A segmenter of these classes (a number: without names), as it is loaded for the data set."""
    nameless = isinstance(names, int)
    settings = {} if nameless else {"classes": tuple(names)}
    (folder / "net.py").write_text(FILE.format(count=names if nameless else len(names), settings=settings))
    (folder / "map.yaml").write_text(class_map)
    words = ["--class-map", str(folder / "map.yaml")] if class_map else []
    words += ["--segnet", f"{folder}/net.py:build", "--method", "per-frame", "--evaluate", "1", "--dataset", dataset]
    return networks_for_inference(parse(words)).segmenter


def check_labels(segmenter: Segmenter, channel_of) -> None:
    """The class of a pixel is the one that its largest channel becomes; channel_of: our index -> channels."""
    scores = torch.randn(2, segmenter.classes, 5, 7)
    logits = segmenter.class_logits(scores)
    assert logits.shape == (2, CAMVID.num_classes, 5, 7)
    for number in range(CAMVID.num_classes):
        assert torch.equal(logits[:, number], scores[:, channel_of(number)].amax(dim=1))
    used = sorted(channel for number in range(CAMVID.num_classes) for channel in channel_of(number))
    owner = {channel: number for number in range(CAMVID.num_classes) for channel in channel_of(number)}
    largest = scores[:, used].argmax(dim=1)
    assert torch.equal(logits.argmax(dim=1), torch.tensor([owner[channel] for channel in used])[largest])


def test_classes_of_the_same_names_are_put_in_order(tmp_path):
    names = [name.upper().replace(" ", "_") for name in reversed(CAMVID.classes)]
    segmenter = matched(tmp_path, names)
    assert segmenter.names == CAMVID.classes
    check_labels(segmenter, lambda number: [CAMVID.num_classes - 1 - number])
    assert segmenter.colours[0] != segmenter.colours[1]


def test_several_classes_become_one_and_others_are_ignored(tmp_path):
    names = [*CAMVID.classes[:-1], "Moving_Cyclist", "parked-bicycle", "snow"]
    last = CAMVID.num_classes - 1
    segmenter = matched(tmp_path, names, f"moving cyclist: {CAMVID.classes[last]}\nParked Bicycle: "
                                         f"{CAMVID.classes[last].upper()}\nsnow: ignore\n")
    check_labels(segmenter, lambda number: [last, last + 1] if number == last else [number])
    assert len(segmenter.colours) == CAMVID.num_classes


def test_classes_without_names_are_mapped_by_number(tmp_path):
    lines = [f"class {number}: {CAMVID.classes[-1 - number]}" for number in range(CAMVID.num_classes)]
    segmenter = matched(tmp_path, CAMVID.num_classes, "\n".join(lines))
    check_labels(segmenter, lambda number: [CAMVID.num_classes - 1 - number])


def test_merged_classes_are_the_maximum_of_probabilities_too():
    segmenter = Segmenter()
    segmenter.scores, segmenter.merged = "probabilities", MergedClasses([[0, 2], [1]])
    shares = torch.tensor([0.3, 0.4, 0.3])[None, :, None, None]
    assert segmenter.class_logits(shares).argmax(dim=1).item() == 1


@pytest.mark.parametrize("names, class_map, message", [
    ([*CAMVID.classes, "snow"], "", "--segnet .*net.py:build: its class 'snow' is none of the data .*--class-map FILE"),
    (CAMVID.classes[1:], "", f"--segnet .*net.py:build: none of its classes .*data set's class '{CAMVID.classes[0]}'"),
    (CAMVID.num_classes, "", "its class 'class 0' is none of the data set's"),
    (CAMVID.classes, "snow: road", "map.yaml: the segmenter has no class 'snow'"),
    (CAMVID.classes, "rode: sky", r"map.yaml: the segmenter has no class 'rode' \(did you mean road\?\)"),
    (CAMVID.classes, "road: rode", r"map.yaml: the data set has no class 'rode' \(did you mean road\?\)"),
    (CAMVID.classes, "road: ignore", "none of its classes .* becomes the data set's class 'road'"),
    (CAMVID.classes, "road: 3", "map.yaml: 'road': 3 must be two names; put them in quotes"),
    (CAMVID.classes, "road: [sky]", r"map.yaml: 'road': \['sky'\] must be two names"),
    (CAMVID.classes, "Road: road\nroad: sky", "map.yaml: two lines name the same class"),
    (CAMVID.classes, "- road", "map.yaml: must have lines SEGMENTER CLASS: DATA CLASS at its top level"),
    (CAMVID.classes, "road: sky: car", "map.yaml, line 1: not YAML"),
])
def test_what_cannot_be_matched_is_refused(tmp_path, names, class_map, message):
    with pytest.raises(UserError, match=message) as raised:
        matched(tmp_path, names, class_map)
    assert "\n" not in raised.value.line


def test_example_maps_cityscapes_to_camvid():
    class_map = read_class_map(str(ROOT / "docs" / "examples" / "cityscapes_to_camvid.yaml"))
    found = members(CITYSCAPES.classes, CAMVID.classes, class_map, path="", segnet="")
    assert sorted(index for indices in found for index in indices) == [*range(CITYSCAPES.num_classes)]
    cars = found[CAMVID.classes.index("car")]
    assert [CITYSCAPES.classes[index] for index in cars] == ["car", "truck", "bus", "train"]


def test_spelling_of_names():
    assert same_names(["Traffic_Light", "fence"], ["traffic-light", "FENCE"])
    assert not same_names(["traffic light"], ["trafficlight"]) and not same_names(["a", "b"], ["b", "a"])


@pytest.mark.parametrize("classes", [2, 19, 21, 150])
def test_any_number_of_classes(classes):
    guided, weights = fill(GuidedConv(classes)), [1.0 + i % 3 for i in range(classes)]
    warped, teacher, view = torch.randn(2, classes, 9, 14), torch.randn(2, classes, 9, 14), torch.randn(2, 3, 9, 14)
    with torch.no_grad():
        intra, edge, tensors = guided.intra(view), published_edge(warped), guided.state_dict()
        kernels = published_kernels(tensors, intra, edge, False)
        logits = guided(warped, view)
        assert torch.allclose(logits, published_fuse(warped, intra, kernels, tensors["filter_bank"]), atol=1e-5)
    label = torch.randint(0, classes, (2, 72, 112)).masked_fill(torch.rand(2, 72, 112) < 0.1, 255)
    losses = PropagationLoss(weights, param_ce=10, param_distil=7, ignore=255)(logits, label, teacher)
    large, taught = (F.interpolate(x, (72, 112), mode="bilinear", align_corners=True) for x in (logits, teacher))
    ce = nn.CrossEntropyLoss(torch.tensor(weights), ignore_index=255)(large, label)
    divergence = (taught.softmax(1) * (taught.log_softmax(1) - large.log_softmax(1))).mean()
    assert torch.allclose(losses["total"], 10 * (ce + 7 * divergence), rtol=1e-4)
    smooth = F.interpolate(torch.randn(1, classes, 3, 4), (9, 14), mode="bicubic", align_corners=True)
    for x in (logits[:1], smooth):  # both ways to compute a label map
        large = F.interpolate(x, (72, 112), mode="bilinear", align_corners=True)
        assert (label_map(x, (72, 112)) != large.argmax(dim=1)[0]).sum() <= 1  # equal up to rounding
