"""Pairs of completions: the losses of their margins, and methods that sample pairs for a judge to compare.

The margin is log pi(first) - log pi(second), first being the chosen completion where one was chosen. A method of pairs
has a loss of the policy's margin and the reference's; from rows it is DPO or IPO, from a judge's verdicts on samples of
the policy it is their online form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from accord import engine, feedback, objectives
from accord.console import counting
from accord.engine.config import require_positive
from accord.errors import InputError
from accord.methods.offline import OfflineMethod, Per, reference_for
from accord.methods.online import AsynchronousLearner, AsynchronousMethod, JudgeMethod
from accord.methods.rollouts import Rollout, untrained
from accord.records import EncodedPrompt, Preference, Ranking, Sample
from accord.train.loop import Learner, StepResult
from accord.train.options import HeldOutOptions

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Measures, Objective, Optimizer, Policy, Tree, Trees
    from accord.feedback.judge import Judge


class PairLoss(ABC):
    """What a method with a loss of margins has; settings come from what it is mixed with."""

    @property
    @abstractmethod
    def strength(self) -> float:
        """What log(pi / ref) is multiplied by to be the implicit reward."""

    @abstractmethod
    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        """The loss of every pair, (P,), from the policy's and the reference's margins, (P,) each."""

    def pair_objective(
        self, policy: Policy, reference: Policy | KeptReference, temperature: float = 1.0, *, average: bool = False
    ) -> Objective:
        """The loss over trees of two branches, and what is reported of them; `average`: over tokens, not summed."""

        def objective(pairs: Trees) -> tuple[Tensor, Measures]:
            ref = reference.branch_log_probs(pairs, temperature, average=average)  # (C,) = (2P,)
            logp = policy.branch_log_probs(pairs, temperature, average=average)
            reward = self.strength * (logp.detach() - ref)
            return self.loss(margin(logp), margin(ref), pairs), {
                **ordering(margin(reward)),
                "chosen_reward": reward[0::2],
                "rejected_reward": reward[1::2],
            }

        return objective


@dataclass(kw_only=True)
class DPOLoss(PairLoss):
    """- log sigmoid of beta times what the policy's margin is more than the reference's."""

    beta: float = 0.1
    """Strength of the pull toward the reference: larger stays closer."""
    label_smoothing: float = 0.0
    """Assumed share of preferences that point the wrong way, below one half."""

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the method that it is mixed with
        require_positive(beta=self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(f"label_smoothing must lie in [0, 0.5), not {self.label_smoothing}.")

    @property
    def strength(self) -> float:
        return self.beta

    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        smoothing = doubt(pairs, policy, self.label_smoothing)
        return objectives.preference.dpo(policy, reference, beta=self.beta, label_smoothing=smoothing)


@dataclass(kw_only=True)
class IPOLoss(PairLoss):
    """The square of what the policy's margin is more than the reference's, less 1 / (2 tau)."""

    tau: float = 0.1
    """Strength of the pull toward the reference: larger stays closer."""
    length: Literal["sum", "mean"] = "sum"
    """A completion's log-probability is the sum over its tokens, or their mean."""

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the method that it is mixed with
        require_positive(tau=self.tau)

    @property
    def strength(self) -> float:
        return self.tau

    @property
    def average(self) -> bool:
        return self.length == "mean"

    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        return objectives.preference.ipo(policy, reference, tau=self.tau, label_smoothing=doubt(pairs, policy))


def doubt(trees: Trees, like: Tensor, flipped: float = 0.0) -> Tensor | float:
    """How likely each tree's order of two is the wrong one, (G,): with probability 1 - p, or `flipped` on the way here.

    p (1 - flipped) of what is right stays so. Where every p is 1 it is `flipped`, a number as it was given.
    """
    if all(tree.probability == 1 for tree in trees.trees):
        return flipped
    return like.new_tensor([min(0.5, flipped + (1 - 2 * flipped) * (1 - tree.probability)) for tree in trees.trees])


def margin(values: Tensor) -> Tensor:
    """First less second of every pair: (C,) -> (C / 2,)."""
    return values[0::2] - values[1::2]


def ordering(margins: Tensor) -> Measures:
    """What is reported of margins that should be positive: the margins, and how often they are, a tie half."""
    return {"accuracy": (margins > 0).double() + 0.5 * (margins == 0), "margin": margins}


def agreement(outputs: Tensor, trees: Trees) -> Measures:
    """The `ordering` of every pair of one prompt with different ranks, by scores, with planes or not: (C, 1 + 2k)."""
    better, worse = objectives.preference.strict_pairs(trees.group, trees.ranks)
    outputs = outputs.detach()
    return ordering(objectives.preference.general_preference(outputs[better], outputs[worse]))


@dataclass(kw_only=True)
class RankingMethod(OfflineMethod):
    """A method that learns from preferences or rankings to compare completions, and trains no policy."""

    reads: ClassVar[tuple[type, ...]] = (Preference, Ranking)
    per: ClassVar[Per] = "tree"
    options: ClassVar[type[HeldOutOptions]] = HeldOutOptions

    learning_rate: float = 9e-6

    def owners(self, trees: Trees, measures: Measures) -> dict[str, Tensor]:
        better, _ = objectives.preference.strict_pairs(trees.group, trees.ranks)
        return dict.fromkeys(measures, trees.group[better])


@dataclass(kw_only=True)
class PreferenceMethod(PairLoss, OfflineMethod):
    """A method of pairs that learns from preferences."""

    reads: ClassVar[tuple[type, ...]] = (Preference,)
    per: ClassVar[Per] = "tree"

    learning_rate: float = 1e-6
    reference: str | None = None
    """The model that the policy is held to: a folder or a Hub name; the one that the run starts from unless given."""
    precompute_reference: bool = False
    """Compute the reference's log-probabilities of the rows before the first step, and let go of the reference."""

    @property
    def frozen_copies(self) -> int:
        return 0 if self.precompute_reference else 1

    @property
    def average(self) -> bool:
        """Whether a completion's log-probability is the mean over its tokens, not the sum."""
        return False

    def objective(self, model: Policy) -> Objective:
        return self.pair_objective(model, reference_for(model, self), average=self.average)

    def objective_of(self, model: Policy, trees: Sequence[Tree]) -> Objective:
        if not self.precompute_reference:
            return self.objective(model)
        kept = KeptReference(reference_for(model, self), trees, self.tokens_per_pass, average=self.average)
        return self.pair_objective(model, kept, average=self.average)


class KeptReference:
    """What a reference gives the branches of some trees, computed once: log pi(completion | prompt)."""

    def __init__(self, reference: Policy, trees: Sequence[Tree], tokens_per_pass: int, *, average: bool) -> None:
        import torch

        self.kept: dict[int, Tensor] = {}
        self.trees = trees  # held, so that their identities stay theirs
        team, packs = engine.Team.here(), engine.pack(trees, tokens_per_pass, reference.device)
        here = sum(len(pack.trees) for pack in team.mine(packs))
        with torch.no_grad(), counting("log-probabilities of the reference", here) as done:

            def computed(pack: Trees) -> Tensor:
                done(len(pack.trees))
                return reference.branch_log_probs(pack, average=average).cpu()

            for pack, values in zip(packs, team.each(packs, computed), strict=True):
                parts = values.to(reference.device).split([len(tree.branches) for tree in pack.trees])
                self.kept |= {id(tree): part for tree, part in zip(pack.trees, parts, strict=True)}

    def branch_log_probs(self, pairs: Trees, *_: object, **__: object) -> Tensor:
        """What was computed of the pack's branches, (C,)."""
        import torch

        return torch.cat([self.kept[id(tree)] for tree in pairs.trees])


@dataclass(kw_only=True)
class PairwiseMethod(PairLoss, AsynchronousMethod, JudgeMethod):
    """A method of pairs that learns from samples: the first of a prompt against the second, third against fourth."""

    least_group: ClassVar[int] = 2

    group_size: int = 2
    """Samples of each prompt, an even number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size % 2:
            raise InputError(f"group_size must be even, as samples are judged in pairs, not {self.group_size}.")

    @property
    def frozen_copies(self) -> int:
        return 1

    def pairs(self, judged: list[Tree]) -> list[Tree]:
        """The pairs to learn from, of those with a valid verdict; the first of each is no less likely to win."""
        return judged

    def speaker(self, policy: Policy, reference: Policy) -> Policy:
        """Whose samples are compared."""
        return policy

    def learner(self, policy: Policy, judge: Judge) -> Learner:
        return PairwiseLearner(self, policy, judge)


class PairwiseLearner(AsynchronousLearner):
    """The policy and its frozen start."""

    method: PairwiseMethod

    def __init__(self, method: PairwiseMethod, policy: Policy, judge: Judge) -> None:
        self.method, self.policy, self.judge = method, policy, judge
        self.networks = {"policy": policy.network}
        reference = engine.offload.reference_copy(policy, method)
        self.speaker = method.speaker(policy, reference)
        self.objective = method.pair_objective(policy, reference, method.temperature)

    def step(self, step: int, items: Sequence[EncodedPrompt], optimizer: Optimizer) -> StepResult:
        method = self.method
        samples = self.speaker.sample(items, method.group_size, method.sampling(step))
        rollout, judged, numbers = compare(self.judge, items, samples)
        pairs = method.pairs(judged)
        if pairs:
            packs = engine.pack(pairs, method.tokens_per_pass, self.policy.device)
            numbers |= optimizer.update(step, engine.LossTerm(self.objective, packs, "tree"))
            if self.speaker is self.policy:  # whose samples then have log(pi / ref) of mean KL
                numbers["kl"] = (numbers["chosen_reward"] + numbers["rejected_reward"]) / 2 / method.strength
        return rollout.result(numbers)


def chances(judge: Judge, first: Sequence[Sample], second: Sequence[Sample]) -> list[float | None]:
    """P(the first wins) of pairs of samples, None where there is no valid verdict: a team asks once for all."""
    verdicts = engine.Team.here().lead(partial(feedback.judge.judge_samples, judge, first, second))
    return [verdict.first_wins for verdict in verdicts]


def compare(
    judge: Judge, prompts: Sequence[EncodedPrompt], samples: list[Sample]
) -> tuple[Rollout, list[Tree], dict[str, float]]:
    """The samples judged in pairs: a rollout of probabilities to win, its pairs, the winner first, and numbers to log.

    Pairs with an invalid verdict are left out; their samples stand at 1/2 in the rollout.
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
    """Each of our samples against all of the opponent's of its prompt: a rollout of mean probabilities to win, numbers.

    Invalid verdicts are left out; a sample that has no other stands at 1/2, and none of its tokens are trained on.
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
