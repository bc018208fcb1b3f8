"""SLURM: `srun` starts every process of a run with variables of its own; torch.distributed expects others."""
import os
import re
from collections.abc import Mapping, MutableMapping

FIRST_PORT, PORTS = 20_000, 20_000  # by the job's number, so that two jobs on one node do not meet
HOST = re.compile(r"(?P<before>[^\[,]+)(\[(?P<first>\d+)[^\]]*\](?P<after>[^,]*))?")


def adopt_slurm(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Describe the processes of one `srun` to torch.distributed, as torchrun does, where nothing else has.

    Returns whether there are several. Sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR (first host of the node list) and
    MASTER_PORT in `environ`.
    """
    count = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))
    rank = environ.get("SLURM_PROCID", "")
    if "RANK" in environ or "WORLD_SIZE" in environ or not (count.isdigit() and rank.isdigit()) or int(count) < 2:
        return False
    # With one GPU bound to each task, every process sees its own as number 0.
    bound = environ.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0
    job = re.sub(r"\D", "", environ.get("SLURM_JOB_ID", "")) or "0"
    environ.update(RANK=rank, WORLD_SIZE=count, LOCAL_RANK="0" if bound else environ.get("SLURM_LOCALID", "0"))
    environ.setdefault("MASTER_ADDR", first_host(environ))
    environ.setdefault("MASTER_PORT", str(FIRST_PORT + int(job) % PORTS))
    print(f"SLURM: process {rank} of {count}, waiting for the others at {environ['MASTER_ADDR']}", flush=True)
    return True


def first_host(environ: Mapping[str, str]) -> str:
    """The first host of a node list such as `gpu[003-005,7],cpu1`; this machine without a list."""
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    found = HOST.match(next((environ[name] for name in names if environ.get(name)), "localhost"))
    return "".join(found[part] or "" for part in ("before", "first", "after")) if found else "localhost"
