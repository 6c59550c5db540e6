"""The samples of one call as jobs that servers share, and what happens when a server fails.

A server that is away is waited for; when it comes back it is given the weights again, as it may have been restarted.
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
from accord.prompting.handover import HandedWeights
from accord.prompting.vllm import NotServed, SampleSettings, Vllm
from accord.records import Completion

if TYPE_CHECKING:
    import openai

    from accord.arrays import Tokens
    from accord.engine.config import SamplerConfig

TRIES = 4
"""How often one sample is tried when a server fails on it while others succeed."""
LOOK = 1.0
"""Seconds between two looks at a server that is away."""
LONGEST = 600.0
"""The most seconds that a health check may take."""
LOADING, SLOWEST = 10.0, 50e6
"""The least seconds for a server to load weights, and the slowest rate that is allowed for, in bytes a second."""
GO_ON = "give the same command again, with --resume where it trains"


@dataclass(frozen=True)
class Job:
    """One sample to be drawn: its index, prompt and seed."""

    index: int
    prompt: Tokens
    seed: int


def fault_text(fault: Fault | NotServed) -> str:
    """A fault's message for people."""
    return getattr(fault, "message", "") or str(fault)


class JobQueue:
    """The samples of one call as a queue of jobs: each server takes the next until none is left."""

    def __init__(
        self,
        config: SamplerConfig,
        handed: HandedWeights,
        jobs: Sequence[Job],
        settings: SampleSettings,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.handed, self.jobs, self.settings, self.progress = handed, jobs, settings, progress
        self.waiting, self.total = deque(jobs), len(jobs)
        self.done: dict[int, Completion] = {}
        self.tries: Counter[int] = Counter()
        self.wait, self.parallel = config.sampler_wait, config.sampler_parallel
        self.loading = 0.0
        self.hosts: Sequence[Vllm] = ()
        self.is_stopped = False

    @property
    def is_over(self) -> bool:
        """Whether all samples are drawn, or the rest cannot be."""
        return self.is_stopped or len(self.done) == self.total

    @property
    def even(self) -> int:
        """An even share of the samples among the servers that are there, so that the first one ready does not take
        all."""
        return -(-self.total // max(1, sum(host.away is None for host in self.hosts)))

    async def completions(self, hosts: Sequence[Vllm]) -> list[Completion]:
        """All samples, in order; InputError where no server can draw the rest."""
        self.hosts = hosts
        for host in hosts:
            host.away = None
        ended = await asyncio.gather(*map(self.share, hosts), return_exceptions=True)
        if len(self.done) < self.total:
            raise next(error for error in ended if isinstance(error, BaseException))
        return [self.done[i] for i in range(self.total)]

    async def share(self, host: Vllm) -> None:
        """Draw with one server until all is done; InputError where it is away for too long, or cannot draw."""
        async with host.server.asking(self.wait) as client:
            while not self.is_over:
                await self.ready(host, client)
                count = min(self.parallel, self.even, len(self.waiting))
                ended = await asyncio.gather(*(self.draw(host, client) for _ in range(count)), return_exceptions=True)
                if error := next((e for e in ended if isinstance(e, BaseException)), None):
                    raise error
                await asyncio.sleep(LOOK if any(ended) else 0 if count else LOOK / 20)  # other servers may return jobs

    async def ready(self, host: Vllm, client: openai.AsyncOpenAI) -> None:
        """Wait until the server is there, and has the weights."""
        while not self.is_over and host.held != self.handed:
            begun: float | None = None
            try:
                if not await self.is_up(host, client):
                    return
                if not host.model:
                    await host.named(client)
                begun, seconds = monotonic(), max(self.wait, LOADING) + round(self.handed.size / SLOWEST)
                await host.hand_over(client, self.handed, self.settings.name, seconds=seconds)
                self.loading = max(self.loading, monotonic() - begun)
            except (Fault, NotServed) as fault:
                self.missed(host, fault, begun)
                await asyncio.sleep(LOOK)

    async def is_up(self, host: Vllm, client: openai.AsyncOpenAI) -> bool:
        """Wait for the server's health check; False where others drew everything meanwhile."""
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
        """Draw samples one after the other; False when none is left, True when one fails."""
        while self.waiting and host.held == self.handed and not self.is_stopped:
            job = self.waiting.popleft()
            try:
                self.done[job.index] = await host.draw(client, job.prompt, job.seed, self.settings, seconds=self.wait)
            except Fault as fault:
                self.waiting.append(job)
                self.failed(host, job, fault)
                return True
            if self.progress:
                self.progress(1)
        return False

    def failed(self, host: Vllm, job: Job, fault: Fault) -> None:
        """Handle a failed sample, perhaps with its server. InputError where it will fail again."""
        if fault.kind == REFUSED or not fault.passes:
            self.is_stopped = True  # other servers would refuse it too
            raise InputError(f"{host} draws no sample ({fault}).") from None
        self.missed(host, fault)
        if fault.kind == BUSY:
            return
        host.held = None  # it may have been restarted without these weights
        self.tries[job.index] += 1
        if self.tries[job.index] == TRIES:
            self.is_stopped = True
            raise InputError(f"{host} fails on a sample again and again ({fault}); see its log, then {GO_ON}.")

    def missed(self, host: Vllm, fault: Fault | NotServed, asked: float | None = None) -> None:
        """Record that a server has failed, since `asked` where known; InputError where it has for too long."""
        reason = fault_text(fault).rstrip(".")
        if host.away is None:
            is_slow = getattr(fault, "kind", "") == SLOW
            host.away = asked if asked is not None and is_slow else monotonic()  # waiting for it began then
            if monotonic() - host.away <= self.wait:
                status(f"{host} is waited for, up to {self.wait:g} seconds: {reason}")
        if monotonic() - host.away > self.wait:
            raise InputError(f"{host} was waited for {self.wait:g} seconds ({reason}): start it again, and {GO_ON}.")
