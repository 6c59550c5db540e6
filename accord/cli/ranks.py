"""Commands that torchrun has started on several ranks: which can be, who speaks, and how all end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from accord.cli.table import COMMANDS
from accord.errors import InputError

PATIENCE = timedelta(seconds=5)
"""So long the ranks wait for each other at their ends."""


def are_several() -> bool:
    """Whether the environment says that this process is one of several ranks."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def at_work(command: str) -> Iterator[None]:
    """Within it the process is in the team of ranks that torchrun has started, if it has.

    Raises InputError where the command is none that trains, or the ranks cannot be a team.
    """
    if not are_several():
        yield
        return
    if not COMMANDS[command].target.startswith("accord.methods:"):
        raise InputError(f"`accord {command}` is the work of one process: start it without torchrun.")
    from accord.engine.team import joined

    with joined():
        yield


def leader_says(sentence: str) -> bool:
    """Whether the rank that leads ends with the same sentence, so that this one need not say it.

    Every rank notes with torchrun how it ends, and waits for the others a moment: torchrun ends all once one has.
    """
    if not are_several() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    from torch.distributed import TCPStore

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    keys = [f"accord/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/ended/{other}" for other in range(size)]
    with suppress(RuntimeError):  # torchrun is gone, or the leader goes on
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=PATIENCE)
        store.set(keys[rank], sentence)
        store.wait(keys[:1], PATIENCE)
        is_said = rank > 0 and store.get(keys[0]).decode() == sentence
        with suppress(RuntimeError):
            store.wait(keys, PATIENCE)
        return is_said
    return False
