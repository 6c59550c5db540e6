"""Asynchronous roll-outs: servers draw the samples of later steps while a step is trained on.

With `stale_steps` k, step t (counted from 1) learns from samples of the weights after step max(0, t - 1 - k), however
quick or slow the servers are: of a policy that is min(k, t - 1) steps old. What is asked for before a step is drawn in
its order, each step's samples from one version of the weights, which is kept until then: on the disk for the servers,
and in memory so that what they say is held against the weights that they drew from.
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
from accord.prompting.handover import Handed
from accord.prompting.sampler import ServedSampler
from accord.prompting.shares import Work
from accord.prompting.vllm import Vllm
from accord.records import Completion

if TYPE_CHECKING:
    from accord.engine.config import SamplerConfig

LAST = 10.0
"""Seconds that what is being drawn has to end when it is not wanted any more."""


@dataclass(frozen=True)
class Version:
    """The policy as it was after so many steps: where servers read it, and what this rank holds of its weights."""

    steps: int
    handed: Handed
    weights: Mapping[str, Tensor]
    seconds: float
    """That it took to write."""


@dataclass(frozen=True)
class Drawn:
    """Samples, prompt after prompt; by how many nats a token servers differ from the version that drew them, where that
    can be told; and the seconds for that version's weights."""

    completions: list[Completion]
    drift: float | None
    seconds: float = 0.0


@dataclass
class Request:
    """The samples of a step: what was asked for, and by what it is drawn, until it is `drawn`."""

    prompts: Sequence[Tokens]
    n: int
    sampling: Sampling
    version: Version | None = None
    work: Work | None = None
    future: Future[list[Completion]] | None = None
    """Of the rank that leads."""
    drawn: Drawn | None = None

    @property
    def folders(self) -> list[Path]:
        """Where weights lie that servers may have to read for it."""
        return [self.version.handed.folder] if self.version and self.future and not self.future.done() else []


class AsynchronousSampler(ServedSampler):
    """Servers that draw what was asked for ahead of its step; whatever else they are asked for waits for its turn.

    What was asked for is kept from `ask` until `forget`, by its step, counted from 0. All ranks of a team do all of
    this together. Raises as `ServedSampler` does.
    """

    def __init__(self, config: SamplerConfig, folder: str | Path) -> None:
        super().__init__(config, folder)
        self.requests: dict[int, Request] = {}
        self.restored: dict[int, Drawn] = {}
        self.version: Version | None = None
        self.turns = Turns()
        self.row: dict[str, float] = {}

    def numbers(self) -> dict[str, float]:
        """What to log of the samples that were taken last: by how many steps their weights are older than those that
        learn from them, and what `ServedSampler` logs, the drift from the weights that drew them."""
        return self.row

    def ask(self, step: int, steps: int, policy: Policy, prompts: Sequence[Tokens], n: int, sampling: Sampling) -> None:
        """Have the samples of a step drawn from the policy as it is, after so many `steps`, unless they are already."""
        if step in self.requests:
            return
        request = self.requests[step] = Request(prompts, n, sampling, drawn=self.restored.pop(step, None))
        if request.drawn is None:
            request.version = self._version(steps, policy)
            request.work = self._work(request.version.handed, policy, prompts, n, sampling)
            request.future = self.turns.begin(request.work, self.hosts) if Team.here().leads else None

    def forget(self, step: int) -> None:
        """Let go of what was drawn for steps before this one."""
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
        said = drawn.completions
        self.row = {
            "staleness": step - (said[0].version or 0),
            **({} if drawn.drift is None else {"sampler_drift": drawn.drift}),
            "handover_seconds": drawn.seconds,
            "samples_wait_seconds": monotonic() - begun,
        }
        return [said[i : i + request.n] for i in range(0, len(said), request.n)]

    def _finished(self, request: Request, policy: Policy) -> Drawn:
        """What was drawn, once it is; InputError where it cannot be, or is not of the weights that were handed over."""
        version, work = request.version, request.work
        if request.drawn is None:
            assert version is not None and work is not None
            said = Team.here().lead(lambda: request.future.result())  # type: ignore[union-attr]
            with exchanged_state(policy.network, version.weights):
                self._compare(work, said, policy, request.sampling)
                self._require_near(self.hosts, policy, request.sampling)
            said = [replace(one, version=version.steps) for one in said]
            request.drawn = Drawn(said, self.drift, version.seconds + work.loading)
            request.version = request.work = request.future = None
        return request.drawn

    def _version(self, steps: int, policy: Policy) -> Version:
        """The policy as it is, after so many steps, which servers can read from now on."""
        if self.version is None or self.version.steps != steps:
            begun = monotonic()
            handed = self._written(policy)
            weights = {name: tensor.clone() for name, tensor in own_state(policy.network).items()}
            self.version = Version(steps, handed, weights, monotonic() - begun)
        return self.version

    def state(self, policy: Policy) -> list[dict[str, Any]]:
        """All that was asked for, drawn to its end, as JSON has it: the weights that it is drawn from will be no more.

        Raises InputError where it cannot be drawn.
        """
        found = []
        for step, request in self.requests.items():
            drawn = self._finished(request, policy)
            said = [[list(c.tokens), list(c.logprobs), c.stop, c.version] for c in drawn.completions]
            found.append({"step": step, "drift": drawn.drift, "completions": said})
        return found

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state` returned, for steps that will ask for it."""
        for row in state:
            said = [Completion(Ints(t), Doubles(logp), stop, version) for t, logp, stop, version in row["completions"]]
            self.restored[row["step"]] = Drawn(said, row["drift"])

    def close(self) -> None:
        self.turns.close()
        super().close()

    def _written(self, policy: Policy) -> Handed:
        return self.handover.write(policy, keep={f for request in self.requests.values() for f in request.folders})

    def _wait(self, work: Work, hosts: Sequence[Vllm]) -> list[Completion]:
        return self.turns.begin(work, hosts).result()


@dataclass
class Turns:
    """A thread in which work is done one after the other, in the order in which it was begun."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    thread: threading.Thread | None = None

    def begin(self, work: Work, hosts: Sequence[Vllm]) -> Future[list[Completion]]:
        """Have work done by servers when it is its turn."""
        if self.thread is None:
            self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
            self.thread.start()

        async def in_turn() -> list[Completion]:
            async with self.turn:
                return await work.by(hosts)

        return asyncio.run_coroutine_threadsafe(in_turn(), self.loop)

    def close(self) -> None:
        """End what is being done, and the thread."""
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
