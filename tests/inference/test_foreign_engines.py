"""Foreign segmenters of every kind in engines and precisions: the logits of plain PyTorch, or one line that tells why
the segmenter stays there."""
import logging
import re
from functools import cache

import pytest
import torch
from torch import Tensor

from config.errors import UserError
from inference.engines import Engine, build_engine
from models.build import build_flow, build_foreign
from models.gsvnet import GSVNet
from models.guided_conv import GuidedConv
from tests.inference.test_engines import moving_frames
from tests.inference.test_precisions import needs
from tests.models.test_foreign import made

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
CPU = torch.device("cpu")
QUICK = ["file:pair", "file:probabilities", "file:picked", "file:script", "file:program"]
SLOW = ["torchvision:lraspp_mobilenet_v3_large", "torchvision:fcn_resnet50", "torchvision:deeplabv3_resnet50",
        "hf:segformer", "hf:upernet-swin", "hf:upernet-convnext", "hf:dpt", "hf:beit", "hf:mobilevit", "hf:mask2former",
        "hf:maskformer", "hf:eomt", "smp:unet:resnet18", "smp:folder:softmax2d"]
NAMES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
ENGINES = [("eager", "bf16"), ("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"),
           ("openvino", "int8")]
ERROR = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.4}  # of the logits, relative to how they vary: `difference`
LABELS = {"fp32": 0.999, "bf16": 0.95, "int8": 0.8}  # that agree; scores of random networks are close to each other
SCRIPT = "TorchScript cannot be exported; build the network in Python"
PLAIN = {  # where the segmenter stays in plain PyTorch, and the reason that is logged
    **{("file:script", engine, precision): SCRIPT for engine, precision in ENGINES if engine != "eager"},
    ("hf:mask2former", "openvino", "int8"): "ReduceDecomposition supports only Reduce by last dimension",
}
READS_ARRAYS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, 8, 1)

    def forward(self, image):
        if len(image) > 1:
            raise ValueError("one image at a time")
        return torch.from_numpy(self.conv(image).numpy())  # NumPy has no bf16


def build():
    torch.manual_seed(0)
    return Net()
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """Networks by name."""
    return cache(lambda name: net_around(made(name, tmp_path_factory.mktemp("foreign")).segmenter))


@pytest.fixture
def lines(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "gsvnet")
    monkeypatch.setattr(logging.getLogger("gsvnet"), "propagate", True)
    return caplog


def net_around(segmenter) -> GSVNet:
    return GSVNet(segmenter, build_flow(name="none"), GuidedConv(len(segmenter.names))).eval()


def engine_of(net: GSVNet, engine: str, precision: str) -> Engine:
    """The engine for keyframes; the test is skipped where the processor does not compute in that precision."""
    frames = moving_frames(64, 96, count=6)
    pairs = [*zip(frames[::2], frames[1::2])] if precision == "int8" else ()
    return build_engine(
        engine, net, scale=1.0, device=CPU, precision=precision, method="per-frame", calibration=pairs
    )


def keyframe(engine: Engine) -> Tensor:
    """Logits (1,C,h,w) of a frame that int8 was not set up on."""
    try:
        return engine.first(engine.see(torch.from_numpy(moving_frames(64, 96, count=7)[6])[None])).logits
    except UserError as error:
        if "on this processor OpenVINO computes in" in str(error):
            pytest.skip(str(error))
        raise


def difference(found: Tensor, expected: Tensor) -> float:
    """The error's root mean square, relative to that of the expected logits around their mean."""
    return float((found - expected).norm() / (expected - expected.mean()).norm())


def reason_in(lines) -> str:
    """The only line of the log that tells why a segmenter stays in PyTorch."""
    (line,) = [x.getMessage() for x in lines.records if "stays in plain PyTorch" in x.getMessage()]
    return line


@pytest.mark.parametrize("engine, precision", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_engines_compute_the_logits_of_a_foreign_segmenter(net, lines, name, engine, precision):
    needs(engine, precision)
    tried = engine_of(net(name), engine, precision)
    expected, found = keyframe(engine_of(net(name), "eager", "fp32")), keyframe(tried)
    if reason := PLAIN.get((name, engine, precision)):
        shown = f"{engine}( {precision})?"
        assert re.match(f"--engine {shown}: the keyframe segmenter stays in plain PyTorch: {reason}", reason_in(lines))
        assert tried.plain == {"keyframe"} and torch.equal(found, expected)
        return
    assert not tried.plain and not torch.equal(found, expected)
    assert difference(found, expected) <= ERROR[precision]
    assert (found.argmax(dim=1) == expected.argmax(dim=1)).float().mean() >= LABELS[precision]


def test_segmenter_that_fails_in_bf16_stays_in_float32(tmp_path, lines):
    (tmp_path / "net.py").write_text(READS_ARRAYS)
    net = net_around(build_foreign(name=f"{tmp_path}/net.py:build"))
    engines = [engine_of(net, "eager", precision) for precision in ("fp32", "bf16")]
    expected, found = map(keyframe, engines)
    assert [engine.plain for engine in engines] == [set(), {"keyframe"}]
    assert torch.equal(found, expected) and expected.std() > 0
    reason = "the keyframe segmenter stays in plain PyTorch: Got unsupported ScalarType BFloat16"
    assert reason_in(lines) == f"--engine eager bf16: {reason}"


def test_error_of_a_segmenter_in_plain_pytorch_is_raised(tmp_path, lines):
    (tmp_path / "net.py").write_text(READS_ARRAYS)
    engine = engine_of(net_around(build_foreign(name=f"{tmp_path}/net.py:build")), "eager", "fp32")
    with pytest.raises(ValueError, match="one image at a time"):
        engine.first(engine.see(torch.zeros(2, 64, 96, 3, dtype=torch.uint8)))
    assert not engine.plain and not lines.records
