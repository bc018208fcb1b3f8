"""FILE.py:FUNCTION, a network that the user's own code builds."""
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from config.errors import UserError, did_you_mean
from config.segmenters import user_function
from models.segmenters.foreign import GUIDE, ForeignSegmenter, as_user_errors
from utils.checkpoint import WeightsFile
from utils.logging import logger

CHECKS: dict[str, Callable[[Any], bool]] = {  # of the mapping's values
    "classes": lambda names: not isinstance(names, str) and all(isinstance(name, str) for name in names),
    "colours": lambda colours: all(len(colour) == 3 and 0 <= min(colour) <= max(colour) < 256 for colour in colours),
    "mean": lambda values: len(values) == 3 and all(map(math.isfinite, values)),
    "std": lambda values: len(values) == 3 and 0 < min(values) and 1 <= max(values) < math.inf,  # on the 0..255 scale
    "multiple": lambda side: type(side) is int and side > 0,
    "scores": lambda kind: kind in ("logits", "probabilities"), "pick": callable,
}


def from_file(specification: str, *, file: WeightsFile | None) -> ForeignSegmenter:
    """What the function returns, a module, or a pair of module and mapping with the keys of CHECKS, with the weights of
    `file` if there is one. Runs the user's code. Raises UserError."""
    path, function = user_function(specification) or (Path(), "")
    if not path.is_file():
        raise UserError(f"--segnet {specification}: {path} not found")
    logger.info("%s: runs this code", specification)
    with as_user_errors(specification):
        described: Any = importlib.util.spec_from_file_location(f"segmenter_{path.stem}", path)
        module = sys.modules[described.name] = importlib.util.module_from_spec(described)  # dataclasses look it up
        described.loader.exec_module(module)
        if not hasattr(module, function):
            raise UserError(f"--segnet {specification}: {path} has no {function}{did_you_mean(function, dir(module))}")
        made = getattr(module, function)()
    network, settings = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
    if not isinstance(network, nn.Module) or not isinstance(settings, Mapping):
        raise UserError(f"--segnet {specification}: must return a torch module (of an exported program, its module()), "
                        f"or a pair of module and mapping, not {type(made).__name__}; see {GUIDE}")
    for key, value in settings.items():
        if key not in CHECKS:
            known = f"{did_you_mean(str(key), CHECKS)}; known keys: {', '.join(CHECKS)}"
            raise UserError(f"--segnet {specification}: unknown key {key!r}{known}")
        with as_user_errors(specification, f", in {key}: {value!r}"):
            if not CHECKS[key](value):
                range_ = "; it is on the 0..255 scale" if key in ("mean", "std") else ""
                raise UserError(f"--segnet {specification}: {key} must not be {value!r}{range_}; see {GUIDE}")
    if ("mean" in settings) != ("std" in settings):
        raise UserError(f"--segnet {specification}: mean and std belong together; add the other one")
    named = {key: value for key, value in settings.items() if key not in ("classes", "pick")}
    pick = settings.get("pick", lambda output: output)
    return ForeignSegmenter(
        specification, network, file=file, names=settings.get("classes", ()),
        call=lambda network, image: pick(network(image)), **named,
    )
