"""Methods of pairs that sample their own: a judge compares two samples, or a sample and the opponent's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from accord import engine, feedback
from accord.errors import InputError
from accord.methods.online import AsynchronousLearner, AsynchronousMethod, JudgeMethod
from accord.methods.pairs import PairLoss
from accord.methods.rollouts import Rollout, untrained
from accord.records import EncodedPrompt, Sample
from accord.train.learner import Learner, StepResult

if TYPE_CHECKING:
    from accord.engine import Optimizer, Policy, Tree
    from accord.feedback.judge import Judge


@dataclass(kw_only=True)
class PairwiseMethod(PairLoss, AsynchronousMethod, JudgeMethod):
    """A method of pairs that learns from samples: the first of a prompt against the second, third against fourth."""

    least_group: ClassVar[int] = 2

    group_size: int = 2
    """Samples per prompt, an even number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size % 2:
            raise InputError(f"group_size must be even, as samples are judged in pairs, not {self.group_size}.")

    @property
    def frozen_copies(self) -> int:
        return 1

    def pairs(self, judged: list[Tree]) -> list[Tree]:
        """The pairs to learn from, of those with a valid verdict; the first of each is at least as likely to win."""
        return judged

    def sampled_policy(self, policy: Policy, reference: Policy) -> Policy:
        """The policy whose samples are compared."""
        return policy

    def learner(self, policy: Policy, judge: Judge) -> Learner:
        return PairwiseLearner(self, policy, judge)


class PairwiseLearner(AsynchronousLearner):
    """The policy and its frozen reference."""

    method: PairwiseMethod

    def __init__(self, method: PairwiseMethod, policy: Policy, judge: Judge) -> None:
        self.method, self.policy, self.judge = method, policy, judge
        self.networks = {"policy": policy.network}
        reference = engine.offload.reference_copy(policy, method)
        self.sampled = method.sampled_policy(policy, reference)
        self.objective = method.pair_objective(policy, reference, method.temperature)

    def step(self, step: int, items: Sequence[EncodedPrompt], optimizer: Optimizer) -> StepResult:
        method = self.method
        samples = self.sampled.sample(items, method.group_size, method.sampling(step))
        rollout, judged, numbers = compare(self.judge, items, samples)
        pairs = method.pairs(judged)
        if pairs:
            packs = engine.pack(pairs, method.tokens_per_pass, self.policy.device)
            numbers |= optimizer.update(step, engine.LossTerm(self.objective, packs, "tree"))
            if self.sampled is self.policy:  # then the mean of log(pi / ref) over its samples estimates the KL
                numbers["kl"] = (numbers["chosen_reward"] + numbers["rejected_reward"]) / 2 / method.strength
        return rollout.result(numbers)


def chances(judge: Judge, first: Sequence[Sample], second: Sequence[Sample]) -> list[float | None]:
    """P(the first wins) of pairs of samples, None without a valid verdict; only rank 0 asks the judge."""
    verdicts = engine.Team.here().lead(partial(feedback.judge.judge_samples, judge, first, second))
    return [verdict.first_wins for verdict in verdicts]


def compare(
    judge: Judge, prompts: Sequence[EncodedPrompt], samples: list[Sample]
) -> tuple[Rollout, list[Tree], dict[str, float]]:
    """The samples judged in pairs: a rollout with win probabilities as rewards, its pairs, winner first, and numbers to
    log.

    Pairs with an invalid verdict are left out; their samples have reward 1/2 in the rollout.
    """
    wins = chances(judge, samples[0::2], samples[1::2])
    scores = [p for win in wins for p in ((0.5, 0.5) if win is None else (win, 1 - win))]
    rollout = Rollout.of(prompts, samples, scores)
    pairs = [(t, t.branches[i : i + 2]) for t in rollout.trees for i in range(0, len(t.branches), 2)]
    judged = [
        replace(tree, branches=pair if win >= 0.5 else pair[::-1])
        for (tree, pair), win in zip(pairs, wins, strict=True)
        if win is not None
    ]
    return rollout, judged, {name: wins.count(v) / len(wins) for name, v in (("ties", 0.5), ("invalid", None))}


def match(
    judge: Judge, prompts: Sequence[EncodedPrompt], ours: list[Sample], theirs: Sequence[Sample]
) -> tuple[Rollout, dict[str, float]]:
    """Compare each of our samples with all of the opponent's of its prompt: a rollout of mean win probabilities, and
    numbers.

    Invalid verdicts are left out; a sample with no valid one gets 1/2, and its tokens are not trained on.
    """
    g, k = len(ours) // len(prompts), len(theirs) // len(prompts)
    first = [sample for sample in ours for _ in range(k)]
    second = [theirs[i // g * k + j] for i in range(len(ours)) for j in range(k)]
    wins = chances(judge, first, second)
    valid = [[win for win in wins[i : i + k] if win is not None] for i in range(0, len(wins), k)]
    rollout = Rollout.of(prompts, ours, [sum(won) / len(won) if won else 0.5 for won in valid])
    judged = iter(valid)
    trees = [replace(t, branches=tuple(b if next(judged) else untrained(b) for b in t.branches)) for t in rollout.trees]
    return replace(rollout, trees=trees), {"invalid": wins.count(None) / len(wins)}
