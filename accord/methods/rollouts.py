"""Rollouts: a policy's samples on a batch of prompts, scored; the data of one step of a method that learns from them.

In a dialogue with a simulated user, a sample is a whole conversation, and its reward is that of its last turn or the
sum over its turns. It is one branch: the policy's tokens are trained on, with the whole reward or each turn with the
rewards that follow it (`turn_rewards`); the user's tokens are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from accord import engine, feedback
from accord.arrays import Bools, Doubles, Ints
from accord.console import status
from accord.engine.config import SamplingConfig
from accord.records import EncodedPrompt, Sample
from accord.train.learner import StepResult

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Branch, Policy, Tree
    from accord.feedback.reward import Reward
    from accord.feedback.users import Conversation, Dialogue


@dataclass(frozen=True)
class Rollout:
    """Samples on a batch of prompts: one tree per prompt, whose branches have log-probabilities and rewards.

    `samples` are in the branches' order; of a conversation it is the last turn. `parts` holds the mean of each
    component of the reward, by name, `numbers` what the rewards logged and the share of samples without any reward,
    `extra` what the rewards recorded for each sample.
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
        """A rollout of samples, equally many per prompt, with a reward each."""
        return Rollout.of_conversations(prompts, [[sample] for sample in samples], rewards)

    @staticmethod
    def of_conversations(
        prompts: Sequence[EncodedPrompt],
        conversations: Sequence[Conversation],
        rewards: Sequence[float],
        by_turn: Sequence[Sequence[float]] | None = None,
    ) -> Rollout:
        """A rollout of conversations, equally many per prompt, with a reward each, and optionally one per turn."""
        g = len(conversations) // len(prompts)
        each = by_turn or [()] * len(conversations)
        branches = [branch_of(*known) for known in zip(conversations, rewards, each, strict=True)]
        trees = [engine.Tree(p.tokens, tuple(branches[i * g : (i + 1) * g]), row=p.row) for i, p in enumerate(prompts)]
        return Rollout(trees, [turns[-1] for turns in conversations])

    def result(self, numbers: Mapping[str, float]) -> StepResult:
        """A step's result: the samples, statistics of them, and the method's own `numbers`.

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
    method: SamplingConfig,
    policy: Policy,
    prompts: Sequence[EncodedPrompt],
    reward: Reward,
    step: int,
    dialogue: Dialogue | None = None,
) -> Rollout:
    """Sample completions, or conversations, of a batch of prompts from the current policy, with finite rewards."""
    n, sampling = method.group_size, method.sampling(step)
    if dialogue is None:
        conversations = [[each] for each in policy.sample(prompts, n, sampling)]
        scored = conversations
    else:
        conversations = dialogue.conversations(policy, prompts, n, sampling, longest=method.max_length)
        scored = [dialogue.rewarded(conversation) for conversation in conversations]
    turns = [turn for turns in scored for turn in turns]
    scores, parts, logged, extra = engine.Team.here().lead(partial(score, reward, turns, step))
    each = [part.tolist() for part in scores.split([len(turns) for turns in scored])]
    last = np.cumsum([len(turns) for turns in scored]) - 1  # index of each conversation's last scored turn
    extra = {name: [values[i] for i in last] for name, values in extra.items()}
    groups = np.array([_total(some) for some in each]).reshape(len(prompts), -1)
    unscored = np.isnan(groups)
    # An unscored sample gets its group's mean as reward, and its tokens are not trained on.
    means = np.nan_to_num(groups).sum(1) / np.maximum((~unscored).sum(1), 1)
    by_turn = each if dialogue is not None and dialogue.reward_at == "turns-to-go" else None
    totals = np.where(unscored, means[:, None], groups).ravel().tolist()
    rollout = Rollout.of_conversations(prompts, conversations, totals, by_turn)
    trees = [
        replace(tree, branches=tuple(untrained(b) if skip else b for b, skip in zip(tree.branches, row, strict=True)))
        for tree, row in zip(rollout.trees, unscored.tolist(), strict=True)
    ]
    numbers = logged | ({} if dialogue is None else turn_measures(conversations, each))
    if unscored.any():
        numbers["abstained"] = float(unscored.mean())
    if unscored.all() and engine.Team.here().leads:
        status(f"step {step + 1}: no reward has a value for any sample (all are None), so the step teaches nothing")
    return replace(rollout, trees=trees, parts=parts, numbers=numbers, extra=extra)


def score(
    reward: Reward, samples: Sequence[Sample], step: int
) -> tuple[Tensor, dict[str, float], dict[str, float], dict[str, list[Any]]]:
    """Finite rewards of samples, (C,), the mean of each component, logged numbers, and what was recorded for each
    sample."""
    feedback.reward.at_step(reward, step)
    scores = feedback.reward.finite_scores(reward, samples, f"step {step + 1}")
    parts = {name: float(part.double().nanmean()) for name, part in getattr(reward, "parts", {}).items()}
    return scores.double().cpu(), parts, feedback.reward.logged(reward), feedback.reward.extra(reward)


def _total(rewards: Sequence[float]) -> float:
    """The sum of the rewards of turns, ignoring NaN; NaN where all are."""
    known = [reward for reward in rewards if not isnan(reward)]
    return sum(known) if known else nan


def branch_of(conversation: Conversation, reward: float, by_turn: Sequence[float] = ()) -> Branch:
    """A conversation after its first prompt as a branch: the policy's tokens are trained on, the user's are not.

    With rewards per turn the branch has its turns, and turns after the last rewarded one are not trained on.
    """
    start = len(conversation[0].prompt_tokens)
    last = max((i for i, r in enumerate(by_turn) if not isnan(r)), default=-1) if by_turn else len(conversation)
    tokens, trained, logprobs = Ints(), Bools(), Doubles()
    ends: list[int] = []
    for number, turn in enumerate(conversation):
        between, answer = turn.prompt_tokens[start + len(tokens) :], turn.completion  # between: the user's turn
        tokens += between + answer.tokens
        trained += (False,) * len(between) + (number <= last,) * len(answer.tokens)
        logprobs += (nan,) * len(between) + answer.logprobs
        ends.append(len(tokens))
    turns = tuple(map(engine.trees.Turn, ends, by_turn))
    return engine.Branch(tokens, None if all(trained) else trained, logprobs, reward, turns)


def turn_measures(conversations: Sequence[Conversation], rewards: Sequence[Sequence[float]]) -> dict[str, float]:
    """The mean number of turns, their length in the policy's tokens, and the mean reward of each turn."""
    row = {
        "turns": sum(map(len, conversations)) / len(conversations),
        "length": sum(len(turn.completion.tokens) for turns in conversations for turn in turns) / len(conversations),
    }
    for turn in range(max(map(len, conversations))) if max(map(len, rewards)) > 1 else ():
        of = [some[turn] for some in rewards if len(some) > turn and not isnan(some[turn])]
        row |= {f"reward of turn {turn + 1}": sum(of) / len(of)} if of else {}
    return row


def penalize(rollout: Rollout, penalty: float, *, mask: bool = False) -> list[Tree]:
    """The trees with `penalty` subtracted from the reward of every sample that was cut before its end-of-turn token.

    With rewards per turn it is subtracted from the last turn's too; no other turn can be cut. With `mask` the tokens of
    cut samples are not trained on.
    """
    samples = iter(rollout.samples)  # in the branches' order

    def penalized(branch: Branch) -> Branch:
        if next(samples).completion.stop == "end":
            return branch
        turns = (*branch.turns[:-1], *(replace(turn, reward=turn.reward - penalty) for turn in branch.turns[-1:]))
        return replace(untrained(branch) if mask else branch, reward=branch.score - penalty, turns=turns)

    return [replace(tree, branches=tuple(map(penalized, tree.branches))) for tree in rollout.trees]


def untrained(branch: Branch) -> Branch:
    """The branch with none of its tokens trained on."""
    return replace(branch, trained=Bools((False,) * len(branch.tokens)))


def repetition(tokens: Sequence[int], size: int = 4) -> float:
    """1 - distinct / all n-grams of `size` tokens: seq-rep-n of Welleck et al. 2019 (arXiv:1908.04319, eq. 7)."""
    grams = [*zip(*(tokens[i:] for i in range(size)), strict=False)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def lengths(samples: Sequence[Sample]) -> dict[str, float]:
    """Mean length in tokens, and the share that ended with the end-of-turn token."""
    return {
        "length": sum(len(s.completion.tokens) for s in samples) / len(samples),
        "ended": sum(s.completion.stop == "end" for s in samples) / len(samples),
    }
