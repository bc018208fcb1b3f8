"""The published way's process, and what this program sets for its own."""
import functools
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.own_process import OwnProcess
from config.errors import UserError
from inference.video_input import open_frames
from utils.machine import from_proc, set_up_torch

ROOT = Path(__file__).resolve().parents[2]
HELD = """
import sys
import numpy as np
from utils.machine import from_proc, set_up_torch
if sys.argv[1:]:
    set_up_torch()
large = np.ones(2**25)
del large
print(from_proc("self/status", r"VmRSS:\\s*(\\d+) kB"))
"""


def test_calls_and_tensors_and_errors_cross_and_the_process_ends():
    work = OwnProcess(functools.partial, torch.add, torch.arange(3))
    assert work(torch.ones(3)).tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError, match="TypeError"):
        work("nothing")
    assert work(1).tolist() == [1, 2, 3]
    process = work._process
    del work
    gc.collect()  # the error above, whose traceback has it
    assert process.poll() == -signal.SIGKILL


def test_error_of_the_user_stays_one():
    with pytest.raises(UserError, match="nowhere: no such file"):
        OwnProcess(open_frames, "nowhere")


def test_process_that_is_killed():
    work = OwnProcess(functools.partial, os.getpid)
    os.kill(work(), signal.SIGKILL)
    with pytest.raises(UserError, match="the published way's process ended with status -9, killed or out of memory"):
        work()


@pytest.mark.skipif(from_proc("self/status", "(VmRSS)") is None, reason="requires Linux")
def test_memory_is_kept_after_it_is_freed():
    def held(*words: str) -> int:
        done = subprocess.run([sys.executable, "-c", HELD, *words], cwd=ROOT, capture_output=True, check=True)
        return int(done.stdout)

    assert held() < 2**17 < 2**18 < held("set up")  # of 256 MiB


def test_what_the_environment_tells_stays(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")  # memory is left alone
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    set_up_torch()
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    set_up_torch()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    set_up_torch()
    assert "GOMP_SPINCOUNT" not in os.environ
