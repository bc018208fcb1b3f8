"""The program downloads nothing but the ImageNet weights of --pretrained-backbone 1, and what --download asks for."""
import socket
import urllib.request

import pytest

from main import main
from tests.main.program import experiment, refusal, training
from utils.run_folder import BEST, LATEST

DOOR = "Processes and disks"


@pytest.fixture
def asked(monkeypatch):
    """Addresses that the program tries to connect to; none is reached."""
    seen = []

    def refuse(*arguments, **_):
        seen.append(arguments)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    return seen


@pytest.mark.tried(
    DOOR, "no network: the three stages, evaluation, video, export, benchmark", "no connection"
)
def test_everything_works_without_a_network(streets, weights, tmp_path, asked):
    words = [*training(streets, weights, tmp_path / "logs"), "--early-stop", "1", "--multi-step", "1"]
    assert main([*words, "--stage", "segnet", "--pretrained-backbone", "0"]) == 0
    assert main([*words, "--stage", "flow"]) == 0
    segmenter = str(experiment(tmp_path / "logs", name="segnet_swiftnet_test") / BEST)
    flow = str(experiment(tmp_path / "logs", name="flow_light_test") / BEST)
    assert main([*words, "--segnet-weights", segmenter, "--flow-weights", flow]) == 0
    words = [*words, "--segnet-weights", segmenter, "--resume", str(experiment(tmp_path / "logs") / LATEST)]
    assert main([*words, "--evaluate", "1"]) == 0
    pictures = str(streets / "leftImg8bit_sequence" / "val" / "streets")
    assert main([*words, "--video", pictures, "--output", str(tmp_path / "labels"), "--engine", "eager"]) == 0
    assert main([*words, "--export", str(tmp_path / "exported"), "--export-size", "64", "64"]) == 0
    assert main([*words[:-4], "--benchmark", "loader"]) == 0  # which reads no weights
    assert asked == []


@pytest.mark.tried(
    DOOR, "no network: --stage segnet --pretrained-backbone 1", "one attempt, one line, status 2"
)
def test_imagenet_weights_are_the_only_download(streets, weights, tmp_path, monkeypatch, capsys, asked):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)
    assert main([*training(streets, weights, tmp_path / "logs"), "--stage", "segnet"]) == 2
    assert "--pretrained-backbone 0 starts without them" in refusal(capsys.readouterr().err.splitlines()[-1])
    assert [host for host, *_ in asked] == [("download.pytorch.org", 443)]
    assert not (tmp_path / "logs").exists()
