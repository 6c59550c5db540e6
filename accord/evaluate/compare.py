"""What models answer to the same prompts, and how far they are from a reference in it.

Every model answers every prompt once. Divergence is the mean over the model's own samples of
log pi(y|x) - log ref(y|x), in nats a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import torch

from accord.engine.forward import log_probabilities
from accord.engine.generate import generate
from accord.engine.models import Policy
from accord.engine.precision import autocast
from accord.engine.sampling import Sampling
from accord.engine.trees import Branch, Tree, pack
from accord.evaluate.statistics import as_json, bootstrap_mean
from accord.objectives.selection import best_of_n_kl_bound
from accord.records import EncodedPrompt, Sample

Traced: TypeAlias = list[tuple[str, float]]
"""An answer's tokens as texts, each with its log pi - log ref."""


@dataclass(frozen=True)
class Answers:
    """A model's answers to the prompts, their scores by name, and its divergence (per prompt, or one bound).

    `traced` holds the first answers token by token, where a reference is known. Samples without tokens are answers that
    are known by their texts alone.
    """

    name: str
    samples: list[Sample]
    scores: dict[str, torch.Tensor] = field(default_factory=dict)
    kl: torch.Tensor | float | None = None
    traced: list[Traced] = field(default_factory=list)

    @property
    def characters(self) -> list[int]:
        """The length of every answer."""
        return [len(s.text) for s in self.samples]

    @property
    def has_tokens(self) -> bool:
        """Whether the answers were sampled here: others have no number of tokens, nor a reason why they ended."""
        return all(s.completion.tokens for s in self.samples)


def answer(
    name: str,
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    sampling: Sampling,
    dtype: torch.dtype,
    n: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Answers:
    """n samples of every prompt, prompt after prompt."""
    with autocast(dtype, policy.device):
        tokens = [p.tokens for p in prompts]
        groups = generate(policy.network, tokens, n, sampling, end=policy.end, progress=progress)
    return Answers(
        name,
        [
            Sample(p.prompt, policy.text(c.tokens), p.tokens, c, p.row)
            for p, group in zip(prompts, groups, strict=True)
            for c in group
        ],
    )


def best_of(answers: Answers, n: int, proxy: torch.Tensor) -> Answers:
    """Of every n samples the one with the highest proxy reward; its divergence is bounded by log n - (n - 1) / n."""
    best = proxy.view(-1, n).argmax(1) + torch.arange(len(proxy) // n) * n
    return Answers(
        f"{answers.name} best of {n}", [answers.samples[i] for i in best.tolist()], {}, best_of_n_kl_bound(n)
    )


def divergence(
    answers: Answers, policy: Policy, reference: Policy, sampling: Sampling, dtype: torch.dtype
) -> torch.Tensor:
    """log pi - log ref of every answer, (C,), in nats, at the temperature it was sampled with."""
    ratios = token_divergences(answers.samples, policy, reference, sampling, dtype)
    return torch.stack([ratio.sum() for ratio in ratios])


@torch.no_grad()
def token_divergences(
    samples: Sequence[Sample], policy: Policy, reference: Policy, sampling: Sampling, dtype: torch.dtype
) -> list[torch.Tensor]:
    """log pi - log ref of every token of every sample, (n,) float64 each, at the temperature it was sampled with."""
    gaps: dict[int, torch.Tensor] = {}
    trees = [Tree(s.prompt_tokens, (Branch(s.completion.tokens),), row=i) for i, s in enumerate(samples)]
    for batch in pack(trees, 4096, policy.device):
        with autocast(dtype, policy.device):
            pi, ref = (log_probabilities(m.network, batch, sampling.temperature)[0] for m in (policy, reference))
        counts = torch.bincount(batch.owner, minlength=batch.branches).tolist()
        gaps |= zip((t.row for t in batch.trees), (pi - ref).double().cpu().split(counts), strict=True)
    return [gaps[i] for i in range(len(samples))]


def traced(policy: Policy, tokens: Sequence[int], ratios: Sequence[float]) -> Traced:
    """An answer's tokens as texts that make up its text, with the token that ended it, each with its log pi - log ref.

    A token is read after the one before it, as some tokenizers show the space between two words only then; one that is
    no character by itself is shown as whatever the tokenizer makes of it alone.
    """

    def read(*ids: int) -> str:
        return str(policy.tokenizer.decode(list(ids)))

    texts = [*map(read, tokens[:1]), *(read(a, b)[len(read(a)) :] or read(b) for a, b in pairwise(tokens))]
    return list(zip(texts, ratios, strict=True))


def table(models: Sequence[Answers], rewards: Mapping[str, Callable[..., torch.Tensor]]) -> list[dict[str, Any]]:
    """A row a model: scores and divergence with their intervals, mean length, and the share that ended."""
    rows = []
    for model in models:
        for name, reward in rewards.items():
            model.scores[name] = reward(model.samples)
        n, samples = len(model.samples), model.samples
        rows.append(
            {
                "name": model.name,
                "scores": {name: as_json(bootstrap_mean(s.tolist())) for name, s in model.scores.items()},
                "kl": _summarized(model.kl),
                "characters": sum(model.characters) / n,
                "length": sum(len(s.completion.tokens) for s in samples) / n if model.has_tokens else None,
                "ended": sum(s.completion.stop == "end" for s in samples) / n if model.has_tokens else None,
            }
        )
    return rows


def _summarized(kl: torch.Tensor | float | None) -> dict[str, Any] | None:
    """The mean divergence over prompts with its interval, or a bound, which has none."""
    if kl is None:
        return None
    bound = isinstance(kl, float)
    return as_json(bootstrap_mean([kl] if isinstance(kl, float) else kl.tolist())) | {"bound": bound}
