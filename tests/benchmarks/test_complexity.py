"""Parameter counts and multiply-accumulates as published for 1024 x 2048."""
import pytest
import torch

from benchmarks.complexity import gmac, parameters, published_fusion_gmac
from models.build import build_flow, build_segmenter
from models.guided_conv import GuidedConv

H, W = 1024, 2048


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


@pytest.mark.parametrize(
    "name, count, published",
    [("swiftnet", 11_797_071, {1.0: 103.57, 0.75: 58.26, 0.5: 25.89}), ("bisenet", 13_494_777, {0.75: 58.34})],
)
def test_segmenter(name, count, published):
    with torch.device("meta"):
        segmenter = build_segmenter(name=name, classes=19).eval()
    assert parameters(segmenter) == count
    for scale, value in published.items():
        assert gmac(segmenter, meta(1, 3, int(H * scale), int(W * scale))) == pytest.approx(value, abs=0.006)


@pytest.mark.parametrize("name, published", [
    ("pidnet-s", (47.194, 26.547, 15.633)), ("pidnet-m", (177.329, 99.748, 58.743)),
    ("pidnet-l", (274.933, 154.650, 90.985)), ("ddrnet23-slim", (36.281, 20.408, 12.014)),
    ("ddrnet23", (143.061, 80.472, 47.352)), ("bisenet-xception39", (27.762, 15.616, 9.157)),
    ("bisenetv2", (98.413, 55.357, 33.157)),
])
def test_further_segmenters(name, published):
    with torch.device("meta"):
        segmenter = build_segmenter(name=name, classes=19).eval()
    last = (736, 960) if name == "bisenetv2" else (720, 960)
    for size, value in zip(((1024, 2048), (768, 1536), last), published):
        assert gmac(segmenter, meta(1, 3, *size)) == pytest.approx(value, abs=0.0006)


@pytest.mark.parametrize("name, count, published", [("light", 186_402, 0.390), ("flownet", 38_676_514, 2.626)])
def test_flow(name, count, published):
    with torch.device("meta"):
        flow = build_flow(name=name).eval()
    assert parameters(flow) == count
    frame = meta(1, 3, H // 8, W // 8)
    assert gmac(flow, frame, frame) == pytest.approx(published, abs=0.0006)


def test_guided_convolution_costs_the_published_figure_less_what_its_form_saves():
    with torch.device("meta"):
        guided = GuidedConv(19).eval()
    assert parameters(guided) == 210_085
    h, w = H // 8, W // 8
    ours = gmac(guided, meta(1, 19, h, w), meta(1, 3, h, w))
    assert ours + published_fusion_gmac(19, h, w) == pytest.approx(2.363, abs=0.0006)


def test_average_over_an_interval_of_three():
    with torch.device("meta"):
        parts = (build_segmenter(name="swiftnet", classes=19), build_flow(name="light"), GuidedConv(19))
    segmenter, flow, guided = (x.eval() for x in parts)
    h, w = H // 8, W // 8
    key = gmac(segmenter, meta(1, 3, H * 3 // 4, W * 3 // 4))
    step = gmac(flow, meta(1, 3, h, w), meta(1, 3, h, w)) + gmac(guided, meta(1, 19, h, w), meta(1, 3, h, w))
    assert (key + 2 * (step + published_fusion_gmac(19, h, w))) / 3 == pytest.approx(21.25, abs=0.01)
