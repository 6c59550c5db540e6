"""Pairs of completions: losses of their margins, and the methods that learn from rows with pairs.

The margin is log pi(first) - log pi(second), with the chosen completion first. A method of pairs has a loss of the
policy's and the reference's margins; on rows it is DPO or IPO, on a judge's verdicts about the policy's samples
(`pairwise`) their online form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from accord import data, engine, objectives
from accord.console import progress_bar, status
from accord.engine.config import require_positive
from accord.errors import InputError, LeftOut
from accord.methods.method import Per, reference_for
from accord.methods.offline import OfflineMethod
from accord.records import Preference, Ranking, Row
from accord.train.options import HeldOutOptions

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Measures, Model, Objective, Policy, Tree, Trees

ACCURACY_ALONE = "accuracy_alone"
"""The accuracy on pairs that are given no earlier choice of their user."""


class PairLoss(ABC):
    """A mixin for methods whose loss is a function of margins."""

    @property
    @abstractmethod
    def strength(self) -> float:
        """The factor of log(pi / ref) in the implicit reward."""

    @abstractmethod
    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        """The loss of every pair, (P,), from the policy's and the reference's margins, (P,) each."""

    def pair_objective(
        self, policy: Policy, reference: Policy | KeptReference, temperature: float = 1.0, *, average: bool = False
    ) -> Objective:
        """The loss over trees of two branches, and its measures; with `average` log-probabilities are means over
        tokens."""

        def objective(pairs: Trees) -> tuple[Tensor, Measures]:
            ref = reference.branch_log_probs(pairs, temperature, average=average)  # (C,) = (2P,)
            logp = policy.branch_log_probs(pairs, temperature, average=average)
            reward = self.strength * (logp.detach() - ref)
            return self.loss(margin(logp), margin(ref), pairs), {
                **margin_measures(margin(reward)),
                "chosen_reward": reward[0::2],
                "rejected_reward": reward[1::2],
            }

        return objective


@dataclass(kw_only=True)
class DPOLoss(PairLoss):
    """`-log sigmoid(beta (policy margin - reference margin))`, with label smoothing."""

    beta: float = 0.1
    """Strength of the pull toward the reference; larger stays closer."""
    label_smoothing: float = 0.0
    """Assumed share of preferences whose label is wrong, below one half."""

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the method it is mixed into
        require_positive(beta=self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(f"label_smoothing must lie in [0, 0.5), not {self.label_smoothing}.")

    @property
    def strength(self) -> float:
        return self.beta

    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        smoothing = flip_probability(pairs, policy, self.label_smoothing)
        return objectives.preference.dpo(policy, reference, beta=self.beta, label_smoothing=smoothing)


@dataclass(kw_only=True)
class IPOLoss(PairLoss):
    """`(policy margin - reference margin - 1 / (2 tau))^2`."""

    tau: float = 0.1
    """Strength of the pull toward the reference; larger stays closer."""
    length: Literal["sum", "mean"] = "sum"
    """A completion's log-probability is the sum over its tokens, or their mean."""

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the method it is mixed into
        require_positive(tau=self.tau)

    @property
    def strength(self) -> float:
        return self.tau

    @property
    def average(self) -> bool:
        return self.length == "mean"

    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        return objectives.preference.ipo(
            policy, reference, tau=self.tau, label_smoothing=flip_probability(pairs, policy)
        )


def flip_probability(trees: Trees, like: Tensor, flipped: float = 0.0) -> Tensor | float:
    """The probability that each tree's preference is the wrong way round, (G,): `1 - p + (2 p - 1) flipped`.

    p is the row's `chosen_probability`; a label is also flipped, independently, with probability `flipped`. Where every
    p is 1 it is the number `flipped`.
    """
    if all(tree.probability == 1 for tree in trees.trees):
        return flipped
    return like.new_tensor([min(0.5, flipped + (1 - 2 * flipped) * (1 - tree.probability)) for tree in trees.trees])


def margin(values: Tensor) -> Tensor:
    """First less second of every pair: (C,) -> (C / 2,)."""
    return values[0::2] - values[1::2]


def margin_measures(margins: Tensor) -> Measures:
    """Measures of margins, which should be positive: accuracy, where a tie counts half, and the margins."""
    return {"accuracy": (margins > 0).double() + 0.5 * (margins == 0), "margin": margins}


def pair_measures(outputs: Tensor, trees: Trees) -> Measures:
    """`margin_measures` of the strict pairs of each prompt, from outputs (C, 1 + 2k): scores, and points in k
    planes."""
    better, worse = objectives.preference.strict_pairs(trees.group, trees.ranks)
    outputs = outputs.detach()
    return margin_measures(objectives.preference.general_preference(outputs[better], outputs[worse]))


def tell_unused_margins(command: str, rows: Sequence[Row]) -> None:
    """Print that the rows have margins, for a method that does not use them."""
    if any(isinstance(row, Preference) and row.margin for row in rows):
        status(f"{command}: rows have a column margin, which only `accord reward` and `personal` use: it is ignored")


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
    """A method of pairs that learns from preferences; every pair of different ranks of a ranking is one."""

    reads: ClassVar[tuple[type, ...]] = (Preference, Ranking)
    per: ClassVar[Per] = "tree"

    learning_rate: float = 1e-6
    reference: str | None = None
    """The reference model that the policy is kept close to: a folder or a Hub name (default: the starting model)."""
    precompute_reference: bool = False
    """Compute the reference's log-probabilities of all rows before the first step, then free the reference."""

    @property
    def frozen_copies(self) -> int:
        return 0 if self.precompute_reference else 1

    @property
    def average(self) -> bool:
        """Whether a completion's log-probability is the mean over its tokens instead of the sum."""
        return False

    def encode(self, model: Model, rows: Sequence[Row], left_out: LeftOut) -> list[Tree]:
        tell_unused_margins(self.command, rows)
        parts = [data.judgments.to_pairs(row) if isinstance(row, Ranking) else [row] for row in rows]
        for i, part in enumerate(parts):
            if not part:
                left_out.add(i, "all answers have one rank, so the row states no preference", is_asked=True)
        if not any(parts):
            raise InputError("every row is a tie, which states no preference.")
        origin = [i for i, part in enumerate(parts) for _ in part]
        trees = super().encode(model, [pair for part in parts for pair in part], left_out.part(origin))
        return [replace(tree, row=left_out.index(origin[tree.row])) for tree in trees]

    def objective(self, model: Policy) -> Objective:
        return self.pair_objective(model, reference_for(model, self), average=self.average)

    def objective_of(self, model: Policy, trees: Sequence[Tree]) -> Objective:
        if not self.precompute_reference:
            return self.objective(model)
        kept = KeptReference(reference_for(model, self), trees, self.tokens_per_pass, average=self.average)
        return self.pair_objective(model, kept, average=self.average)


class KeptReference:
    """A reference's log-probabilities of the branches of some trees, computed once."""

    def __init__(self, reference: Policy, trees: Sequence[Tree], tokens_per_pass: int, *, average: bool) -> None:
        import torch

        self.kept: dict[int, Tensor] = {}
        self.trees = trees  # kept alive, so that their ids stay unique
        team, packs = engine.Team.here(), engine.pack(trees, tokens_per_pass, reference.device)
        here = sum(len(pack.trees) for pack in team.share(packs))
        with torch.no_grad(), progress_bar("log-probabilities of the reference", here) as done:

            def computed(pack: Trees) -> Tensor:
                done(len(pack.trees))
                return reference.branch_log_probs(pack, average=average).cpu()

            for pack, values in zip(packs, team.map(packs, computed), strict=True):
                parts = values.to(reference.device).split([len(tree.branches) for tree in pack.trees])
                self.kept |= {id(tree): part for tree, part in zip(pack.trees, parts, strict=True)}

    def branch_log_probs(self, pairs: Trees, *_: object, **__: object) -> Tensor:
        """log ref(completion | prompt) of the pack's branches, (C,)."""
        import torch

        return torch.cat([self.kept[id(tree)] for tree in pairs.trees])
