"""A team: the processes, a rank each, that torchrun has started to train one model together.

A process that torchrun did not start is a team of one. To it everything here gives back what it was given, so that
nothing else asks how many there are: there is one code path.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from accord.errors import InputError, LostRanks, TrainingStopped

T = TypeVar("T")
V = TypeVar("V")

LEAST_TORCH = (2, 13)
"""The first torch whose `fully_shard` takes a network whose embedding is its output layer too."""
PATIENCE = timedelta(minutes=30)
"""A rank that waits longer for the others, which do what it does, gives up: one of them hangs."""
FOR_THE_LEADER = timedelta(days=30)
"""So long ranks wait for what the one that leads does alone, as asking a judge; one that ends is missed at once."""


@dataclass(frozen=True)
class Team:
    """This process among those that train together: its `rank`, counted from 0, of `size`."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def here() -> Team:
        """The team that this process is in."""
        is_there = dist.is_available() and dist.is_initialized()
        return Team(dist.get_rank(), dist.get_world_size()) if is_there else Team()

    @property
    def leads(self) -> bool:
        """Whether this is the rank that decides, writes and prints."""
        return self.rank == 0

    def is_whole(self) -> bool:
        """Whether no rank on this machine is known to have ended."""
        return all(map(_is_alive, _company.pids if _company else ()))

    def total(self, values: Tensor) -> Tensor:
        """The sum over the ranks of tensors of one shape, the same on every rank."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def every(self, own: T) -> list[T]:
        """What each rank gives, in their order; it may be anything that pickle takes from process to process."""
        if self.size == 1:
            return [own]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own)
        return found

    def lead(self, decide: Callable[[], T]) -> T:
        """What `decide` returns on the rank that leads, on every rank; the user's mistakes are raised on all.

        It may take as long as it likes.
        """
        if self.size == 1:
            return decide()
        group = _company.patient if _company else None
        if not self.leads:
            told: list[Any] = [None, None]
            dist.broadcast_object_list(told, 0, group)
            result, error = told
            if error is not None:
                raise error
            return result  # type: ignore[no-any-return]
        try:
            with _deciding():
                result = decide()
        except (InputError, TrainingStopped, OSError) as error:
            dist.broadcast_object_list([None, _to_tell(error)], 0, group)
            raise
        dist.broadcast_object_list([result, None], 0, group)
        return result

    def all_do(self, do: Callable[[], T]) -> list[T]:
        """What `do` returns on each rank, in their order; the user's mistakes on any are raised on all."""
        if self.size == 1:
            return [do()]
        told: tuple[T | None, Exception | None]
        try:
            told = do(), None
        except (InputError, TrainingStopped, OSError) as error:
            told = None, _to_tell(error)
        every = self.every(told)
        for _, fault in every:
            if fault is not None:
                raise fault
        return [result for result, _ in every]  # type: ignore[misc]

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's share of what all have: every `size`-th."""
        return items[self.rank :: self.size]

    def same(self, own: Sequence[T]) -> list[T]:
        """The shares of all ranks put together again, in the order of the whole that `mine` took them of."""
        parts = self.every(list(own))
        whole: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def passes(self, packs: Sequence[T]) -> list[tuple[T, bool]]:
        """This rank's share of packs that all have, and whether each counts: as many on every rank.

        A sharded network is gathered by all ranks at once, pass by pass, so a rank without a pack makes an idle pass,
        over one that is another's, and what comes of it does not count.
        """
        own = [(pack, True) for pack in self.mine(packs)]
        return own + [(packs[0], False) for _ in range(-(-len(packs) // self.size) - len(own))]

    def each(self, packs: Sequence[T], value: Callable[[T], V]) -> list[V]:
        """The value of every pack, in their order, each computed on one rank and told to all."""
        return self.same([v for v, counts in [(value(pack), counts) for pack, counts in self.passes(packs)] if counts])

    def require_same(self, what: str, values: dict[str, Any]) -> None:
        """Raise InputError, on every rank, where one of the named values is another on some rank."""
        for rank, others in enumerate(every := self.every(values)):
            for name in {**every[0], **others}:
                if (here := every[0].get(name)) != (there := others.get(name)):
                    raise InputError(
                        f"the ranks do not agree on {what}: {name} is {here} on rank 0 and {there} on rank {rank}; "
                        "give all the same."
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


def come_together() -> bool:
    """Whether there are several ranks, and this one does not decide for others just now, which wait for it."""
    return Team.here().size > 1 and not _decides


def _to_tell(error: Exception) -> Exception:
    """An error as it can be told to other ranks, whatever its class takes."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    return TrainingStopped(str(error)) if isinstance(error, TrainingStopped) else InputError(str(error))


@dataclass(frozen=True)
class _Company:
    """What a process knows of its team besides its rank: the group that waits for the leader, and pids beside it."""

    patient: Any
    pids: Sequence[int]


_company: _Company | None = None
"""That of the team which this process is in; torch's default group is the process's own too."""


@contextmanager
def joined() -> Iterator[Team]:
    """The team that torchrun has started, this process in it; what ranks that do not lead print is dropped.

    Raises InputError where the environment is not torchrun's, torch is too old, there are more ranks than cards, or
    ranks have other versions than the first, and LostRanks where another rank ends before this one, or hangs.
    """
    global _company
    size = asked_size()
    if size == 1:
        yield Team()
        return
    if tuple(map(int, torch.__version__.split(".")[:2])) < LEAST_TORCH:
        least = ".".join(map(str, LEAST_TORCH))
        raise InputError(f"several ranks need torch {least} or later, and this is {torch.__version__}.")
    backend, is_well = _backend(), False
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
        with ExitStack() as stack:
            if not Team.here().leads:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            _company = _introduced(Team.here())
            yield Team.here()
        is_well = True
    except KeyboardInterrupt as error:  # torchrun's signal, perhaps, which comes where another rank has ended
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
        _company = None
        # NCCL would first wait for what is under way, which a rank that failed cannot end: its process's end will do.
        if dist.is_initialized() and (is_well or "nccl" not in backend):
            dist.destroy_process_group()


def _backend() -> str:
    """How ranks are to speak here, each on the card that is its own, where there are cards."""
    if not torch.cuda.is_available():
        return "gloo"
    local, cards = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= cards:
        raise InputError(
            f"rank {os.environ['RANK']} has no card of its own, as there are {cards}: start as many ranks on a "
            "machine as it has cards, or hide them by CUDA_VISIBLE_DEVICES= to compute on its processor."
        )
    torch.cuda.set_device(local)
    return "cpu:gloo,cuda:nccl"


def _introduced(team: Team) -> _Company:
    """What ranks know of each other from the start; InputError where one has other versions than the first."""
    versions = {name: sys.modules[name].__version__ for name in ("accord", "torch")}
    versions["transformers"] = metadata.version("transformers")  # which is imported later
    device = "a card" if torch.cuda.is_available() else "the processor"
    team.require_same("what they run", {**versions, "python": platform.python_version(), "the device": device})
    pids = Path("/proc/self/ns/pid")  # where it lies decides what a number means
    machine = f"{socket.gethostname()} {os.readlink(pids) if pids.exists() else ''}"
    known = team.every((machine, os.getpid()))
    beside = [pid for where, pid in known if where == machine]
    return _Company(dist.new_group(backend="gloo", timeout=FOR_THE_LEADER), beside)


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


def asked_size() -> int:
    """How many ranks the environment says there are. Raises InputError where it says no more than that."""
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdecimal() or int(said) < 1:
        raise InputError(f"WORLD_SIZE is {said!r}, which is no number of ranks: let torchrun set it.")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if int(said) > 1 and missing:
        raise InputError(
            f"WORLD_SIZE is {said}, but {missing[0]} is not set: start the ranks by torchrun, or unset WORLD_SIZE."
        )
    return int(said)
