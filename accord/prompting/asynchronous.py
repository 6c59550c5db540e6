"""Asynchronous roll-outs: servers draw the samples of later steps while a step is trained on.

With `stale_steps` k, step t (counted from 1) learns from samples drawn by the weights after step max(0, t - 1 - k),
that is, by a policy min(k, t - 1) steps old, however fast the servers are. Samples asked for ahead of their steps are
drawn in order, those of one step by one version of the weights. That version is kept until then: on the disk for the
servers, and in memory so that their log-probabilities are compared with those of the weights that drew the samples.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from torch import Tensor

from accord.arrays import Doubles, Ints, Tokens
from accord.engine.adapters import exchanged_state, own_state
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.engine.team import Team
from accord.prompting.handover import HandedWeights
from accord.prompting.sampler import ServedSampler, SpotCheck
from accord.prompting.shares import JobQueue
from accord.prompting.vllm import Vllm
from accord.records import Completion

if TYPE_CHECKING:
    from accord.engine.config import SamplerConfig

LAST = 10.0
"""Seconds that requests under way have to end once they are not wanted any more."""


@dataclass(frozen=True)
class Version:
    """The policy after a number of training steps: where servers read it, and this rank's part of its weights."""

    steps: int
    handed: HandedWeights
    weights: Mapping[str, Tensor]
    seconds: float
    """Seconds that writing it took."""


@dataclass(frozen=True)
class Drawn:
    """Samples, prompt by prompt; the drift (mean difference of log-probabilities, in nats per token) from the version
    that drew them, where known; and the seconds for handing that version over."""

    completions: list[Completion]
    drift: float | None
    seconds: float = 0.0


@dataclass
class Request:
    """The samples of one step: what was asked for, and the version and jobs until they are `drawn`."""

    prompts: Sequence[Tokens]
    n: int
    sampling: Sampling
    version: Version | None = None
    queue: JobQueue | None = None
    future: Future[list[Completion]] | None = None
    """On the leading rank."""
    drawn: Drawn | None = None

    @property
    def folders(self) -> list[Path]:
        """The folder of weights that servers may still have to read for it, if any."""
        return [self.version.handed.folder] if self.version and self.future and not self.future.done() else []


class AsynchronousSampler(ServedSampler):
    """A ServedSampler that draws samples ahead of their steps; any other request waits for its turn.

    A request is kept from `ask` until `forget`, by its step, counted from 0. `numbers` also has `staleness`, the age in
    steps of the weights that drew the samples taken last, and the drift is from those weights. All ranks of a team call
    these methods together. Raises as `ServedSampler` does.
    """

    def __init__(self, config: SamplerConfig, folder: str | Path) -> None:
        super().__init__(config, folder)
        self.requests: dict[int, Request] = {}
        self.restored: dict[int, Drawn] = {}
        self.version: Version | None = None
        self.turns = Turns()

    def ask(self, step: int, steps: int, policy: Policy, prompts: Sequence[Tokens], n: int, sampling: Sampling) -> None:
        """Begin to draw a step's samples from the policy as it is now, after `steps` steps, unless already begun."""
        if step in self.requests:
            return
        request = self.requests[step] = Request(prompts, n, sampling, drawn=self.restored.pop(step, None))
        if request.drawn is None:
            request.version = self._version(steps, policy)
            request.queue = self._queue(request.version.handed, policy, prompts, n, sampling)
            request.future = self.turns.begin(request.queue, self.hosts) if Team.here().leads else None

    def forget(self, step: int) -> None:
        """Drop the samples of steps before this one."""
        for done in [number for number in self.requests if number < step]:
            del self.requests[done]

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Tokens],
        n: int = 1,
        sampling: Sampling | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        for step, request in self.requests.items():
            if (request.prompts, request.n, request.sampling) == (list(prompts), n, sampling):
                return self._taken(step, request, policy)
        return super().__call__(policy, prompts, n, sampling, progress)

    def _taken(self, step: int, request: Request, policy: Policy) -> list[list[Completion]]:
        begun = monotonic()
        drawn = self._finished(request, policy)
        completions = drawn.completions
        self.row = {
            "staleness": step - (completions[0].version or 0),
            **({} if drawn.drift is None else {"sampler_drift": drawn.drift}),
            "handover_seconds": drawn.seconds,
            "samples_wait_seconds": monotonic() - begun,
        }
        return [completions[i : i + request.n] for i in range(0, len(completions), request.n)]

    def _finished(self, request: Request, policy: Policy) -> Drawn:
        """A request's samples, once drawn; InputError where they cannot be, or other weights drew them."""
        version, queue = request.version, request.queue
        if request.drawn is None:
            assert version is not None and queue is not None
            completions = Team.here().lead(lambda: request.future.result())  # type: ignore[union-attr]
            with exchanged_state(policy.network, version.weights):
                check = SpotCheck.of(queue.jobs, completions, policy, request.sampling)
                check.require_near(self.hosts, policy)
            completions = [replace(one, version=version.steps) for one in completions]
            request.drawn = Drawn(completions, check.drift, version.seconds + queue.loading)
            request.version = request.queue = request.future = None
        return request.drawn

    def _version(self, steps: int, policy: Policy) -> Version:
        """The policy as it is now, after `steps` steps, written for the servers."""
        if self.version is None or self.version.steps != steps:
            begun = monotonic()
            handed = self._written(policy)
            weights = {name: tensor.clone() for name, tensor in own_state(policy.network).items()}
            self.version = Version(steps, handed, weights, monotonic() - begun)
        return self.version

    def state(self, policy: Policy) -> list[dict[str, Any]]:
        """All requests as JSON, drawn to the end first, since the weights that draw them will be gone.

        Raises InputError where samples cannot be drawn.
        """
        rows = []
        for step, request in self.requests.items():
            drawn = self._finished(request, policy)
            completions = [[list(c.tokens), list(c.logprobs), c.stop, c.version] for c in drawn.completions]
            rows.append({"step": step, "drift": drawn.drift, "completions": completions})
        return rows

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state` returned; `ask` for these steps then draws nothing."""
        for row in state:
            completions = [Completion(Ints(t), Doubles(p), stop, version) for t, p, stop, version in row["completions"]]
            self.restored[row["step"]] = Drawn(completions, row["drift"])

    def close(self) -> None:
        self.turns.close()
        super().close()

    def _written(self, policy: Policy) -> HandedWeights:
        return self.handover.write(policy, keep={f for request in self.requests.values() for f in request.folders})

    def _wait(self, queue: JobQueue, hosts: Sequence[Vllm]) -> list[Completion]:
        return self.turns.begin(queue, hosts).result()


@dataclass
class Turns:
    """A thread that finishes one call's samples after the other, in the order in which they were begun."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    thread: threading.Thread | None = None

    def begin(self, queue: JobQueue, hosts: Sequence[Vllm]) -> Future[list[Completion]]:
        """Have the servers draw a call's samples when its turn comes."""
        if self.thread is None:
            self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
            self.thread.start()

        async def in_turn() -> list[Completion]:
            async with self.turn:
                return await queue.completions(hosts)

        return asyncio.run_coroutine_threadsafe(in_turn(), self.loop)

    def close(self) -> None:
        """Cancel what is under way, and end the thread."""
        if self.thread is not None:
            asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(LAST)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(LAST)
            self.thread = None
        if not self.loop.is_running():
            self.loop.close()

    async def _end(self) -> None:
        own = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not own]
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=LAST / 2) if others else None
