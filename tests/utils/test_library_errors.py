"""Library errors for lack of memory, processes or a compiler, as the user sees them."""
import re
import subprocess
import sys

import cv2
import pytest
import torch

from config.command_line import parse
from tests.main.program import ENVIRONMENT, ROOT, refusal, training
from utils.library_errors import as_user_error

DOOR = "Processes and disks"
CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.1 GiB of which 1 GiB is free."
CPU = "[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 640 bytes. Error 12"
OPENCV = "OpenCV(4.10.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 1258 bytes in function 'x'"


@pytest.mark.tried(
    DOOR, "out of memory, on the GPU, on the CPU, in a library, in a loader process", "one line that names the flag"
)
@pytest.mark.parametrize(
    "error, words, message",
    [
        (torch.OutOfMemoryError(CUDA), [],
         r"out of memory on cuda:1 .tried to allocate 2.50 GiB.; lower --batch-size .now 8. or "
         "--crop-height and --crop-width, or use --amp bf16"),
        (torch.OutOfMemoryError(CUDA), ["--amp", "bf16", "--use-crop", "0"],
         r"lower --batch-size .now 8. or the size of the frames .--use-crop 1.$"),
        (torch.OutOfMemoryError(CUDA), ["--evaluate", "1"], r"lower --scale .now 0.75., or use another --device"),
        (torch.OutOfMemoryError(CUDA), ["--video", "demo", "--output", "a.mp4"], r"lower --scale"),
        (torch.OutOfMemoryError(CUDA), ["--export", "e", "--resume", "1"], r"lower --export-size"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), [],
         r"out of memory on cuda:1; lower --batch-size"),
        (RuntimeError(CPU), [], r"out of memory on the CPU .tried to allocate 640 bytes.; lower --batch-size"),
        (MemoryError(), ["--benchmark", "video"], r"out of memory on the CPU; lower --scale"),
        (
            MemoryError("Caught MemoryError in DataLoader worker process 0.\nTraceback"), [],
            r"out of memory on the CPU; lower --batch-size",
        ),
        (cv2.error(OPENCV), [], r"out of memory on the CPU .tried to allocate 1258 bytes"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), [],
         r"a loader process died .by signal: Killed.*memory ran out; lower --num-worker .now 4; 0: no loader"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"), [],
         r"shared memory ./dev/shm. is too small; lower --num-worker"),
        (
            RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), [],
            r"a loader process died .without an error message.",
        ),
    ],
)
def test_error_names_the_flag_to_lower(error, words, message):
    line = as_user_error(error, parse(words), torch.device("cuda", 1)).line
    assert re.search(message, line), line


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("x"), cv2.error("bad argument"), RuntimeError("")]
)
def test_other_errors_are_not_translated(error):
    assert as_user_error(error, parse([]), torch.device("cpu")) is None


@pytest.mark.tried(
    DOOR, "memory that really runs out in training: address space limited", "one line that names the flag"
)
def test_out_of_memory_in_training(streets, weights, tmp_path):
    script = tmp_path / "limited.py"
    script.write_text(
        "import resource, sys\n"
        "from main import main\n"
        "from trainer.trainer import Trainer\n"
        "step = Trainer._step\n"
        "def limited(self, batch):\n"
        "    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20),) * 2)\n"
        "    return step(self, batch)\n"
        "Trainer._step = limited\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, str(script), *training(streets, weights, tmp_path / "logs")]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr[-2000:]
    assert re.search("out of memory on the CPU.*; lower --batch-size .now 2. or --crop-height", refusal(done.stderr))


@pytest.mark.tried(DOOR, "--compile 1 where no compiler is installed", "one line, status 2")
def test_no_compiler(streets, weights, tmp_path):
    words = [*training(streets, weights, tmp_path / "logs"), "--compile", "1", "--early-stop", "1"]
    environment = {**ENVIRONMENT, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "torch.compile found no C++ compiler" in refusal(done.stderr)
