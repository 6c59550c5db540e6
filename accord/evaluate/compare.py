"""Models against each other on the same prompts: scores, win rates, divergence from a reference.

Every model answers every prompt once. A win rate is the mean over prompts of the judge's probability that the model's
answer beats the other's, ties counted half, with a paired bootstrap interval over prompts. Divergence is the mean over
the model's own samples of log pi(y|x) - log ref(y|x), in nats a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from accord.data.prompts import EncodedPrompt
from accord.engine.forward import log_probabilities
from accord.engine.generate import generate
from accord.engine.models import Policy
from accord.engine.precision import computing
from accord.engine.sampling import Sampling
from accord.engine.trees import Branch, Tree, pack
from accord.evaluate.statistics import Interval, as_json, bootstrap_mean
from accord.feedback.judge import Judge, judge_samples
from accord.objectives.segments import segment_sum
from accord.objectives.selection import best_of_n_kl_bound
from accord.records import Sample


@dataclass(frozen=True)
class Answers:
    """A model's answers to the prompts, their scores by name, and its divergence (per prompt, or one bound)."""

    name: str
    samples: list[Sample]
    scores: dict[str, torch.Tensor] = field(default_factory=dict)
    kl: torch.Tensor | float | None = None


def answer(
    name: str, policy: Policy, prompts: Sequence[EncodedPrompt], sampling: Sampling, dtype: torch.dtype, n: int = 1
) -> Answers:
    """n samples of every prompt, prompt after prompt."""
    with computing(dtype, policy.device):
        groups = generate(policy.network, [p.tokens for p in prompts], n, sampling, end=policy.end)
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


@torch.no_grad()
def divergence(
    answers: Answers, policy: Policy, reference: Policy, sampling: Sampling, dtype: torch.dtype
) -> torch.Tensor:
    """log pi - log ref of every answer, (C,), in nats, at the temperature it was sampled with."""
    gaps = torch.empty(len(answers.samples), dtype=torch.float64)
    trees = [Tree(s.prompt_tokens, (Branch(s.completion.tokens),), row=i) for i, s in enumerate(answers.samples)]
    for batch in pack(trees, 4096, policy.device):
        with computing(dtype, policy.device):
            pi, ref = (log_probabilities(m.network, batch, sampling.temperature)[0] for m in (policy, reference))
        where = torch.tensor([t.row for t in batch.trees])
        gaps[where] = segment_sum((pi - ref).double(), batch.owner, batch.branches).cpu()
    return gaps


def win_rate(judge: Judge, answers: Answers, against: Answers) -> dict[str, Any]:
    """The judge's view of one model's answers against another's, with a 95% interval."""
    verdicts = judge_samples(judge, answers.samples, against.samples)
    valid = [v.first_wins for v in verdicts if v.first_wins is not None]
    interval = bootstrap_mean(valid) if valid else Interval(float("nan"), float("nan"), float("nan"), 0)
    return as_json(interval) | {"ties": valid.count(0.5), "invalid": len(verdicts) - len(valid)}


def table(
    models: Sequence[Answers], rewards: Mapping[str, Callable[..., torch.Tensor]], judge: Judge, against: str | None
) -> list[dict[str, Any]]:
    """A row a model: scores, win rate and divergence with their intervals, mean length in tokens, share that ended."""
    rival = next((m for m in models if m.name == against), None)
    rows = []
    for model in models:
        for name, reward in rewards.items():
            model.scores[name] = reward(model.samples)
        rows.append(
            {
                "name": model.name,
                "scores": {name: as_json(bootstrap_mean(s.tolist())) for name, s in model.scores.items()},
                "win_rate": win_rate(judge, model, rival) if rival and rival is not model else None,
                "kl": _summarised(model.kl),
                "length": sum(len(s.completion.tokens) for s in model.samples) / len(model.samples),
                "ended": sum(s.completion.stop == "end" for s in model.samples) / len(model.samples),
            }
        )
    return rows


def _summarised(kl: torch.Tensor | float | None) -> dict[str, Any] | None:
    """The mean divergence over prompts with its interval, or a bound, which has none."""
    if kl is None:
        return None
    bound = isinstance(kl, float)
    return as_json(bootstrap_mean([kl] if isinstance(kl, float) else kl.tolist())) | {"bound": bound}
