"""Graphs in 8 bits: quantised after training, for ONNX Runtime or OpenVINO, and kept in a cache."""
import hashlib
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from config.errors import UserError
from inference.onnx_graphs import quiet
from inference.openvino_models import core
from utils.files import written_whole
from utils.logging import logger

if TYPE_CHECKING:
    import onnx

Files = Mapping[str, bytes]  # by name
LAYERS = "convolutions but the first and grouped ones; transformers as such"  # another choice makes graphs anew


def cache_folder() -> Path:
    """Where quantised graphs and measurements are kept; it may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsvnet"


def int8_model(model: "onnx.ModelProto", images: Sequence[np.ndarray]) -> "onnx.ModelProto":
    """A keyframe's graph with convolutions in 8 bits, for ONNX Runtime: quantised and dequantised per channel.

    images: (1,H,W,3) uint8 each, of the graph's size, which determine the ranges of its activations.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_static

    def make() -> Files:
        with tempfile.TemporaryDirectory() as folder, quiet():
            plain, made = (Path(folder, name) for name in ("plain.onnx", "int8.onnx"))
            onnx.save(model, plain)  # given the model itself, it would change it
            inputs = iter({"image": image} for image in images)
            quantize_static(
                plain, made, SimpleNamespace(get_next=lambda: next(inputs, None)), per_channel=True,
                op_types_to_quantize=["Conv"], nodes_to_exclude=exact_convolutions(model),
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,  # as processors multiply them
            )
            return {"model.onnx": made.read_bytes()}

    found = kept(model, images, f"onnxruntime {onnxruntime.__version__}", ("model.onnx",), make)
    return onnx.load_from_string(found["model.onnx"])


def int8_openvino_model(model: "onnx.ModelProto", images: Sequence[np.ndarray]) -> tuple[bytes, bytes]:
    """As `int8_model`, for OpenVINO, by NNCF: structure and weights in OpenVINO's own format.

    Matrix products are quantised too; of a network with LayerNorm as NNCF does it for transformers, which smooths
    activations and spares attention.
    """
    import openvino

    def make() -> Files:
        with tempfile.TemporaryDirectory() as folder, quiet():
            import nncf

            data = nncf.Dataset(images, lambda image: {"image": image})
            plain = core().read_model(model.SerializeToString())
            patterns = [re.escape(name) + "(/.*)?$" for name in exact_convolutions(model)]  # bias included
            types = sorted({part.get_type_name() for part in plain.get_ops()} - {"Convolution", "MatMul"})
            transformer = any(node.op_type == "LayerNormalization" for node in model.graph.node)
            exact = nncf.IgnoredScope(patterns=patterns, types=types, validate=False)
            made = nncf.quantize(
                plain, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images), ignored_scope=exact,
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            )
            openvino.save_model(made, Path(folder, "model.xml"), compress_to_fp16=False)
            return {name: Path(folder, name).read_bytes() for name in names}

    names = "model.xml", "model.bin"
    found = kept(model, images, f"nncf {version('nncf')}", names, make)
    structure, weights = (found[name] for name in names)
    return structure, weights


def exact_convolutions(model: "onnx.ModelProto") -> list[str]:
    """The names of those that keep their precision, which gains agreement and costs no time: the first one, which sees
    the picture, and grouped ones, which do little work."""
    found = [node for node in model.graph.node if node.op_type == "Conv"]
    grouped = [any(each.name == "group" and each.i > 1 for each in node.attribute) for node in found]
    return [node.name for number, node in enumerate(found) if number == 0 or grouped[number]]


def kept(
    model: "onnx.ModelProto", images: Sequence[np.ndarray], maker: str, names: Sequence[str], make: Callable[[], Files]
) -> Files:
    """What `make` returns, files of these names, for this model, these frames and that maker's version: from the cache,
    if it is there whole.

    A damaged file is made anew; a folder that cannot be written costs the same work the next time.
    """
    digest = hashlib.sha256(maker.encode())
    for part in (LAYERS.encode(), model.SerializeToString(), *(image.tobytes() for image in images)):
        digest.update(part)
    path = cache_folder() / f"{digest.hexdigest()[:32]}.zip"
    try:
        with zipfile.ZipFile(path) as file:
            return {name: file.read(name) for name in names}  # compared with their checksums
    except (FileNotFoundError, NotADirectoryError):
        logger.info("int8: quantising the keyframe segmenter on %d frames", len(images))
    except (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # as zipfile fails
        logger.info("int8: quantising anew, %s is damaged (%s)", path, error)
    files = make()
    try:
        with written_whole(path) as target, zipfile.ZipFile(target, "w") as file:
            for name, content in files.items():
                file.writestr(name, content)
    except UserError as error:
        logger.warning("int8: not kept for the next time: %s", error.line)
    return files
