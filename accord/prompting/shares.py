"""The samples of one call, shared among servers: who draws which, and what is done where one fails.

A server that is away is waited for; one that comes back is handed the weights anew, as it may have been started again
with those that it has by itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from accord.console import status
from accord.errors import InputError
from accord.prompting.faults import BUSY, REFUSED, SLOW, Fault
from accord.prompting.handover import Handed
from accord.prompting.vllm import Given, Missing, Vllm
from accord.records import Completion

if TYPE_CHECKING:
    import openai

    from accord.arrays import Tokens
    from accord.engine.config import SamplerConfig

TRIES = 4
"""How often one sample is asked for that a server fails on, while others come."""
LOOK = 1.0
"""Seconds between two looks at a server that is away."""
LONGEST = 600.0
"""Seconds that a server has to say that it is there, at most."""
LOADING, SLOWEST = 10.0, 50e6
"""Seconds that a server has for weights, at least, and bytes of them that it takes in a second more, at least."""
GO_ON = "give the same command again, with --resume where it trains"


@dataclass(frozen=True)
class Job:
    """A sample that is wanted: its place, its prompt and its seed."""

    place: int
    prompt: Tokens
    seed: int


def said_by(fault: Fault | Missing) -> str:
    """What a fault is, for people."""
    return getattr(fault, "told", "") or str(fault)


class Work:
    """The samples of one call, which servers share: each takes the next as long as there are such."""

    def __init__(
        self,
        config: SamplerConfig,
        handed: Handed,
        jobs: Sequence[Job],
        given: Given,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.handed, self.jobs, self.given, self.progress = handed, jobs, given, progress
        self.waiting, self.total = deque(jobs), len(jobs)
        self.done: dict[int, Completion] = {}
        self.tries: Counter[int] = Counter()
        self.wait, self.parallel = config.sampler_wait, config.sampler_parallel
        self.loading = 0.0
        self.hosts: Sequence[Vllm] = ()
        self.is_stopped = False

    @property
    def is_over(self) -> bool:
        """Whether all is done, or what is left cannot be."""
        return self.is_stopped or len(self.done) == self.total

    @property
    def even(self) -> int:
        """Samples of a server that draws no more at a time than the others that are there: who is ready first would
        take all."""
        return -(-self.total // max(1, sum(host.away is None for host in self.hosts)))

    async def by(self, hosts: Sequence[Vllm]) -> list[Completion]:
        """All samples, in order; InputError where no server can draw what is left."""
        self.hosts = hosts
        for host in hosts:
            host.away = None
        ended = await asyncio.gather(*map(self.share, hosts), return_exceptions=True)
        if len(self.done) < self.total:
            raise next(error for error in ended if isinstance(error, BaseException))
        return [self.done[i] for i in range(self.total)]

    async def share(self, host: Vllm) -> None:
        """What one server draws; InputError where it is away for too long, or cannot draw."""
        async with host.server.asking(self.wait) as client:
            while not self.is_over:
                await self.ready(host, client)
                count = min(self.parallel, self.even, len(self.waiting))
                ended = await asyncio.gather(*(self.draw(host, client) for _ in range(count)), return_exceptions=True)
                if error := next((e for e in ended if isinstance(e, BaseException)), None):
                    raise error
                await asyncio.sleep(LOOK if any(ended) else 0 if count else LOOK / 20)  # others may give up theirs

    async def ready(self, host: Vllm, client: openai.AsyncOpenAI) -> None:
        """Wait until the server is there, and has the weights."""
        while not self.is_over and host.held != self.handed:
            begun: float | None = None
            try:
                if not await self.heard(host, client):
                    return
                if not host.model:
                    await host.named(client)
                begun, seconds = monotonic(), max(self.wait, LOADING) + round(self.handed.size / SLOWEST)
                await host.hand_over(client, self.handed, self.given.name, seconds=seconds)
                self.loading = max(self.loading, monotonic() - begun)
            except (Fault, Missing) as fault:
                self.missed(host, fault, begun)
                await asyncio.sleep(LOOK)

    async def heard(self, host: Vllm, client: openai.AsyncOpenAI) -> bool:
        """Hear from the server that it is there; False where others have drawn everything while it was silent."""
        asked = asyncio.ensure_future(host.ask(client, "/health", seconds=min(self.wait, LONGEST)))
        while not asked.done() and not self.is_over:
            await asyncio.wait([asked], timeout=LOOK)
        if not asked.done():
            asked.cancel()
            await asyncio.wait([asked])
            return False
        await asked
        return True

    async def draw(self, host: Vllm, client: openai.AsyncOpenAI) -> bool:
        """Draw samples, one after the other, until there are no more, or one fails: then True."""
        while self.waiting and host.held == self.handed and not self.is_stopped:
            job = self.waiting.popleft()
            try:
                self.done[job.place] = await host.draw(client, job.prompt, job.seed, self.given, seconds=self.wait)
            except Fault as fault:
                self.waiting.append(job)
                self.failed(host, job, fault)
                return True
            if self.progress:
                self.progress(1)
        return False

    def failed(self, host: Vllm, job: Job, fault: Fault) -> None:
        """A sample has failed, perhaps with its server. InputError where it will fail again."""
        if fault.kind == REFUSED or not fault.passes:
            self.is_stopped = True  # as every server would
            raise InputError(f"{host} draws no sample ({fault}).") from None
        self.missed(host, fault)
        if fault.kind == BUSY:
            return
        host.held = None  # it may have been started anew, with the weights it has by itself
        self.tries[job.place] += 1
        if self.tries[job.place] == TRIES:
            self.is_stopped = True
            raise InputError(f"{host} fails on a sample again and again ({fault}); see what it says, then {GO_ON}.")

    def missed(self, host: Vllm, fault: Fault | Missing, asked: float | None = None) -> None:
        """A server has not done what it was asked, at that time; InputError where that is so for too long."""
        said = said_by(fault).rstrip(".")
        if host.away is None:
            is_slow = getattr(fault, "kind", "") == SLOW
            host.away = asked if asked is not None and is_slow else monotonic()  # as it was waited for since
            if monotonic() - host.away <= self.wait:
                status(f"{host} is waited for, up to {self.wait:g} seconds: {said}")
        if monotonic() - host.away > self.wait:
            raise InputError(f"{host} was waited for {self.wait:g} seconds ({said}): start it again, and {GO_ON}.")
