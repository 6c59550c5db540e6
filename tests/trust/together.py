"""A function as the forked children of this process carry it out, ranks of a team: it takes a second, not ten."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed import TCPStore

from accord.engine.team import Team, joined


def together(size: int, do: Callable[[Team], object], folder: Path) -> None:
    """Have so many ranks do the same; AssertionError with what they said where one fails."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    said = [folder / f".rank-{rank}.said" for rank in range(size)]
    pids = [_start(rank, size, store.port, do, said[rank]) for rank in range(size)]
    ended = [os.waitpid(pid, 0)[1] for pid in pids]
    assert not any(ended), "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in said)


def _start(rank: int, size: int, port: int, do: Callable[[Team], object], said: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        opened = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, 1)
        os.dup2(opened, 2)
        sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({name: str(value) for name, value in own.items()} | {"TORCHELASTIC_USE_AGENT_STORE": "True"})
        torch.set_num_threads(1)
        with joined() as team:
            do(team)
        status = 0
    except BaseException:
        os.write(1, traceback.format_exc().encode())
    finally:
        os._exit(status)
