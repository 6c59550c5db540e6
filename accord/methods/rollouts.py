"""What a policy says to a batch of prompts, scored: the data of one step of a method that learns from its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from accord import engine, feedback
from accord.engine.config import SamplingConfig
from accord.records import EncodedPrompt, Sample
from accord.train.loop import StepResult

if TYPE_CHECKING:
    from accord.engine import Branch, Policy, Tree
    from accord.feedback.reward import Reward


@dataclass(frozen=True)
class Rollout:
    """What the policy said to a batch of prompts: a tree a prompt, whose branches carry log-probabilities and rewards.

    `samples` follow the branches' order. `parts` holds the mean of every reward that the score is a sum of, by name,
    `numbers` what the rewards logged, and the share of samples of which none said anything; `extra` what they said of
    each sample.
    """

    trees: list[Tree]
    samples: list[Sample]
    parts: Mapping[str, float] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def rewards(self) -> list[float]:
        """The reward of every sample."""
        return [branch.score for tree in self.trees for branch in tree.branches]

    @staticmethod
    def of(prompts: Sequence[EncodedPrompt], samples: list[Sample], rewards: list[float]) -> Rollout:
        """The samples, equally many of every prompt, with a reward each."""
        g = len(samples) // len(prompts)
        branches = [
            engine.Branch(s.completion.tokens, None, s.completion.logprobs, r)
            for s, r in zip(samples, rewards, strict=True)
        ]
        trees = [engine.Tree(p.tokens, tuple(branches[i * g : (i + 1) * g]), row=p.row) for i, p in enumerate(prompts)]
        return Rollout(trees, samples)

    def result(self, numbers: Mapping[str, float]) -> StepResult:
        """A step's result: the samples, what they look like in numbers, and the method's own `numbers`.

        `length_correlation` is that of reward and length over the step's samples, where both vary.
        """
        tokens, rewards = [s.completion.tokens for s in self.samples], np.array(self.rewards)
        length = np.array([len(t) for t in tokens], dtype=float)
        row = {
            "reward": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            **{f"reward of {name}": mean for name, mean in self.parts.items()},
            **lengths(self.samples),
            "repetition": sum(map(repetition, tokens)) / len(tokens),
        }
        if np.ptp(rewards) and np.ptp(length):
            row["length_correlation"] = float(np.corrcoef(rewards, length)[0, 1])
        row |= dict(self.numbers) | dict(numbers)
        return StepResult(row, sum(tree.size for tree in self.trees), self.samples, self.rewards, self.extra)


def sample(
    method: SamplingConfig, policy: Policy, prompts: Sequence[EncodedPrompt], reward: Reward, step: int
) -> Rollout:
    """Completions of a batch of prompts under the policy as it is, with their rewards, which must be finite."""
    samples = policy.sample(prompts, method.group_size, method.sampling(step))
    feedback.reward.at_step(reward, step)
    scores = feedback.reward.finite_scores(reward, samples, f"step {step + 1}")
    parts = {name: float(part.double().nanmean()) for name, part in getattr(reward, "parts", {}).items()}
    logged, extra = feedback.reward.logged(reward), feedback.reward.extra(reward)
    groups = np.array(scores.tolist()).reshape(len(prompts), -1)
    silent = np.isnan(groups)
    if not silent.any():
        return replace(Rollout.of(prompts, samples, groups.ravel().tolist()), parts=parts, numbers=logged, extra=extra)
    # A sample of which no reward says anything stands at its group's mean, and none of its tokens are trained on.
    means = np.nan_to_num(groups).sum(1) / np.maximum((~silent).sum(1), 1)
    rollout = Rollout.of(prompts, samples, np.where(silent, means[:, None], groups).ravel().tolist())
    trees = [
        replace(tree, branches=tuple(untrained(b) if mute else b for b, mute in zip(tree.branches, row, strict=True)))
        for tree, row in zip(rollout.trees, silent.tolist(), strict=True)
    ]
    numbers = logged | {"abstained": float(silent.mean())}
    return replace(rollout, trees=trees, parts=parts, numbers=numbers, extra=extra)


def penalize(rollout: Rollout, penalty: float, *, mask: bool = False) -> list[Tree]:
    """The trees with `penalty` taken off the reward of every sample that was cut before its end-of-turn token.

    With `mask` none of a cut sample's tokens are trained on.
    """
    samples = iter(rollout.samples)  # in the branches' order

    def penalized(branch: Branch) -> Branch:
        if next(samples).completion.stop == "end":
            return branch
        return replace(untrained(branch) if mask else branch, reward=branch.score - penalty)

    return [replace(tree, branches=tuple(map(penalized, tree.branches))) for tree in rollout.trees]


def untrained(branch: Branch) -> Branch:
    """The branch with none of its tokens trained on."""
    return replace(branch, trained=(False,) * len(branch.tokens))


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
