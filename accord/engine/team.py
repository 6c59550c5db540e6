"""A team: the processes, a rank each, that torchrun has started to train one model together.

A process that torchrun did not start is a team of one. To it everything here gives back what it was given, so that
nothing else asks how many there are: there is one code path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from accord.errors import InputError, TrainingStopped

T = TypeVar("T")
V = TypeVar("V")

LEAST_TORCH = (2, 13)
"""The first torch whose `fully_shard` takes a network whose embedding is its output layer too."""
PATIENCE = timedelta(minutes=30)
"""A rank that waits longer for the others gives up."""


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
        """What `decide` returns on the rank that leads, on every rank; the user's mistakes are raised on all."""
        if self.size == 1:
            return decide()
        if not self.leads:
            told: list[Any] = [None, None]
            dist.broadcast_object_list(told, 0)
            result, error = told
            if error is not None:
                raise error
            return result  # type: ignore[no-any-return]
        try:
            result = decide()
        except (InputError, TrainingStopped, OSError) as error:
            kind = TrainingStopped if isinstance(error, TrainingStopped) else InputError
            dist.broadcast_object_list([None, kind(str(error))], 0)
            raise
        dist.broadcast_object_list([result, None], 0)
        return result

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


@contextmanager
def joined() -> Iterator[Team]:
    """The team that torchrun has started, this process in it; what ranks that do not lead print is dropped.

    Raises InputError where the environment is not torchrun's, torch is too old, or there are more ranks than cards, and
    TrainingStopped where another rank ends before this one.
    """
    size = asked_size()
    if size == 1:
        yield Team()
        return
    if tuple(map(int, torch.__version__.split(".")[:2])) < LEAST_TORCH:
        least = ".".join(map(str, LEAST_TORCH))
        raise InputError(f"several ranks need torch {least} or later, and this is {torch.__version__}.")
    backend = "gloo"
    if torch.cuda.is_available():
        backend, local, cards = "cpu:gloo,cuda:nccl", int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= cards:
            raise InputError(
                f"rank {os.environ['RANK']} has no card of its own, as there are {cards}: start as many ranks on a "
                "machine as it has cards, or hide them by CUDA_VISIBLE_DEVICES= to compute on its processor."
            )
        torch.cuda.set_device(local)
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        with ExitStack() as stack:
            if not Team.here().leads:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield Team.here()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise TrainingStopped(
            f"rank {os.environ['RANK']} has lost the others, as one of them has ended; the run goes on from its last "
            "checkpoint by --resume."
        ) from error
    finally:
        dist.destroy_process_group()


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
