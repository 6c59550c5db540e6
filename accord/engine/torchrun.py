"""Starting as one of several ranks: what torchrun's environment says, this rank's device, and meeting the others."""

from __future__ import annotations

import os
import threading
from datetime import timedelta

import torch
import torch.distributed as dist

from accord.console import error_text, status
from accord.errors import InputError
from accord.interrupts import ended_by_signals

LEAST_TORCH = (2, 13)
"""The first torch whose `fully_shard` supports a tied embedding and output layer."""
QUIET = timedelta(seconds=15)
"""How long a rank waits for the others to start before it says so."""


def asked_size() -> int:
    """The number of ranks by the environment. Raises InputError where torchrun's other variables are missing or are not
    those of one of the ranks."""
    size = os.environ.get("WORLD_SIZE") or "1"
    if not size.isdecimal() or int(size) < 1:
        raise InputError(f"WORLD_SIZE is {size!r}, which is not a number of ranks: let torchrun set it.")
    if int(size) == 1:
        return 1
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise InputError(
                f"WORLD_SIZE is {size}, but {name} is not set: start the ranks by torchrun, or unset WORLD_SIZE."
            )
    for name, least, end, what in (("RANK", 0, int(size), f"one of {size} ranks"), ("MASTER_PORT", 1, 2**16, "a port")):
        if not (value := os.environ[name]).isdecimal() or not least <= int(value) < end:
            raise InputError(f"{name} is {value!r}, which is not {what}: let torchrun set it.")
    return int(size)


def backend_here() -> str:
    """The backend for collectives; where there are GPUs, also selects this rank's.

    Raises InputError where torch is too old for several ranks, or there are more ranks than GPUs.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < LEAST_TORCH:
        least = ".".join(map(str, LEAST_TORCH))
        raise InputError(f"several ranks need torch {least} or later, and this is {torch.__version__}.")
    if not torch.cuda.is_available():
        return "gloo"
    local, gpus = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    if not local.isdecimal():
        raise InputError(f"LOCAL_RANK is {local!r}, which is not the number of a GPU: let torchrun set it.")
    if int(local) >= gpus:
        raise InputError(
            f"rank {os.environ['RANK']} has no GPU of its own, as there are {gpus}: start as many ranks on a "
            "machine as it has GPUs, or hide them by CUDA_VISIBLE_DEVICES= to compute on its processor."
        )
    torch.cuda.set_device(int(local))
    return "cpu:gloo,cuda:nccl"


def start_group(backend: str, patience: timedelta) -> None:
    """Start torch's process group with the other ranks; its operations wait `patience` at most.

    Raises InputError where the ranks do not meet.
    """
    rank, size, host, port = (os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    seconds, minutes = QUIET.total_seconds(), patience.total_seconds() / 60
    line = (
        f"rank {rank} of {size} has waited {seconds:g} seconds to meet all others at {host}:{port}, and gives up after "
        f"{minutes:g} minutes: see that they have started, and that MASTER_ADDR is rank 0's machine; Ctrl-C ends this."
    )
    notice = threading.Timer(seconds, status, [line])
    notice.daemon = True
    try:
        notice.start()
        with ended_by_signals():
            dist.init_process_group(backend, timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"rank {rank} of {size} cannot meet the others at {host}:{port} ({error_text(error)}): let torchrun start "
            "all ranks, or see that MASTER_ADDR is rank 0's machine and MASTER_PORT free there."
        ) from error
    finally:
        notice.cancel()
