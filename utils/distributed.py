"""Several processes (ranks) of one run. With one process, none of this does anything."""
import importlib.util
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from config.errors import UserError
from utils.logging import logger

SLURM_MINUTES = 5  # for all processes of an srun to start


@dataclass(frozen=True)
class Ranks:
    """This process: number `rank` of `count`, and number `local` on this machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0


def choose_device(name: str, local_rank: int) -> torch.device:
    """Return the device that --device names; auto takes a GPU if there is one. Raises UserError for a missing GPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: no usable GPU here; use --device cpu or auto")
    if local_rank >= torch.cuda.device_count():
        raise UserError(f"--local-rank {local_rank}: only {torch.cuda.device_count()} GPUs here")
    return torch.device("cuda", local_rank)


def join(local_rank: int, cuda: bool) -> Ranks:
    """Join the process group that a launcher (torchrun) describes in the environment, if any. Raises UserError."""
    described = os.environ.get("WORLD_SIZE", "1")
    try:
        count = int(described)
        if count <= 1:
            return Ranks(local=local_rank)
        if cuda:
            torch.cuda.set_device(local_rank)
        backend, patience = "nccl" if cuda else "gloo", timedelta(hours=12)
        if "SLURM_PROCID" in os.environ:  # without srun, as in the script of sbatch, nobody else would ever come
            rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
            handlers = [(number, signal.signal(number, signal.SIG_DFL)) for number in (signal.SIGINT, signal.SIGTERM)]
            store = dist.TCPStore(os.environ["MASTER_ADDR"], port, count, rank == 0, timedelta(minutes=SLURM_MINUTES))
            for handler in handlers:
                signal.signal(*handler)
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=patience)
        else:
            dist.init_process_group(backend, timeout=patience)
    except (ValueError, RuntimeError) as error:  # torch's own are RuntimeErrors
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"WORLD_SIZE={described} in the environment: cannot join the other processes ({reason}); start with "
            "torchrun, or unset WORLD_SIZE (with SLURM: start with srun, or unset SLURM_NTASKS)"
        ) from error
    return Ranks(dist.get_rank(), dist.get_world_size(), local_rank)


def leave() -> None:
    """Leave the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def data_parallel(
    module: nn.Module, ranks: Ranks, device: torch.device, apex: bool = False, *, all_used: bool = True
) -> nn.Module:
    """Wrap a trained module so that its gradients are averaged over the ranks; with one process, return it unchanged.

    all_used: whether every step reaches all its parameters.
    apex: use NVIDIA apex's wrapper, if the installed apex has one and there are GPUs; else torch's.
    """
    if ranks.count == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    if apex and device.type == "cuda":
        parallel = importlib.import_module("apex.parallel") if importlib.util.find_spec("apex.parallel") else None
        if parallel is not None and hasattr(parallel, "DistributedDataParallel"):
            logger.info("--apex 1: gradients averaged by apex.parallel.DistributedDataParallel")
            return parallel.DistributedDataParallel(module)
        logger.info("--apex 1: apex has no apex.parallel; gradients averaged by torch's DistributedDataParallel")
    devices = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(module, device_ids=devices, find_unused_parameters=not all_used)


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean over the ranks of a tensor, without gradient; returns it unchanged with one process."""
    if not dist.is_initialized():
        return value
    dist.all_reduce(total := value.detach().clone())
    return total / dist.get_world_size()


class _CpuSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all ranks on CPUs; torch's SyncBatchNorm requires GPUs."""

    running_mean: Tensor  # (C,), like running_var; every BatchNorm of the networks has them
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes, pixels = (0, 2, 3), x.numel() / x.shape[1]
        total = all_reduce(torch.cat([x.sum(axes), x.new_tensor([pixels])]))  # (C+1,), with gradient
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = x - mean.view(1, -1, 1, 1)
        variance = all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = (self.weight * torch.rsqrt(variance + self.eps)).view(1, -1, 1, 1)
        return centred * scale + self.bias.view(1, -1, 1, 1)


def synchronise_batch_norm(module: nn.Module, ranks: Ranks, device: torch.device) -> None:
    """Make every BatchNorm inside `module` compute its statistics over all ranks (`--sync-bn 1`)."""
    if ranks.count == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # in place, since `module` itself is none
        return
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.__class__ = _CpuSyncBatchNorm  # same parameters and buffers, another forward


def add_over_ranks(tensors: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    """Sum tensors over the ranks; returns the sums on the CPU, to every rank."""
    if not dist.is_initialized():
        return list(tensors)
    totals = [tensor.to(device) for tensor in tensors]
    for total in totals:
        dist.all_reduce(total)
    return [total.cpu() for total in totals]


def any_rank(value: bool, device: torch.device) -> bool:
    """Whether `value` holds on any rank."""
    return bool(add_over_ranks([torch.tensor(float(value))], device)[0])


def from_all_ranks(value: object) -> list:
    """The `value` of every rank, in rank order: any object that can be pickled."""
    if not dist.is_initialized():
        return [value]
    values: list = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Wait until all ranks have got here."""
    if dist.is_initialized():
        dist.barrier()
