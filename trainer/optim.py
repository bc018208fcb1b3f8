"""Optimizers and learning-rate schedules of the recipes."""
import importlib
import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch

from config.errors import UserError
from models.gsvnet import GSVNet
from models.segmenters.base import Segmenter, TrainingRecipe
from utils.logging import logger

SGD_MOMENTUM = 0.9
BETAS = (0.9, 0.999)  # of Adam
DECAY_EVERY = 100  # iterations between two steps of the propagation's learning rates


def propagation_groups(net: GSVNet, *, lr: float, guide_lr: float, flow_lr: float) -> list[dict]:
    """Return the released optimizer's four groups, in its order: intra, guiding network, filter bank, flow network."""
    return [
        {"params": list(net.guided.intra.parameters()), "lr": lr},
        {"params": list(net.guided.guide.parameters()), "lr": guide_lr},
        {"params": [net.guided.filter_bank], "lr": lr},
        {"params": list(net.flow.parameters()), "lr": flow_lr},
    ]


def segmenter_groups(segmenter: Segmenter, *, lr: float, weight_decay: float, pretrained: bool) -> list[dict]:
    """Return groups by the segmenter's `recipe`: its trunk, which may be `pretrained`; the rest; its new modules."""
    recipe, groups = segmenter.recipe, []
    trunk_rate = recipe.trunk_rate if pretrained else 1.0
    trunk, new = (
        [p for module in modules for p in module.parameters() if p.requires_grad]
        for modules in (segmenter.pretrained_modules(), segmenter.new_modules())
    )
    taken = {id(p) for p in (*trunk, *new)}
    rest = [p for p in segmenter.parameters() if p.requires_grad and id(p) not in taken]
    fast = recipe.new_rate, 1.0, recipe.new_bias_rate
    for params, (rate, decay, bias) in ((trunk, (trunk_rate, trunk_rate, 1.0)), (rest, (1.0, 1.0, 1.0)), (new, fast)):
        undecayed = [] if recipe.decay_all else [p for p in params if p.ndim < 4]
        kept = {id(p) for p in undecayed}
        groups += [
            {"params": [p for p in params if id(p) not in kept], "lr": lr * rate, "weight_decay": weight_decay * decay},
            {"params": undecayed, "lr": lr * rate * bias, "weight_decay": 0.0},
        ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    groups: Iterable[dict], *, name: str, weight_decay: float, betas: tuple[float, float] = BETAS,
    nesterov: bool = True, apex: bool = False,
) -> torch.optim.Optimizer:
    """Return the optimizer; `sgd`: momentum 0.9; `adam`: with `betas`. On a GPU torch's fused kernels.

    apex: NVIDIA apex's fused optimizers instead. Raises UserError if apex is not installed.
    """
    groups = list(groups)
    sgd = name == "sgd"
    settings: dict[str, Any] = dict(momentum=SGD_MOMENTUM, nesterov=nesterov) if sgd else dict(betas=betas)
    settings |= dict(lr=groups[0]["lr"], weight_decay=weight_decay)
    if apex:
        fused, kind = apex_optimizers(), "FusedSGD" if sgd else "FusedAdam"
        logger.info("--apex 1: optimizer apex.optimizers.%s", kind)
        return getattr(fused, kind)(groups, **settings)
    on_gpu = all(p.is_cuda for group in groups for p in group["params"])
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD if sgd else torch.optim.Adam
    return optimizer(groups, **settings, fused=on_gpu or None)


def apex_optimizers() -> ModuleType:
    """Return the module `apex.optimizers` of NVIDIA apex. Raises UserError if it is not installed."""
    try:
        module = importlib.import_module("apex.optimizers")
    except ImportError as error:
        raise UserError(
            "--apex 1: NVIDIA apex is not installed (build it from its source repository; the PyPI package `apex` is "
            "unrelated); --apex 0 uses torch's own fused optimizers"
        ) from error
    if not hasattr(module, "FusedSGD"):
        raise UserError("--apex 1: the installed apex has no apex.optimizers.FusedSGD; use --apex 0")
    return module


def step_decay(optimizer: torch.optim.Optimizer, gamma: float) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a schedule that multiplies the learning rates by `gamma` every 100 iterations."""
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=DECAY_EVERY, gamma=gamma)


def cosine(total: int, *, lr: float, floor: float) -> Callable[[int], float]:
    """Return the factor on `lr` that falls from 1 to floor/lr along half a cosine over `total` iterations."""
    low = floor / lr
    return lambda iteration: low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, iteration / max(1, total))))


def of_recipe(recipe: TrainingRecipe, total: int, *, lr: float) -> Callable[[int], float]:
    """Return the factor on `lr` of a segmenter's recipe over `total` iterations."""
    warm_up = min(recipe.warm_up, max(1, total // 20))
    if recipe.schedule == "cosine":
        return cosine(total, lr=lr, floor=1e-6)
    if recipe.schedule == "steps":
        return lambda i: 0.1 if i < warm_up or i >= recipe.drop * total else 1.0
    return poly(total, warm_up=warm_up, start=recipe.start)


def poly(total: int, *, warm_up: int, start: float = 0.0) -> Callable[[int], float]:
    """Return the factor that rises over `warm_up` iterations, then falls as (1 - progress)**0.9.

    It rises linearly from 0, or in equal ratios from `start`.
    """
    def factor(i: int) -> float:
        if i < warm_up:
            return start ** (1 - i / warm_up) if start else (i + 1) / warm_up
        return max(0.0, 1 - (i - warm_up) / max(1, total - warm_up)) ** 0.9

    return factor
