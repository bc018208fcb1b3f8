"""--benchmark classes: what the number of classes costs a propagated frame, its label map and the training loss."""
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.comparison import sample_inputs
from benchmarks.complexity import gmac, published_fusion_gmac
from benchmarks.measure import Rounds, frame_size, median_and_p95, turns
from config.options import Options
from models.build import build_flow
from models.gsvnet import GSVNet
from models.guided_conv import GuidedConv
from models.label_map import label_map
from models.losses import PropagationLoss
from models.resize import grid_size
from models.segmenters.base import Segmenter
from models.steps import PropagationStep
from utils.device import synchronise
from utils.text_table import Table

COUNTS = (2, 19, 21, 150)  # of classes; the last is ADE20K's
ROUNDS = 5
LOSS = 2  # sides of the frame by sides of the loss's crop


def benchmark_classes(options: Options, device: torch.device) -> dict:
    """Time PyTorch's propagation step, the label map, and forward and backward pass of the loss on a crop.

    Returns `settings`, `rows` (`classes`, `gmac`, and `propagate`, `labels`, `noise`, `loss`: median milliseconds),
    `table`. `labels` is of regions as large as a street's; `noise` is the slowest label map: all neighbours differ.
    """
    size = frame_size(options)
    rows = []
    for classes in COUNTS:
        net = GSVNet(Segmenter(), build_flow(name=options.optical_flow_network), GuidedConv(classes), options.grid)
        step, (_, logits) = PropagationStep(net.eval()).to(device), sample_inputs(classes, size, options.grid)
        logits, view = logits.to(device), torch.randn(1, 3, *grid_size(*size, options.grid), device=device)
        works: dict[str, Callable[[], object]] = {
            "propagate": partial(_propagate, step, logits, view), "labels": partial(label_map, logits, size),
            "noise": partial(label_map, torch.randn_like(logits), size),
            "loss": partial(_loss, logits, (size[0] // LOSS, size[1] // LOSS)),
        }
        seconds = turns(works, Rounds.of(options, ROUNDS), partial(synchronise, device))
        times = {name: median_and_p95(found)[0] for name, found in seconds.items()}
        cost = gmac(step, logits, view, view) + published_fusion_gmac(classes, *grid_size(*size, options.grid))
        rows.append({"classes": classes, "gmac": cost, **times})
    settings = (
        f"{size[1]} x {size[0]}, batch 1, grid 1/{options.grid}, {options.optical_flow_network} flow, untrained, eager "
        f"engine; loss with its backward pass on a crop of {size[1] // LOSS} x {size[0] // LOSS}"
    )
    cells = [tuple(f"{row[key]:.2f}" if key != "classes" else str(row[key]) for key in row) for row in rows]
    head = ("classes", "GMAC of a propagated frame", "propagate, ms", "label map, ms", "of noise, ms", "loss, ms")
    return {"settings": settings, "rows": rows, "table": [settings, *Table("", head, tuple(cells)).console()]}


@torch.inference_mode()
def _propagate(step: PropagationStep, logits: Tensor, view: Tensor) -> Tensor:
    return step(logits, view, view)


def _loss(logits: Tensor, crop: tuple[int, int]) -> None:
    """Forward and backward pass of the propagation's loss, logits of the crop's grid against themselves."""
    part = logits[..., : logits.shape[2] // LOSS, : logits.shape[3] // LOSS].clone().requires_grad_()  # (1,C,h,w)
    classes = part.shape[1]
    criterion = PropagationLoss((1.0,) * classes, param_ce=10, param_distil=10, ignore=255).to(part.device)
    label = torch.zeros(1, *crop, dtype=torch.int64, device=part.device)
    criterion(part, label, part.detach())["total"].backward()
