"""Servers as a policy's `Sampler`: they are handed its weights whenever those have changed, and share the samples.

Every sample is a request of its own, with a seed made of the sampling's seed, the prompt and the sample's number, so
that it is the same whichever server draws it. What is drawn is held against the policy itself, a few samples of each
call: a server of another model, or whose log-probabilities are of another kind, is found out before it is learned from.

A server that is away is waited for; one that comes back is handed the weights anew, as it may have been started again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import torch

from accord.console import status
from accord.engine.adapters import adapted, save_adapters
from accord.engine.models import SHARD, Policy, quiet
from accord.engine.samplers import state_of
from accord.engine.sampling import Sampling, request_seeds
from accord.engine.trees import Branch, Tree, pack
from accord.errors import InputError
from accord.files import tidy
from accord.prompting.faults import BUSY, REFUSED, Fault
from accord.prompting.server import Server, completed
from accord.prompting.vllm import Given, Handed, Missing, Vllm
from accord.records import Completion

if TYPE_CHECKING:
    import openai

    from accord.engine.config import SamplerConfig
    from accord.records import EncodedPrompt

OPTIONS = ("--sampler-key", "--sampler-insecure")
CHECKED = 4
"""Samples of each call that are held against the policy."""
FIRST = 4
"""Prompts that are sampled before anything else, and texts that tokens are compared on."""
SHORT = 64
"""Tokens of such a sample, at most."""
LARGEST_DRIFT = 0.2
"""Nats a token by which sampler and policy may differ on average: bfloat16 makes about a hundredth."""
SMALLEST_RAW = 1e-3
"""Nats a token from which on a difference may be one of kind."""
TOKENS_PER_PASS = 4096
"""Tokens that are computed at once for that."""
TRIES = 4
"""How often one sample is asked for that a server fails on, while others come."""
LOOK = 1.0
"""Seconds between two looks at a server that is away."""
LONGEST = 600.0
"""Seconds that a server has for weights, at least, and to say that it is there, at most."""
GO_ON = "go on from the last checkpoint by --resume"


@dataclass(frozen=True)
class Job:
    """A sample that is wanted: its place, its prompt and its seed."""

    place: int
    prompt: tuple[int, ...]
    seed: int


class ServedSampler:
    """The `Sampler` that is one vLLM server or several. `folder` is where weights are put for them.

    Raises InputError where a URL is none, or the key cannot be sent.
    """

    def __init__(self, config: SamplerConfig, folder: str | Path) -> None:
        self.config = config
        self.hosts = [
            Vllm(Server(url, config.sampler_key, config.sampler_insecure, OPTIONS)) for url in config.samplers
        ]
        self.above = Path(config.sampler_folder or folder).expanduser().resolve()
        self.folder = self.above / f".sampler.{os.getpid()}.partial"  # as what is left half-done, which is cleared
        self.run = secrets.token_hex(4)  # adapters of two runs must not have one name
        self.count = 0
        self.state: tuple[int, ...] = ()
        self.handed: Handed | None = None
        self.drift = self.writing = self.loading = 0.0

    def numbers(self) -> dict[str, float]:
        """What to log of the last call: by how many nats a token servers and policy differ, and seconds for weights."""
        return {"sampler_drift": self.drift, "handover_seconds": self.writing + self.loading}

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[tuple[int, ...]],
        n: int = 1,
        sampling: Sampling | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """n completions of every prompt, as `Sampler` says; InputError where servers stay away, or differ."""
        sampling = sampling or Sampling()
        if n < 1:
            raise InputError(f"a prompt needs at least one sample, not {n}")
        self._hand(policy)
        seeds = request_seeds(prompts, n, sampling)
        jobs = [Job(place, prompts[place // n], seed) for place, seed in enumerate(seeds)]
        drawn = completed(self._drawn(jobs, Given(policy, sampling), policy.name, progress or (lambda _: None)))
        some = range(0, len(jobs), -(-len(jobs) // CHECKED))
        self._compare(policy, [(jobs[i].prompt, drawn[i]) for i in some], sampling)
        return [drawn[i : i + n] for i in range(0, len(drawn), n)]

    def check(self, policy: Policy, prompts: Sequence[EncodedPrompt], sampling: Sampling) -> None:
        """See, by a few samples, that the servers can draw for the policy; InputError where not, which says why."""
        plain = replace(
            sampling,
            temperature=sampling.temperature or 1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=0,
            max_new_tokens=min(sampling.max_new_tokens, SHORT),
        )
        longest = max(len(p.tokens) for p in prompts) + sampling.max_new_tokens
        some = prompts[:: -(-len(prompts) // FIRST)]
        texts = [str(policy.tokenizer.decode(list(p.tokens))) for p in some]

        async def meet(host: Vllm) -> None:
            async with host.server.asking(self.config.sampler_wait) as client:
                try:
                    await host.meet(client, policy, longest, texts)
                except (Fault, Missing) as fault:
                    raise InputError(f"{host} cannot draw samples: {said_by(fault)}") from None

        async def meet_all() -> None:
            await asyncio.gather(*map(meet, self.hosts))

        try:
            completed(meet_all())
            self._hand(policy)
            for host in self.hosts:  # each of them must be seen to draw what the policy would
                others, self.hosts = self.hosts, [host]
                try:
                    self(policy, [p.tokens for p in some], 1, plain)
                finally:
                    self.hosts = others
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take away the weights that were put down for the servers."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _hand(self, policy: Policy) -> None:
        """Write the policy's weights, or its adapters, for the servers to read, unless they are those written last."""
        begun, state = monotonic(), state_of(policy)
        self.writing = self.loading = 0.0
        if state == self.state and self.handed is not None:
            return
        if self.count == 0:
            tidy(self.above, "sampler")
        self.count += 1
        folder, is_adapter = self.folder / str(self.count), adapted(policy.network)
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            folder.mkdir(parents=True)
            if is_adapter:
                save_adapters(policy.network, folder)
            else:
                with quiet():
                    policy.network.save_pretrained(folder, max_shard_size=SHARD)
        except OSError as error:
            raise InputError(f"weights for {self.hosts[0]} cannot be written to {folder} ({error.strerror}).") from None
        self.handed = Handed(folder, f"accord-{self.run}-{self.count}", is_adapter)
        self.state, self.writing = state, monotonic() - begun

    async def _drawn(
        self, jobs: Sequence[Job], given: Given, name: str, progress: Callable[[int], None]
    ) -> list[Completion]:
        work = Work(self, jobs, given, name, progress)
        ended = await asyncio.gather(*map(work.share, self.hosts), return_exceptions=True)
        if len(work.done) < len(jobs):
            raise next(error for error in ended if isinstance(error, BaseException))
        return [work.done[i] for i in range(len(jobs))]

    @torch.no_grad()
    def _compare(self, policy: Policy, drawn: Sequence[tuple[tuple[int, ...], Completion]], sampling: Sampling) -> None:
        """The mean of |log pi(token) - what the sampler says of it| over some samples, as `drift`.

        Tokens before which no end may be drawn are left out, as log pi is of all tokens. Raises InputError where it is
        large, or the sampler's are those of temperature 1.
        """
        if sampling.temperature == 0 or sampling.top_k or sampling.top_p < 1:
            return
        least, known = sampling.min_new_tokens, []
        for prompt, said in drawn:
            flags = tuple(i >= least for i in range(len(said.tokens)))
            if any(flags):
                known.append(Tree(prompt, (Branch(said.tokens, flags, said.logprobs),)))
        if not known:
            return
        packs = pack(known, TOKENS_PER_PASS, policy.device)

        def differ(temperature: float) -> float:
            gaps = [policy.log_probs(trees, temperature).double() - trees.logprobs.double() for trees in packs]
            return float(torch.cat(gaps).abs().mean())

        self.drift = differ(sampling.temperature)
        whom = " and ".join(map(str, self.hosts))
        if sampling.temperature != 1 and self.drift > SMALLEST_RAW and 2 * differ(1.0) < self.drift:
            raise InputError(
                f"the log-probabilities of {whom} are those before the temperature of {sampling.temperature:g}: start "
                "it with --logprobs-mode processed_logprobs."
            )
        if self.drift > LARGEST_DRIFT:
            raise InputError(
                f"{whom} and {policy.name} differ by {self.drift:.2g} nats a token, so it does not serve this model "
                "with these weights: serve it as it is, not quantized, and let no other run hand it weights."
            )


@contextmanager
def drawn_by(
    config: SamplerConfig, policy: Policy, prompts: Sequence[EncodedPrompt], sampling: Sampling
) -> Iterator[Policy]:
    """The policy, whose samples the servers draw that the settings name, if any; they are handed its weights.

    Those lie in `sampler_folder`, or where temporary files do. Raises as `ServedSampler` and its `check` do.
    """
    if config.sampler is None:
        yield policy
        return
    sampler = ServedSampler(config, tempfile.gettempdir())
    try:
        sampler.check(policy, prompts, sampling)
        yield policy.sampled_by(sampler)
    finally:
        sampler.close()


def said_by(fault: Fault | Missing) -> str:
    """What a fault is, for people."""
    return getattr(fault, "told", "") or str(fault)


class Work:
    """The samples of one call, which servers share: each takes the next as long as there are such."""

    def __init__(
        self, sampler: ServedSampler, jobs: Sequence[Job], given: Given, name: str, progress: Callable[[int], None]
    ) -> None:
        self.sampler, self.given, self.name, self.progress = sampler, given, name, progress
        self.waiting, self.total = deque(jobs), len(jobs)
        self.done: dict[int, Completion] = {}
        self.tries: Counter[int] = Counter()
        self.wait = sampler.config.sampler_wait
        self.is_stopped = False

    @property
    def is_over(self) -> bool:
        """Whether all is done, or what is left cannot be."""
        return self.is_stopped or len(self.done) == self.total

    async def share(self, host: Vllm) -> None:
        """What one server draws; InputError where it is away for too long, or cannot draw."""
        host.away = None
        async with host.server.asking(self.wait) as client:
            while not self.is_over:
                await self.ready(host, client)
                count = min(self.sampler.config.sampler_parallel, len(self.waiting))
                ended = await asyncio.gather(*(self.draw(host, client) for _ in range(count)), return_exceptions=True)
                if error := next((e for e in ended if isinstance(e, BaseException)), None):
                    raise error
                await asyncio.sleep(LOOK if any(ended) else 0 if count else LOOK / 20)  # others may give up theirs

    async def ready(self, host: Vllm, client: openai.AsyncOpenAI) -> None:
        """Wait until the server is there, and has the weights."""
        handed = self.sampler.handed
        assert handed is not None
        while not self.is_over and host.held != handed:
            try:
                await host.ask(client, "/health", seconds=min(self.wait, LONGEST))
                if not host.model:
                    await host.named(client)
                begun = monotonic()
                await host.hand_over(client, handed, self.name, seconds=max(self.wait, LONGEST))
                self.sampler.loading = max(self.sampler.loading, monotonic() - begun)
            except (Fault, Missing) as fault:
                self.missed(host, fault)
                await asyncio.sleep(LOOK)

    async def draw(self, host: Vllm, client: openai.AsyncOpenAI) -> bool:
        """Draw samples, one after the other, until there are no more, or one fails: then True."""
        while self.waiting and host.held == self.sampler.handed and not self.is_stopped:
            job = self.waiting.popleft()
            try:
                self.done[job.place] = await host.draw(client, job.prompt, job.seed, self.given, seconds=self.wait)
            except Fault as fault:
                self.waiting.append(job)
                self.failed(host, job, fault)
                return True
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

    def missed(self, host: Vllm, fault: Fault | Missing) -> None:
        """A server has not done what it was asked; InputError where that is so for too long."""
        said = said_by(fault).rstrip(".")
        if host.away is None:
            host.away = monotonic()
            status(f"{host} is waited for, up to {self.wait:g} seconds: {said}")
        if monotonic() - host.away > self.wait:
            raise InputError(f"{host} was waited for {self.wait:g} seconds ({said}): start it again, and {GO_ON}.")
