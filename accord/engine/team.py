"""A team: the processes, one per rank, that torchrun started to train one model together.

A process not started by torchrun is a team of one, for which every operation here returns its input, so that callers
need only one code path.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from accord.engine.torchrun import asked_size, backend_here, start_group
from accord.errors import InputError, LostRanks, TrainingStopped

T = TypeVar("T")
V = TypeVar("V")

LIBRARIES = ("transformers", "tokenizers", "numpy", "peft", "bitsandbytes")
"""Libraries whose versions may decide tokens, random numbers or weights: equal on all ranks, as are accord and
torch."""
PATIENCE = timedelta(minutes=30)
"""Longest wait of a rank in a collective operation, before it concludes that another hangs."""
FOR_THE_LEADER = timedelta(days=30)
"""Longest wait for what rank 0 does alone, such as asking a judge; a rank that has ended is noticed at once."""


@dataclass(frozen=True)
class Team:
    """This process among those that train together: its `rank`, from 0, of `size`."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def here() -> Team:
        """The team of this process."""
        is_there = dist.is_available() and dist.is_initialized()
        return Team(dist.get_rank(), dist.get_world_size()) if is_there else Team()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which decides, writes and prints."""
        return self.rank == 0

    def is_whole(self) -> bool:
        """Whether no rank on this machine is known to have ended."""
        return all(map(_is_alive, _peers.pids if _peers else ()))

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over the ranks of tensors of one shape, on every rank."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def all_gather(self, own: T) -> list[T]:
        """The values of all ranks, in order, on every rank; any value that can be pickled."""
        if self.size == 1:
            return [own]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own)
        return found

    def lead(self, decide: Callable[[], T]) -> T:
        """The result of `decide` on rank 0, on every rank; user errors are raised on all. It may take any time."""
        if self.size == 1:
            return decide()
        group = _peers.patient if _peers else None
        if not self.leads:
            received: list[Any] = [None, None]
            dist.broadcast_object_list(received, 0, group)
            result, error = received
            if error is not None:
                raise error
            return result  # type: ignore[no-any-return]
        try:
            with _deciding():
                result = decide()
        except (InputError, TrainingStopped, OSError) as error:
            dist.broadcast_object_list([None, _picklable(error)], 0, group)
            raise
        dist.broadcast_object_list([result, None], 0, group)
        return result

    def on_all(self, do: Callable[[], T]) -> list[T]:
        """The results of `do` on all ranks, in order; a user error on any is raised on all."""
        if self.size == 1:
            return [do()]
        outcome: tuple[T | None, Exception | None]
        try:
            outcome = do(), None
        except (InputError, TrainingStopped, OSError) as error:
            outcome = None, _picklable(error)
        outcomes = self.all_gather(outcome)
        for _, fault in outcomes:
            if fault is not None:
                raise fault
        return [result for result, _ in outcomes]  # type: ignore[misc]

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's share of items that all ranks have: every `size`-th."""
        return items[self.rank :: self.size]

    def collect(self, own: Sequence[T]) -> list[T]:
        """The shares of all ranks, on every rank, in the order of the items that `share` split."""
        parts = self.all_gather(list(own))
        whole: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def passes(self, packs: Sequence[T]) -> list[tuple[T, bool]]:
        """This rank's share of packs, and whether each counts: equally many on every rank.

        All ranks gather a sharded network together, pass by pass, so a rank without a pack makes an idle pass over
        another's, whose result does not count.
        """
        own = [(pack, True) for pack in self.share(packs)]
        return own + [(packs[0], False) for _ in range(-(-len(packs) // self.size) - len(own))]

    def map(self, packs: Sequence[T], value: Callable[[T], V]) -> list[V]:
        """The value of every pack, in order, on every rank; each is computed on one rank."""
        return self.collect(
            [v for v, counts in [(value(pack), counts) for pack, counts in self.passes(packs)] if counts]
        )

    def require_same(self, what: str, values: dict[str, Any]) -> None:
        """Raise InputError, on every rank, where one of the named values differs between ranks."""
        for rank, others in enumerate(gathered := self.all_gather(values)):
            for name in {**gathered[0], **others}:
                if (here := gathered[0].get(name)) != (there := others.get(name)):
                    raise InputError(
                        f"the ranks differ in {what}: {name} is {here} on rank 0 and {there} on rank {rank}; "
                        "start all with the same."
                    )


_decides = False


@contextmanager
def _deciding() -> Iterator[None]:
    global _decides
    before, _decides = _decides, True
    try:
        yield
    finally:
        _decides = before


def acts_together() -> bool:
    """Whether there are several ranks, all running this code: not within `Team.lead`, where the others wait."""
    return Team.here().size > 1 and not _decides


def _picklable(error: Exception) -> Exception:
    """An error as one of a few classes that other ranks can unpickle."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    return TrainingStopped(str(error)) if isinstance(error, TrainingStopped) else InputError(str(error))


@dataclass(frozen=True)
class _Peers:
    """What a process knows of the other ranks: the process group for waiting on rank 0, and pids on the same
    machine."""

    patient: Any
    pids: Sequence[int]


_peers: _Peers | None = None
"""The peers in the team of this process; global like torch's default process group."""


@contextmanager
def joined() -> Iterator[Team]:
    """Join the team that torchrun started, for the context; only rank 0 prints.

    Raises InputError where the environment is not torchrun's, torch is too old, there are more ranks than GPUs, or
    ranks run other versions than rank 0; raises LostRanks where another rank ends first, or hangs.
    """
    global _peers
    size = asked_size()
    if size == 1:
        yield Team()
        return
    backend, is_well = backend_here(), False
    try:
        start_group(backend, PATIENCE)
        with ExitStack() as stack:
            if not Team.here().leads:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            _peers = _meet(Team.here())
            yield Team.here()
        is_well = True
    except KeyboardInterrupt as error:  # perhaps torchrun's signal after another rank ended
        if Team.here().is_whole():
            raise
        raise _lost("ended without a word") from error
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        is_late = "Timed out" in str(error) or "timeout" in str(error)
        minutes = f"{PATIENCE.total_seconds() / 60:g} minutes"
        raise _lost(f"gave no sign for {minutes}" if is_late else "ended without a word") from error
    finally:
        _peers = None
        # NCCL would wait for operations under way, which a failed rank never completes; exiting the process suffices.
        if dist.is_initialized() and (is_well or "nccl" not in backend):
            dist.destroy_process_group()


def _meet(team: Team) -> _Peers:
    """Exchange versions and pids with the other ranks. Raises InputError where a rank runs other versions than rank
    0."""
    versions = {name: sys.modules[name].__version__ for name in ("accord", "torch")}
    for name in LIBRARIES:  # not all imported yet, or installed
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    device = "a GPU" if torch.cuda.is_available() else "the processor"
    team.require_same("what they run", {**versions, "python": platform.python_version(), "the device": device})
    pids = Path("/proc/self/ns/pid")  # pids are comparable only within one namespace
    machine = f"{socket.gethostname()} {os.readlink(pids) if pids.exists() else ''}"
    known = team.all_gather((machine, os.getpid()))
    beside = [pid for where, pid in known if where == machine]
    return _Peers(dist.new_group(backend="gloo", timeout=FOR_THE_LEADER), beside)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _lost(how: str) -> LostRanks:
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    return LostRanks(
        f"rank {rank} of {size} cannot go on, as another {how}; the run goes on from its last checkpoint by --resume.",
        how,
    )
