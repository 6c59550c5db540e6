"""Servers as a policy's `Sampler`: they get its weights whenever these have changed, and share the samples.

Every sample is a request of its own, with a seed made of the sampling's seed, the prompt and the sample's number, so
that it is the same whichever server draws it. A few samples of each call are compared with the policy itself: a server
of another model, or with log-probabilities of another kind, is detected before anything is learned from it.

Of ranks that train together only the leading one speaks with the servers: weights come from it, a failing server is
waited for once, and every prompt is asked for once. It sends the samples to the others.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from accord.engine.models import Policy
from accord.engine.samplers import shard_unread
from accord.engine.sampling import Sampling, request_seeds
from accord.engine.team import Team
from accord.engine.trees import Branch, Tree, Trees, pack
from accord.errors import InputError
from accord.files import real
from accord.prompting.faults import Fault
from accord.prompting.handover import HandedWeights, Handover, nudged
from accord.prompting.server import Server, run_async
from accord.prompting.shares import Job, JobQueue, fault_text
from accord.prompting.vllm import NotServed, SampleSettings, Vllm
from accord.records import Completion

if TYPE_CHECKING:
    from accord.arrays import Tokens
    from accord.engine.config import SamplerConfig
    from accord.records import EncodedPrompt

OPTIONS = ("--sampler-key", "--sampler-insecure")
CHECKED = 4
"""Samples of each call that are compared with the policy."""
FIRST = 4
"""Prompts sampled in the check before training, and texts whose tokenization is compared."""
SHORT = 64
"""The most tokens of a sample in that check."""
LARGEST_DRIFT = 0.2
"""The largest allowed mean difference between sampler and policy, in nats per token; bfloat16 causes about .01."""
SMALLEST_RAW = 1e-3
"""Drift, in nats per token, from which log-probabilities before the temperature are considered as the cause."""
LEFT_BEHIND = 4.0, 0.05
"""A server has not taken all nudged weights where its drift exceeds the first number times its drift otherwise, plus
the second times the nudge's effect on log-probabilities."""
TOKENS_PER_PASS = 4096
"""Tokens computed at once."""


class ServedSampler:
    """A `Sampler` made of one or more vLLM servers. `folder` is where weights are written for them.

    Raises InputError where a URL is not valid, or the key must not be sent.
    """

    def __init__(self, config: SamplerConfig, folder: str | Path) -> None:
        self.config = config
        self.hosts = [
            Vllm(Server(url, config.sampler_key, config.sampler_insecure, OPTIONS)) for url in config.samplers
        ]
        self.handover = Handover(real(Path(config.sampler_folder or folder).expanduser()))
        self.row = {"handover_seconds": 0.0, "samples_wait_seconds": 0.0}

    def numbers(self) -> dict[str, float]:
        """What to log of the last call: seconds for weights and for samples, and the drift in nats per token, where it
        can be computed."""
        return self.row

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Tokens],
        n: int = 1,
        sampling: Sampling | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """n completions of every prompt, as `Sampler` says; InputError where servers do not answer, or differ."""
        sampling = sampling or Sampling()
        if n < 1:
            raise InputError(f"a prompt needs at least one sample, not {n}")
        drawn, check = self._draw(self.hosts, policy, prompts, n, sampling, progress)
        check.require_near(self.hosts, policy)
        return [drawn[i : i + n] for i in range(0, len(drawn), n)]

    def check(self, policy: Policy, prompts: Sequence[EncodedPrompt], sampling: Sampling) -> None:
        """Test with a few samples that each server can draw for the policy; InputError, saying why, where one cannot.

        The servers are given nudged weights, which none can have by itself, and then the policy's own.
        """
        plain = replace(
            sampling,
            temperature=sampling.temperature or 1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=0,
            max_new_tokens=min(sampling.max_new_tokens, SHORT),
        )
        some = prompts[:: -(-len(prompts) // FIRST)]
        tokens = [p.tokens for p in some]
        longest = max(len(p.tokens) for p in prompts) + sampling.max_new_tokens
        shard_unread(policy)
        try:
            Team.here().lead(lambda: run_async(self._meet(policy, some, longest)))
            nudges: list[SpotCheck] = []
            with nudged(policy):
                nudges += [self._draw([host], policy, tokens, 1, plain)[1] for host in self.hosts]
            for host, nudge in zip(self.hosts, nudges, strict=True):
                moved = drift_of(nudge.samples, policy, plain, plain.temperature)
                _, own = self._draw([host], policy, tokens, 1, plain)
                own.require_near([host], policy)
                if nudge.drift is None or moved is None or own.drift is None:  # no sample has a token to compare
                    continue
                if nudge.drift > LEFT_BEHIND[0] * own.drift + LEFT_BEHIND[1] * moved:
                    raise InputError(
                        f"{host} takes only part of the weights it is handed: where some change a little, it and "
                        f"{policy.name} differ by {nudge.drift:.2g} nats a token; serve another version of vLLM."
                    )
        except BaseException:
            self.close()
            raise

    async def _meet(self, policy: Policy, some: Sequence[EncodedPrompt], longest: int) -> None:
        texts = [str(policy.tokenizer.decode(list(p.tokens))) for p in some]

        async def meet(host: Vllm) -> None:
            async with host.server.asking(self.config.sampler_wait) as client:
                try:
                    await host.meet(client, policy, longest, texts)
                except (Fault, NotServed) as fault:
                    raise InputError(f"{host} cannot draw samples: {fault_text(fault)}") from None

        await asyncio.gather(*map(meet, self.hosts))

    def close(self) -> None:
        """Delete the weights written for the servers."""
        self.handover.close()

    def _draw(
        self,
        hosts: Sequence[Vllm],
        policy: Policy,
        prompts: Sequence[Tokens],
        n: int,
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[list[Completion], SpotCheck]:
        """The servers' samples, prompt by prompt, and a check of some of them; records the numbers to log."""
        begun = monotonic()
        handed = self._written(policy)
        written = monotonic()
        queue = self._queue(handed, policy, prompts, n, sampling, progress)
        drawn = Team.here().lead(lambda: self._wait(queue, hosts))
        seconds, waited = written - begun + queue.loading, monotonic() - written
        check = SpotCheck.of(queue.jobs, drawn, policy, sampling)
        drift = {} if check.drift is None else {"sampler_drift": check.drift}
        self.row = {**drift, "handover_seconds": seconds, "samples_wait_seconds": waited}
        return drawn, check

    def _queue(
        self,
        handed: HandedWeights,
        policy: Policy,
        prompts: Sequence[Tokens],
        n: int,
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> JobQueue:
        """The jobs for n samples of every prompt, from weights already written."""
        jobs = [Job(i, prompts[i // n], seed) for i, seed in enumerate(request_seeds(prompts, n, sampling))]
        return JobQueue(self.config, handed, jobs, SampleSettings(policy, sampling), progress)

    def _written(self, policy: Policy) -> HandedWeights:
        return self.handover.write(policy)

    def _wait(self, queue: JobQueue, hosts: Sequence[Vllm]) -> list[Completion]:
        return run_async(queue.completions(hosts))


@dataclass(frozen=True)
class SpotCheck:
    """A few of a call's samples with their prompts, and their `drift` from the policy that they were drawn for."""

    samples: Sequence[tuple[Tokens, Completion]]
    sampling: Sampling
    drift: float | None
    """As `drift_of` measures it."""

    @staticmethod
    def of(jobs: Sequence[Job], drawn: Sequence[Completion], policy: Policy, sampling: Sampling) -> SpotCheck:
        """The check of a call's samples with the policy as it is now."""
        samples = [(jobs[i].prompt, drawn[i]) for i in range(0, len(jobs), -(-len(jobs) // CHECKED))]
        return SpotCheck(samples, sampling, drift_of(samples, policy, sampling, sampling.temperature))

    def require_near(self, hosts: Sequence[Vllm], policy: Policy) -> None:
        """Raise InputError where the samples' log-probabilities differ from the policy's."""
        if self.drift is None:
            return
        whom, temperature = " and ".join(map(str, hosts)), self.sampling.temperature
        is_other = temperature != 1 and self.drift > SMALLEST_RAW
        if is_other and 2 * (drift_of(self.samples, policy, self.sampling, 1.0) or 0.0) < self.drift:
            raise InputError(
                f"the log-probabilities of {whom} are those before the temperature of {temperature:g}: start it with "
                "--logprobs-mode processed_logprobs."
            )
        if self.drift > LARGEST_DRIFT:
            raise InputError(
                f"{whom} and {policy.name} differ by {self.drift:.2g} nats a token, so it does not serve this model "
                "with these weights: serve it as it is, not quantized, and let no other run hand it weights."
            )


@torch.no_grad()
def drift_of(
    samples: Sequence[tuple[Tokens, Completion]], policy: Policy, sampling: Sampling, temperature: float
) -> float | None:
    """The mean over tokens of |log pi(token) - server's log-probability|, in nats; None where it is not defined.

    Tokens before `min_new_tokens` are left out: the server excludes ends there, and log pi does not.
    """
    least, known = sampling.min_new_tokens, []
    for prompt, completion in samples:
        flags = tuple(i >= least for i in range(len(completion.tokens)))
        if any(flags):
            known.append(Tree(prompt, (Branch(completion.tokens, flags, completion.logprobs),)))
    if not known or temperature == 0 or sampling.top_k or sampling.top_p < 1:
        return None

    def gaps(trees: Trees) -> Tensor:
        return (policy.log_probs(trees, temperature).double() - trees.logprobs.double()).cpu()

    packs = pack(known, TOKENS_PER_PASS, policy.device)
    return float(torch.cat(Team.here().map(packs, gaps)).abs().mean())


@contextmanager
def drawn_by(
    config: SamplerConfig, policy: Policy, prompts: Sequence[EncodedPrompt], sampling: Sampling
) -> Iterator[Policy]:
    """The policy, with its samples drawn by the servers that the settings name, if any; they get its weights.

    The weights are written to `sampler_folder`, or the folder of temporary files. Raises as `ServedSampler` does, and
    its `check`.
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
