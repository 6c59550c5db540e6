"""Several rewards made one: sums, and ensembles of reward models, by their mean or by the worst of them.

Where members learnt from different comparisons, or from different beginnings, they agree on what the comparisons show
and differ where they guess, so a policy that must please all of them finds fewer holes: the worst case (min) or the
mean (Coste et al. 2023, arXiv:2310.02743).

A Bradley-Terry reward is known only up to a constant, which differs from member to member: the smallest of several is
then mostly the smallest of their constants. Centre the members before taking it (`accord reward --center-coefficient`).

Both orders of every pair: a judge that prefers whichever answer stands first, or last, decides nothing by that.

A verdict p on (a, b) and q on (b, a) are two measurements of one thing. Where both are strictly between 0 and 1 their
log-odds are averaged, `(logit p - logit q) / 2`, which removes a position bias that adds to the log-odds exactly
(averaging probabilities would keep the winner, but not by how much). Verdicts of 0 and 1 have no log-odds: there both
orders count for their winner, agreement is the verdict and disagreement a tie.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor

from accord.engine.models import Model
from accord.errors import InputError
from accord.feedback.judge import Judge, Reward, check_prompts, judge_samples, listen, score_texts
from accord.records import Comparison, EncodedPrompt, Prompt, Sample, Text, Verdict


class Combined(ABC):
    """A reward made of several, by name; `parts` keeps what each gave in the last call, and their own parts."""

    def __init__(self, members: Mapping[str, Reward]) -> None:
        self.members = dict(members)
        self.parts: dict[str, Tensor] = {}

    @abstractmethod
    def combine(self, scores: Tensor) -> Tensor:
        """One score a sample, (C,), from those of M members, (M, C)."""

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """The combined reward of every sample, (C,) float32."""
        return self._combined(lambda reward: reward(samples))

    def texts(self, pairs: Sequence[tuple[Text, Text]]) -> Tensor:
        """The combined reward of every (prompt, completion), (C,) float32."""
        return self._combined(lambda reward: score_texts(reward, pairs))

    def listen(self, policy: Model) -> None:
        """Tell each member of one more policy."""
        for reward in self.members.values():
            listen(reward, policy)

    def check(self, prompt: Prompt, row: int) -> None:
        """What each member asks of a prompt's row."""
        for reward in self.members.values():
            check_prompts(reward, [EncodedPrompt(prompt, (), row)])

    def _combined(self, score: Callable[[Reward], Tensor]) -> Tensor:
        self.parts = {}
        for name, reward in self.members.items():
            self.parts[name] = score(reward)
            self.parts |= getattr(reward, "parts", {})
        return self.combine(torch.stack([self.parts[name] for name in self.members]))


class Weighted(Combined):
    """A sum of rewards, each times its weight, from (weight, reward) by name; `parts` are unweighted."""

    def __init__(self, terms: Mapping[str, tuple[float, Reward]]) -> None:
        super().__init__({name: reward for name, (_, reward) in terms.items()})
        self.weights = torch.tensor([weight for weight, _ in terms.values()])

    def combine(self, scores: Tensor) -> Tensor:
        return (self.weights[:, None] * scores).sum(0)


class Mean(Combined):
    """The members' mean."""

    def combine(self, scores: Tensor) -> Tensor:
        return scores.mean(0)


class Min(Combined):
    """The worst that any member says."""

    def combine(self, scores: Tensor) -> Tensor:
        return scores.amin(0)


ENSEMBLES: dict[str, type[Combined]] = {"mean": Mean, "min": Min}

_ENSEMBLE = re.compile(rf"({'|'.join(ENSEMBLES)})\((.*)\)", re.DOTALL)


def is_ensemble(name: str) -> bool:
    """Whether a name is `mean(A, B, ...)` or `min(A, B, ...)`."""
    return _ENSEMBLE.fullmatch(name) is not None


def ensemble(name: str, meaning: Callable[[str], Reward]) -> Combined:
    """The ensemble that `mean(A, B, ...)` or `min(A, B, ...)` names, by the meaning of its members' names.

    Raises:
        InputError: it has fewer than two members, or one of them twice or without a name.
    """
    match = _ENSEMBLE.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no ensemble")
    members = [member.strip() for member in match[2].split(", ")]
    if len(members) < 2 or not all(members) or len(set(members)) < len(members):
        raise InputError(f"the ensemble {name!r} needs two or more different rewards, as in {match[1]}(A, B).")
    return ENSEMBLES[match[1]]({member: meaning(member) for member in members})


@dataclass(frozen=True, slots=True)
class Orders:
    """What a judge said of one pair: P(first wins) as they stood, and of the two swapped P(second wins).

    `swapped` is None where the judge is symmetric, and was asked once.
    """

    forward: Verdict
    swapped: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        """Both orders together: P(first wins); invalid where either is."""
        if self.swapped is None or self.forward.first_wins is None:
            return self.forward
        if self.swapped.first_wins is None:
            return Verdict(None, f"in the swapped order: {self.swapped.reason}")
        p, q = self.forward.first_wins, self.swapped.first_wins
        if 0 < p < 1 and 0 < q < 1:
            return Verdict(1 / (1 + exp((_logit(q) - _logit(p)) / 2)))
        return Verdict(0.5 if self.inconsistent else 0.5 + 0.5 * _winner(p))

    @property
    def inconsistent(self) -> bool:
        """Whether the two orders have different winners; one that finds a tie where the other has a winner is so too.

        An order without a valid verdict contradicts nothing.
        """
        known = self._known
        return len(known) == 2 and _winner(known[0]) != -_winner(known[1])

    @property
    def first_wins(self) -> list[float]:
        """Of every valid verdict, 1 where whichever answer stood first won, 0 where it lost, .5 for a tie."""
        if self.swapped is None:
            return [0.5] * len(self._known)
        return [0.5 + 0.5 * _winner(p) for p in self._known]

    @property
    def mirrored(self) -> Orders:
        """The same pair, its second answer called the first."""
        if self.swapped is not None:
            return Orders(self.swapped, self.forward)
        p = self.forward.first_wins
        return Orders(Verdict(None if p is None else 1 - p, self.forward.reason))

    @property
    def _known(self) -> list[float]:
        given = (self.forward, self.swapped)
        return [v.first_wins for v in given if v is not None and v.first_wins is not None]


class BothOrders:
    """A judge that asks another for every pair in both orders, and combines them (`Orders.verdict`).

    One that is symmetric is asked once, and its verdicts are as they were.
    """

    symmetric = True

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison, of both orders."""
        if getattr(self.judge, "symmetric", False):
            return self.judge(comparisons)
        swapped = [Comparison(c.prompt, c.second, c.first) for c in comparisons]
        return [o.verdict for o in _paired(self.judge([*comparisons, *swapped]))]

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        """The same of samples."""
        return [orders.verdict for orders in self.orders(first, second)]

    def orders(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Orders]:
        """What the judge says of every pair of samples of one prompt, order by order; it is called once."""
        if getattr(self.judge, "symmetric", False):
            return [Orders(verdict) for verdict in judge_samples(self.judge, first, second)]
        return _paired(judge_samples(self.judge, [*first, *second], [*second, *first]))

    def listen(self, policy: Model) -> None:
        """Tell the judge of one more policy."""
        listen(self.judge, policy)

    def check(self, prompt: Prompt, row: int) -> None:
        """What the judge asks of a prompt's row."""
        check_prompts(self.judge, [EncodedPrompt(prompt, (), row)])


def _paired(verdicts: Sequence[Verdict]) -> list[Orders]:
    """From all pairs' verdicts as they stood and then all swapped."""
    half = len(verdicts) // 2
    return [Orders(a, b) for a, b in zip(verdicts[:half], verdicts[half:], strict=True)]


def _winner(p: float) -> int:
    """1 for the first, -1 for the second, 0 for a tie."""
    return (p > 0.5) - (p < 0.5)


def _logit(p: float) -> float:
    return log(p) - log(1 - p)
