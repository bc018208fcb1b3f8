"""The frozen segmenter that a propagation is trained under, run by any engine of the streams."""
from collections.abc import Callable

import torch
from torch import Tensor

from config.errors import UserError
from config.options import OF_AMP, Options
from inference.calibration import Pair
from inference.engines import build_engine
from models.gsvnet import GSVNet, segment
from models.steps import SegmenterStep
from utils.logging import logger

Frozen = Callable[[Tensor], Tensor]  # frames (N,3,H,W), RGB 0..255 float32 -> logits (N,C,H/stride,W/stride) float32


def frozen_segmenter(
    net: GSVNet, options: Options, device: torch.device, calibration: Callable[[], list[Pair]]
) -> Frozen:
    """The segmenter of `net` by --engine in --precision; by default PyTorch, compiled with --compile 1, as --amp asks.

    Where --precision is given, the first frames are segmented in float32 too. Raises UserError if engine or precision
    do not work here, and then if fewer than --agreement of these pixels keep their class.
    """
    name = options.engine if options.engine != "auto" else "compile" if options.compile else "eager"
    judged = "precision" in options.given and options.precision != "fp32"
    precision = options.precision if "precision" in options.given else OF_AMP[options.amp]
    pairs = calibration() if precision == "int8" else []
    engine = build_engine(
        name, net, scale=1.0, device=device, precision=precision, method="per-frame", calibration=pairs,
        keyframe=SegmenterStep(net, 1.0),
    )

    def run(frames: Tensor) -> Tensor:
        nonlocal judged
        with torch.autocast(device.type, enabled=False):  # the engine has its own precision
            logits = engine.run("keyframe", frames.movedim(1, -1).contiguous()).to(device)
            expected = segment(net.segmenter, frames) if judged else logits
        if judged:
            judged, flags = False, f"--engine {name} --precision {precision}"
            _check_agreement(logits, expected, flags, options.agreement)
        return logits

    return run


def _check_agreement(found: Tensor, expected: Tensor, flags: str, least: float) -> None:
    share = float((found.argmax(dim=1) == expected.argmax(dim=1)).float().mean())
    logger.info("frozen segmenter, %s: %.2f %% of the pixels have float32's class", flags, 100 * share)
    if share < least:
        raise UserError(
            f"{flags}: only {100 * share:.2f} % of the pixels have float32's class, --agreement asks for "
            f"{100 * least:g}; use another --precision, or a smaller --agreement"
        )
