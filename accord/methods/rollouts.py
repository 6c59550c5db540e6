"""What a policy says to a batch of prompts, scored: the data of one step of a method that learns from its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from accord.data.encoding import encode_prompts
from accord.engine.fit import TrainingConfig, named_rows
from accord.engine.generate import generate
from accord.engine.models import Policy
from accord.engine.precision import autocast, compute_dtype
from accord.engine.sampling import Sampling
from accord.engine.trees import Branch, Tree
from accord.errors import InputError, TrainingStopped
from accord.feedback.judge import Reward
from accord.records import EncodedPrompt, Prompt, Sample, text_to_json
from accord.train.run import Run

SHOWN = 4
"""Samples written to the run's folder each time."""


@dataclass(kw_only=True)
class SamplingConfig(TrainingConfig):
    """Settings that every method which learns from its own samples has."""

    command: ClassVar[str]
    least_group: ClassVar[int] = 1

    group_size: int = 1
    """Samples of each prompt."""
    max_new_tokens: int = 64
    """A sample is cut after so many tokens."""
    temperature: float = 1.0
    """Divides the logits, in sampling and in scoring alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < self.least_group:
            why = "" if self.least_group == 1 else f", as {self.command} compares the samples of one prompt"
            raise InputError(f"group_size must be at least {self.least_group}{why}, not {self.group_size}.")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")
        if not self.temperature > 0:
            raise InputError(f"temperature must be positive, not {self.temperature}.")


@dataclass(frozen=True)
class Rollout:
    """What the policy said to a batch of prompts: a tree a prompt, whose branches carry log-probabilities and rewards.

    `samples` and `ended` (whether the end-of-turn token came) follow the branches' order. `parts` holds the mean of
    every reward that the score is a sum of, by name.
    """

    trees: list[Tree]
    samples: list[Sample]
    ended: Tensor
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def rewards(self) -> Tensor:
        """(C,) the reward of every sample."""
        return torch.tensor([b.score for t in self.trees for b in t.branches], dtype=torch.float64)


def encoded(method: SamplingConfig, policy: Policy, rows: Sequence[Prompt], run: Run) -> list[EncodedPrompt]:
    """The prompts that leave room for the method's samples; those that do not are told."""
    prompts, left_out = encode_prompts(
        policy.tokenizer, rows, room=method.max_new_tokens, context=policy.context, longest=method.max_length
    )
    for line in left_out:
        run.say(line)
    return prompts


def respond(
    method: SamplingConfig,
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    *seed: int,
    n: int | None = None,
    network: nn.Module | None = None,
) -> list[Sample]:
    """Samples of every prompt, prompt after prompt: `n` or as many as the method's group size, of the policy as it is.

    `seed` is combined with the method's. A `network` of the policy's vocabulary speaks in its place where one is given.
    """
    sampling = Sampling(method.max_new_tokens, method.temperature, seed=(method.seed, *seed))
    with autocast(compute_dtype(method.dtype, policy.device), policy.device):
        speaker = policy.network if network is None else network
        groups = generate(speaker, [p.tokens for p in prompts], n or method.group_size, sampling, end=policy.end)
    return [
        Sample(p.prompt, policy.text(c.tokens), p.tokens, c, p.row)
        for p, group in zip(prompts, groups, strict=True)
        for c in group
    ]


def scored(reward: Reward, samples: Sequence[Sample], when: str) -> Tensor:
    """The reward of every sample, (C,); `when` opens the message where that fails.

    Raises:
        TrainingStopped: the reward did not give every sample a finite score.
    """
    scores = reward(samples)
    if len(scores) != len(samples):
        rows = named_rows(s.row for s in samples)
        raise TrainingStopped(
            f"{when}: the reward gave {len(scores)} scores for {len(samples)} samples of {rows}; "
            "let it give each sample one."
        )
    if not torch.isfinite(scores).all():
        rows = named_rows(samples[i].row for i in (~torch.isfinite(scores)).nonzero().flatten().tolist())
        raise TrainingStopped(f"{when}: the reward of a sample of {rows} is not finite; look at the reward.")
    return scores


def sample(
    method: SamplingConfig, policy: Policy, prompts: Sequence[EncodedPrompt], reward: Reward, step: int
) -> Rollout:
    """Completions of a batch of prompts under the policy as it is, with their rewards; raises as `scored` does."""
    samples = respond(method, policy, prompts, step)
    scores = scored(reward, samples, f"step {step + 1}")
    parts = {name: float(part.double().mean()) for name, part in getattr(reward, "parts", {}).items()}
    return rolled(prompts, samples, scores.tolist(), parts)


def rolled(
    prompts: Sequence[EncodedPrompt],
    samples: list[Sample],
    scores: Sequence[float],
    parts: Mapping[str, float] | None = None,
) -> Rollout:
    """The samples, equally many of every prompt, and their scores as a rollout."""
    g = len(samples) // len(prompts)
    branches = [
        Branch(s.completion.tokens, None, s.completion.logprobs, r) for s, r in zip(samples, scores, strict=True)
    ]
    trees = [Tree(p.tokens, tuple(branches[i * g : (i + 1) * g]), row=p.row) for i, p in enumerate(prompts)]
    return Rollout(trees, samples, torch.tensor([s.completion.stop == "end" for s in samples]), parts or {})


def penalize(rollout: Rollout, penalty: float, *, mask: bool = False) -> list[Tree]:
    """The trees with `penalty` taken off the reward of every sample that was cut before its end-of-turn token.

    With `mask` none of a cut sample's tokens are trained on.
    """
    ended = iter(rollout.ended.tolist())

    def cut(branch: Branch) -> Branch:
        trained = (False,) * len(branch.tokens) if mask else branch.trained
        return replace(branch, reward=branch.score - penalty, trained=trained)

    return [replace(t, branches=tuple(b if next(ended) else cut(b) for b in t.branches)) for t in rollout.trees]


def summary(rollout: Rollout) -> dict[str, float]:
    """The rollout in numbers: mean and spread of the rewards, and what the samples look like.

    `length_correlation` is that of reward and length over the step's samples, where both vary.
    """
    rewards = rollout.rewards
    row = {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std(correction=0)),
        **{f"reward of {name}": mean for name, mean in rollout.parts.items()},
        **lengths(rollout.samples),
        "repetition": sum(repetition(s.completion.tokens) for s in rollout.samples) / len(rollout.samples),
    }
    length = torch.tensor([len(s.completion.tokens) for s in rollout.samples], dtype=torch.float64)
    if len(rewards.unique()) > 1 and len(length.unique()) > 1:
        row["length_correlation"] = float(torch.corrcoef(torch.stack([rewards, length]))[0, 1])
    return row


def repetition(tokens: Sequence[int], size: int = 4) -> float:
    """1 - distinct / all of the runs of `size` tokens: seq-rep-n of Welleck et al. 2019 (arXiv:1908.04319, eq. 7)."""
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def lengths(samples: Sequence[Sample]) -> dict[str, float]:
    """Mean length in tokens, and the share that ended with the end-of-turn token."""
    return {
        "length": sum(len(s.completion.tokens) for s in samples) / len(samples),
        "ended": sum(s.completion.stop == "end" for s in samples) / len(samples),
    }


def shown(rollout: Rollout) -> list[dict[str, Any]]:
    """A few samples for people to read."""
    rewards = rollout.rewards.tolist()
    return [
        {"prompt": text_to_json(s.prompt.prompt), "completion": s.text, "reward": rewards[i]}
        for i, s in enumerate(rollout.samples[:SHOWN])
    ]
