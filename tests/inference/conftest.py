"""The program run in the test's process."""
import pytest

from config.command_line import parse
from inference import video
from main import main


@pytest.fixture(scope="module")
def net(weights):
    return video.networks_for_inference(parse(["--weights-dir", str(weights), "--resume", "1"]))


@pytest.fixture
def call(weights, net, monkeypatch, capfd):
    """Run the program with the released files, on the CPU, in PyTorch if no engine is given: status, lines of
    standard error, standard output."""
    monkeypatch.setattr(video, "networks_for_inference", lambda options: net)

    def run(*words) -> tuple[int, list[str], str]:
        capfd.readouterr()
        given = ["--weights-dir", str(weights), "--resume", "1", "--device", "cpu", *map(str, words)]
        status = main(given if "--engine" in given else [*given, "--engine", "eager"])
        out, err = capfd.readouterr()
        return status, err.strip().splitlines(), out

    return run
