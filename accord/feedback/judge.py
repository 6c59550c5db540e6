"""Judges, which say which of two completions is better: the interface, both orders of a pair, and a judge as a reward.

A judge that prefers whichever answer stands first, or last, decides nothing where both orders are asked. A verdict p on
(a, b) and q on (b, a) are two measurements of one quantity. Where both are strictly between 0 and 1 their log-odds are
averaged, `(logit p - logit q) / 2`, which cancels exactly a position bias that is additive in log-odds (averaging
probabilities would keep the winner, but not the size of the preference). Verdicts of 0 and 1 have no log-odds: where
both orders agree on the winner that is the verdict, and otherwise it is a tie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, isfinite, isnan, log, nan
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from accord.data.messages import read_text
from accord.errors import located
from accord.feedback.reward import Reward, lacking, row_named, score_texts, unsampled
from accord.records import Comparison, Prompt, Sample, Text, Verdict

SWAPPED = "in the swapped order: "
"""The prefix of an invalid verdict's reason where only the swapped order is invalid."""
SURE = 1e-6
"""Probabilities are kept this far from 0 and 1 where their log-odds are a reward."""


class Judge(Protocol):
    """Anything that compares: people, an AI judge, a verifier, a simulated labeler.

    One whose verdict cannot depend on the order of the two has an attribute `symmetric` that is True.
    """

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison, in order: P(first is better), .5 for a tie, None where there is no answer."""
        ...


def judge_samples(judge: Judge, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
    """The judge's verdicts on pairs of samples of one prompt each.

    A judge with a method `samples(first, second)` gets the samples themselves, with their tokens and columns. Others
    compare the texts.
    """
    samples = getattr(judge, "samples", None)
    if samples is not None:
        return list(samples(first, second))
    return judge(
        [Comparison(a.prompt.prompt, a.text, b.text, a.prompt.columns) for a, b in zip(first, second, strict=True)]
    )


@dataclass(frozen=True, slots=True)
class ScoreJudge:
    """A judge that prefers the higher `score(prompt, completion)`; equal scores tie, those not finite are invalid."""

    score: Callable[[Text, Text], float]
    symmetric: ClassVar[bool] = True

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        gaps = score_gaps(self.score, comparisons)
        return [Verdict(outcome(gap)) if isfinite(gap) else invalid_gap(gap) for gap in gaps]


def outcome(gap: float) -> float:
    """1 where the gap is positive and the first wins, 0 where the second does, .5 for a tie."""
    return 0.5 + 0.5 * ((gap > 0) - (gap < 0))


def score_gaps(score: Callable[[Text, Text], float], comparisons: Sequence[Comparison]) -> list[float]:
    """score(first) - score(second) of every pair."""
    return [score(c.prompt, c.first) - score(c.prompt, c.second) for c in comparisons]


def invalid_gap(gap: float) -> Verdict:
    """The invalid verdict on a pair whose scores cannot be compared."""
    return Verdict(None, f"the difference of the two scores is {gap}")


class RewardJudge:
    """A judge that always prefers the completion of higher reward, and calls equal rewards a tie."""

    symmetric = True

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.made_of = (reward,)

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        firsts, seconds = [(c.prompt, c.first) for c in comparisons], [(c.prompt, c.second) for c in comparisons]
        return _higher(score_texts(self.reward, firsts + seconds))

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        """Verdicts on samples, whose rewards may depend on more than their texts; each sample is scored once."""
        samples = {id(s): s for s in (*first, *second)}
        scores = self.reward(list(samples.values()))
        index = {key: i for i, key in enumerate(samples)}
        return _higher(scores[[index[id(s)] for s in (*first, *second)]])


def _higher(scores: Tensor) -> list[Verdict]:
    """Verdicts from rewards (2P,), all firsts and then all seconds; NaN gives an invalid verdict, not a tie."""
    first, second = scores.tensor_split(2)
    gaps = (first - second).tolist()
    return [invalid_gap(gap) if isnan(gap) else Verdict(outcome(gap)) for gap in gaps]


@dataclass(frozen=True, slots=True)
class Orders:
    """A judge's answers on one pair: P(first wins) in the given order, and P(second wins) in the swapped one.

    `swapped` is None where the judge is symmetric, and was asked once.
    """

    forward: Verdict
    swapped: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        """Both orders combined: P(first wins); invalid where either is."""
        if self.swapped is None or self.forward.first_wins is None:
            return self.forward
        if self.swapped.first_wins is None:
            return Verdict(None, f"{SWAPPED}{self.swapped.reason}")
        p, q = self.forward.first_wins, self.swapped.first_wins
        if 0 < p < 1 and 0 < q < 1:
            return Verdict(1 / (1 + exp((log(q) - log(1 - q) - (log(p) - log(1 - p))) / 2)))
        return Verdict(0.5 if self.inconsistent else outcome(p - 0.5))

    @property
    def inconsistent(self) -> bool:
        """Whether the two orders have different winners, or one a tie and the other a winner.

        An invalid verdict contradicts nothing.
        """
        return len(self.first_wins) == 2 and sum(self.first_wins) != 1

    @property
    def first_wins(self) -> list[float]:
        """For every valid verdict, 1 where the answer shown first won, 0 where it lost, .5 for a tie."""
        known = [v.first_wins for v in (self.forward, self.swapped) if v is not None and v.first_wins is not None]
        return [0.5 if self.swapped is None else outcome(p - 0.5) for p in known]

    @property
    def mirrored(self) -> Orders:
        """The answers on the same pair with its completions swapped."""
        if self.swapped is not None:
            return Orders(self.swapped, self.forward)
        p = self.forward.first_wins
        return Orders(Verdict(None if p is None else 1 - p, self.forward.reason))


def faults(verdicts: Iterable[Verdict]) -> Counter[str]:
    """The number of invalid verdicts by kind of reason: the words before a colon and a space."""
    reasons = (v.reason.removeprefix(SWAPPED) for v in verdicts if v.first_wins is None)
    return Counter(reason.partition(": ")[0] for reason in reasons)


def pooled(verdicts: Sequence[Verdict]) -> Verdict:
    """Several judges' verdicts on one pair, combined: the mean of the log-odds of the valid ones.

    Verdicts of 0 and 1 have no log-odds; where there is one, it is the mean of the probabilities. Where no verdict is
    valid it is invalid, with the first one's reason.
    """
    known = [v.first_wins for v in verdicts if v.first_wins is not None]
    if not known:
        return verdicts[0]
    if not all(0 < p < 1 for p in known):
        return Verdict(sum(known) / len(known))
    return Verdict(1 / (1 + exp(sum(log(1 - p) - log(p) for p in known) / len(known))))


class BothOrders:
    """A judge that asks another about every pair in both orders, and combines the answers (`Orders.verdict`).

    A symmetric judge is asked once, and its verdicts are unchanged.
    """

    symmetric = True

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.made_of = (judge,)

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        return [orders.verdict for orders in self.of_texts(comparisons)]

    def of_texts(self, comparisons: Sequence[Comparison]) -> list[Orders]:
        """The judge's answers on every pair of texts in both orders, in one call of the judge."""
        if getattr(self.judge, "symmetric", False):
            return [Orders(verdict) for verdict in self.judge(comparisons)]
        verdicts, n = self.judge([*comparisons, *(c.swapped for c in comparisons)]), len(comparisons)
        return [Orders(*both) for both in zip(verdicts[:n], verdicts[n:], strict=True)]

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        return [orders.verdict for orders in self.orders(first, second)]

    def orders(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Orders]:
        """The judge's answers on every pair of samples of one prompt in both orders, in one call of the judge."""
        if getattr(self.judge, "symmetric", False):
            return [Orders(verdict) for verdict in judge_samples(self.judge, first, second)]
        verdicts, n = judge_samples(self.judge, [*first, *second], [*second, *first]), len(first)
        return [Orders(*both) for both in zip(verdicts[:n], verdicts[n:], strict=True)]


class JudgeReward:
    """A judge as a reward: the log-odds that a sample beats its row's own completion.

        r(x, y) = log P(y beats y' | x) - log P(y' beats y | x),  y' the row's `column`, both orders combined

    For a judge that follows a Bradley-Terry reward, r is that reward less the reward of y', a constant for each prompt:
    nothing is lost by learning from the judge directly, without a reward model (RLAIF without one: Lee et al. 2023,
    arXiv:2309.00267, section 2.3, whose judge gives marks instead of comparing). Probabilities are kept `SURE` away
    from 0 and 1, so a judge that only names the winner gives 13.8, 0 or -13.8. A sample without a valid verdict has the
    reward NaN: the judge abstains. `logged` has the mean P(y beats y') of the last call, as `beats`.

    Raises InputError where a row lacks the column, or it has no text.
    """

    abstains = True

    def __init__(self, judge: Judge, column: str = "completion") -> None:
        self.judge, self.column = BothOrders(judge), column
        self.made_of = (self.judge,)
        self.logged: dict[str, float] = {}

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """The reward of every sample, (C,) float32, NaN where the judge has no valid verdict."""
        rows = {id(s.prompt): s for s in samples}
        against = {key: self.check(s.prompt, s.row) for key, s in rows.items()}
        others = [replace(unsampled(s.prompt.prompt, against[id(s.prompt)]), prompt=s.prompt) for s in samples]
        verdicts = self.judge.samples(samples, others)
        chances = torch.tensor([nan if v.first_wins is None else v.first_wins for v in verdicts], dtype=torch.float64)
        self.logged = {} if chances.isnan().all() else {"beats": float(chances.nanmean())}
        return chances.logit(eps=SURE).float()

    def check(self, prompt: Prompt, row: int = -1) -> Text:
        """The completion in the row's column; InputError where there is none."""
        if prompt.columns.get(self.column) is None:
            raise lacking("the reward by a judge", self.column, prompt.columns, row)
        with located(f"{row_named(row)}: "):
            return read_text(prompt.columns[self.column], self.column)
