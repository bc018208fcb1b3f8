"""What OpenVINO and NNCF do to the process and the user's files."""
import ctypes
import gc
import os
import subprocess
import sys

import pytest
import torch

from inference.engines import build_engine
from inference.openvino_models import core
from inference.stream import VideoSegmenter
from tests.inference.test_engines import moving_frames
from tests.main.program import ROOT
from tests.models.tiny_networks import extra
from tests.released import filled_gsvnet

pytestmark = pytest.mark.slow


def test_importing_them_leaves_nothing_in_the_home_folder(tmp_path):
    extra("openvino"), extra("nncf")
    code = "import inference.quantised as q, nncf; q.core().get_versions('CPU')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)})
    assert [*tmp_path.iterdir()] == []


def test_onnx_runtime_leaves_nothing_in_the_cache_folder(tmp_path):
    extra("onnxruntime"), extra("onnx")
    code = "import inference.onnx_graphs, onnxruntime; onnxruntime.SessionOptions()"
    folders = {name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, **folders})
    assert [*tmp_path.rglob("*")] == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' stack_t")
def test_signals_keep_their_stack_while_engines_come_and_go():
    """Two cores of OpenVINO in a process would leave the next signal a stack that has been freed."""
    extra("openvino")
    net, frame = filled_gsvnet("swiftnet", "light").eval(), moving_frames(64, 96)[0]
    core().get_versions("CPU")  # loads the plugin
    before = signal_stack()
    engines = [build_engine("openvino", net, scale=0.75, device=torch.device("cpu")) for _ in range(2)]
    for engine in engines:
        VideoSegmenter(net, engine=engine)(frame)
    del engine
    for _ in range(2):
        del engines[0]  # the older one first
        gc.collect()
    assert signal_stack() == before


def signal_stack() -> int:
    """Where signals have their stack, from Linux' stack_t."""
    stack = (ctypes.c_uint64 * 3)()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack[0]
