"""Ranks of a team as forked children of this process, which is to them what torchrun is: it takes a second, not ten.

`Ranks` carry out the same command. Once one has failed the others get SIGTERM, and SIGKILL where they do not end.
`together` calls a function on each rank, and `in_team` once they are a team.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import TCPStore

from accord.cli import ranks
from accord.engine.team import Team, joined
from tests.trust.disk import Outcome, Plan, outcome, start

GRACE = 30.0
"""So many seconds torchrun gives the others."""


def join(rank: int, size: int, store: TCPStore) -> None:
    """Make this process a rank, as torchrun does."""
    team = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": store.port}
    shared = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ.update({**{name: str(value) for name, value in team.items()}, **shared})
    torch.set_num_threads(1)


class Gate:
    """Where children wait until all of them are there.

    The store that they meet at is a thread of this process, which looks up the name of who connects. A child forked
    meanwhile would have the C library's lock of names as it is held then, and wait for it for ever.
    """

    def __init__(self) -> None:
        self.ends = os.pipe()

    def wait(self) -> None:
        """In a child: until nobody holds the end that is written to."""
        os.close(self.ends[1])
        os.read(self.ends[0], 1)
        os.close(self.ends[0])

    def open(self) -> None:
        """In the parent: let the children through."""
        for end in self.ends:
            os.close(end)


def together(size: int, work: Callable[[], object]) -> None:
    """Do something on each of so many ranks; AssertionError where one of them fails, whose traceback is printed."""
    store, gate, pids = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False), Gate(), []
    for rank in range(size):
        if not (pid := os.fork()):
            status = 1
            try:
                gate.wait()
                join(rank, size, store)
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        pids.append(pid)
    gate.open()
    ended = [os.waitpid(pid, 0)[1] for pid in pids]
    assert not any(ended), f"the ranks ended with {ended}"


def in_team(size: int, work: Callable[[Team], object]) -> None:
    """The same of ranks that are in a team, which each is given."""

    def joins() -> None:
        with joined() as team:
            work(team)

    together(size, joins)


@dataclass
class Ranks:
    """Ranks at work below `home`, each with the plan for its calls to the file system, if it has one.

    `before` is called on each rank, with its number, before the command.
    """

    words: list[str]
    home: Path
    size: int = 2
    plans: Mapping[int, Plan] = field(default_factory=dict)
    before: Callable[[int], object] = lambda rank: None
    seconds: float = 0.0
    """How long the others took to end once one had failed."""

    def __post_init__(self) -> None:
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        gate = Gate()
        self.pids = [self._start(rank, gate) for rank in range(self.size)]
        gate.open()
        self._ended: dict[int, int] = {}

    def _start(self, rank: int, gate: Gate) -> int:
        def prepare() -> None:
            gate.wait()
            join(rank, self.size, self.store)
            ranks.PATIENCE = timedelta(seconds=2)
            self.before(rank)

        return start(self.words, self.home, self.plans.get(rank), prepare, f"-{rank}")

    def send(self, number: int, *ranks: int) -> None:
        """A signal to ranks that are there still."""
        for rank in ranks:
            if rank not in self._ended:
                os.kill(self.pids[rank], number)

    @property
    def has_ended(self) -> list[bool]:
        """Of each rank; those that have are noted."""
        for rank, pid in enumerate(self.pids):
            if rank not in self._ended:
                done, ended = os.waitpid(pid, os.WNOHANG)
                if done:
                    self._ended[rank] = ended
        return [rank in self._ended for rank in range(self.size)]

    def wait(self) -> list[Outcome]:
        """How each ended, once all have."""
        failed = 0.0
        while not all(self.has_ended):
            if not failed and any(self._ended.values()):
                failed = time.monotonic()
                self.send(signal.SIGTERM, *range(self.size))
            if failed and time.monotonic() - failed > GRACE:
                self.send(signal.SIGKILL, *range(self.size))
            time.sleep(0.02)
        self.seconds = time.monotonic() - failed if failed else 0.0
        return [outcome(self.home, self._ended[rank], f"-{rank}") for rank in range(self.size)]


def said(outcomes: list[Outcome]) -> list[str]:
    """The sentences with which ranks ended, of all together."""
    return [line for one in outcomes for line in one.said.splitlines() if line.startswith("accord: ")]
