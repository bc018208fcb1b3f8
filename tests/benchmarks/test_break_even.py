"""What propagation is worth, and what classes cost."""
import pytest
import torch
from torch import nn

from benchmarks import class_counts
from benchmarks.break_even import break_even, break_even_table, verdict
from benchmarks.complexity import stream_gmac
from config.command_line import parse
from models.build import build_flow, build_foreign
from models.gsvnet import GSVNet
from models.guided_conv import GuidedConv

SIZE = (1024, 2048)


class Point(nn.Module):
    """One multiply-add a channel, colour and pixel; cannot run on the meta device if `reads`."""

    def __init__(self, reads: bool):
        super().__init__()
        self.conv, self.reads = nn.Conv2d(3, 19, 1), reads

    def forward(self, image):
        return self.conv(image) * (1.0 if not self.reads or float(image.sum()) < 1 else 2.0)


@pytest.fixture
def net(tmp_path):
    (tmp_path / "mine.py").write_text("import torch\ndef build():\n    return torch.nn.Conv2d(3, 19, 1)\n")
    return GSVNet(build_foreign(name=f"{tmp_path}/mine.py:build"), build_flow(name="light"), GuidedConv(19))


def test_costs_by_interval(net):
    """A keyframe of 40 ms, a propagated frame of 10; 57 multiply-adds a pixel against the paper's 2.75 GMAC."""
    row = {"per_frame_ms": (40.0, 41.0), "propagated_ms": (10.0, 11.0)}
    found = break_even(net, SIZE, 0.5, row)
    key = 57 * 512 * 1024 / 1e9
    assert found["keyframe_gmac"] == pytest.approx(key) and found["propagated_gmac"] == pytest.approx(2.75, abs=0.005)
    assert [x["interval"] for x in found["rows"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    third = found["rows"][2]
    assert third["milliseconds"] == pytest.approx(20) and third["gain"] == pytest.approx(2)
    assert third["gmac"] == pytest.approx((key + 2 * found["propagated_gmac"]) / 3)
    assert third["gmac_gain"] == pytest.approx(key / third["gmac"]) and found["rows"][0]["gain"] == 1
    assert "2.00" in break_even_table("eager", found).console()[4]
    assert verdict(found, row).startswith("propagation pays: ") and "more than 4.0 times" in verdict(found, row)
    slow = {"per_frame_ms": (40.0, 41.0), "propagated_ms": (38.0, 39.0)}
    assert verdict(break_even(net, SIZE, 0.5, slow), slow).startswith("propagation does not pay here: ")


def test_network_that_cannot_run_on_the_meta_device_is_counted_by_running_it(net):
    net.segmenter.network = Point(reads=True)
    with pytest.raises(RuntimeError):
        net.segmenter.network.to("meta")(torch.empty(1, 3, 8, 8, device="meta"))
    net.segmenter.network = Point(reads=True)
    assert stream_gmac(net, 64, 128, 1.0, "per-frame") == pytest.approx((57 * 64 * 128 / 1e9,) * 2)


def test_cost_of_classes(monkeypatch):
    monkeypatch.setattr(class_counts, "frame_size", lambda _: (64, 128))
    monkeypatch.setattr(class_counts, "ROUNDS", 1)
    found = class_counts.benchmark_classes(parse(["--benchmark", "classes"]), torch.device("cpu"))
    assert [row["classes"] for row in found["rows"]] == [2, 19, 21, 150]
    assert found["rows"][1]["gmac"] == pytest.approx(2.75 * 64 * 128 / (1024 * 2048), rel=0.01)
    assert all(row[key] > 0 for row in found["rows"] for key in ("propagate", "labels", "noise", "loss"))
    assert any(line.split()[:1] == ["150"] for line in found["table"])
