"""Several processes: each launcher, and a rank that fails."""
import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.released import read_propagation
from utils.run_folder import LATEST

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def words(streets, weights, tmp_path):
    return ["--dataset", "synthetic", "--data-path", str(streets), "--weights-dir", str(weights), "--device", "cpu",
            "--log-folder", str(tmp_path / "logs"), "--crop-height", "64", "--crop-width", "96", "--batch-size", "2",
            "--num-worker", "0", "--multi-step", "1", "--eval-multi-step", "1", "--epoch", "1", "--early-stop", "1"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(module, script, words):
    command = [
        sys.executable, "-m", module, "--nproc_per_node", "2", "--master_port", str(free_port()), str(script), *words
    ]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch.distributed.run", "torch.distributed.launch"])
def test_launcher(module, words, tmp_path):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"this torch has no {module} any longer")
    done = launch(module, ROOT / "main.py", words)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = list((tmp_path / "logs" / "run" / "synthetic" / "swiftnet_test").iterdir())
    assert [run.name for run in runs] == ["experiment_0"]
    assert read_propagation(runs[0] / LATEST).content["epoch"] == 1


@pytest.mark.slow
def test_two_nodes(words, tmp_path):
    """Two launchers that connect through a port, as on two machines."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
               "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    nodes = [subprocess.Popen([*command, "--node_rank", str(rank), str(ROOT / "main.py"), *words], env=ENVIRONMENT,
                              stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for node in nodes:
        _, errors = node.communicate(timeout=120)
        assert node.returncode == 0, errors[-2000:]
    runs = list((tmp_path / "logs" / "run" / "synthetic" / "swiftnet_test").iterdir())
    assert [run.name for run in runs] == ["experiment_0"]
    assert read_propagation(runs[0] / LATEST).content["progress"]["iteration"] == 5


@pytest.mark.tried(
    "Processes and disks", "an error in one of two training processes", "the launcher ends both and shows the error"
)
def test_a_failing_rank_ends_the_job_and_shows_its_error(words, tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(
        "import os, sys\n"
        "from main import main\n"
        "from trainer import trainer\n"
        "step = trainer.Trainer._step\n"
        "def dying(self, batch):\n"
        "    if self.ranks.rank == 1 and self.progress.step == 1:\n"
        "        raise RuntimeError('rank 1 fell over')\n"
        "    return step(self, batch)\n"
        "trainer.Trainer._step = dying\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    start = time.monotonic()
    done = launch("torch.distributed.run", script, words)
    assert done.returncode != 0 and "rank 1 fell over" in done.stderr
    assert time.monotonic() - start < 90  # a minute, as documented, and the start of two processes
