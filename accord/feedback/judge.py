"""The judge seam: what says which of two completions is better, in one order or in both; a judge as a reward.

A judge that prefers whichever answer stands first, or last, decides nothing by that where both orders are asked.
A verdict p on (a, b) and q on (b, a) are two measurements of one thing. Where both are strictly between 0 and 1 their
log-odds are averaged, `(logit p - logit q) / 2`, which removes a position bias that adds to the log-odds exactly
(averaging probabilities would keep the winner, but not by how much). Verdicts of 0 and 1 have no log-odds: there both
orders count for their winner, agreement is the verdict and disagreement a tie.
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
"""What the reason of an invalid verdict begins with, where the other order has a valid one."""
SURE = 1e-6
"""How close to 0 or 1 a probability counts at most where its log-odds are a reward."""


class Judge(Protocol):
    """Anything that compares: people, an AI judge, a verifier, a simulated labeler.

    One whose verdict cannot depend on which of the two stands first has the attribute `symmetric`, which is True.
    """

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison, in order: P(first is better), .5 for a tie, None where there is no answer."""
        ...


def judge_samples(judge: Judge, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
    """The judge's verdicts on pairs of samples of one prompt each.

    A judge that has a method `samples(first, second)` is given them as they are: tokens, columns, and why each stopped.
    Others compare the texts.
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
    """The verdict on a pair whose scores cannot be compared."""
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
        """The same of samples, whose rewards may depend on more than their texts; each is rewarded once."""
        samples = {id(s): s for s in (*first, *second)}
        scores = self.reward(list(samples.values()))
        index = {key: i for i, key in enumerate(samples)}
        return _higher(scores[[index[id(s)] for s in (*first, *second)]])


def _higher(scores: Tensor) -> list[Verdict]:
    """From the rewards (2P,) of all firsts and then all seconds; NaN has no verdict, and is no tie."""
    first, second = scores.tensor_split(2)
    gaps = (first - second).tolist()
    return [invalid_gap(gap) if isnan(gap) else Verdict(outcome(gap)) for gap in gaps]


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
            return Verdict(None, f"{SWAPPED}{self.swapped.reason}")
        p, q = self.forward.first_wins, self.swapped.first_wins
        if 0 < p < 1 and 0 < q < 1:
            return Verdict(1 / (1 + exp((log(q) - log(1 - q) - (log(p) - log(1 - p))) / 2)))
        return Verdict(0.5 if self.inconsistent else outcome(p - 0.5))

    @property
    def inconsistent(self) -> bool:
        """Whether the two orders have different winners; one that finds a tie where the other has a winner is so too.

        An order without a valid verdict contradicts nothing.
        """
        return len(self.first_wins) == 2 and sum(self.first_wins) != 1

    @property
    def first_wins(self) -> list[float]:
        """Of every valid verdict, 1 where whichever answer stood first won, 0 where it lost, .5 for a tie."""
        known = [v.first_wins for v in (self.forward, self.swapped) if v is not None and v.first_wins is not None]
        return [0.5 if self.swapped is None else outcome(p - 0.5) for p in known]

    @property
    def mirrored(self) -> Orders:
        """The same pair, its second answer called the first."""
        if self.swapped is not None:
            return Orders(self.swapped, self.forward)
        p = self.forward.first_wins
        return Orders(Verdict(None if p is None else 1 - p, self.forward.reason))


def faults(verdicts: Iterable[Verdict]) -> Counter[str]:
    """How many verdicts are invalid for which kind of reason, which is what it begins with."""
    reasons = (v.reason.removeprefix(SWAPPED) for v in verdicts if v.first_wins is None)
    return Counter(reason.partition(":")[0] for reason in reasons)


def pooled(verdicts: Sequence[Verdict]) -> Verdict:
    """Several judges' verdicts on one pair: the mean of the log-odds of those that are valid.

    Verdicts of 0 and 1 have no log-odds; where one of them is among the valid, it is the mean of the probabilities.
    Invalid, for the first one's reason, where all are.
    """
    known = [v.first_wins for v in verdicts if v.first_wins is not None]
    if not known:
        return verdicts[0]
    if not all(0 < p < 1 for p in known):
        return Verdict(sum(known) / len(known))
    return Verdict(1 / (1 + exp(sum(log(1 - p) - log(p) for p in known) / len(known))))


class BothOrders:
    """A judge that asks another for every pair in both orders, and combines them (`Orders.verdict`).

    One that is symmetric is asked once, and its verdicts are as they were.
    """

    symmetric = True

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.made_of = (judge,)

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        return [orders.verdict for orders in self.of_texts(comparisons)]

    def of_texts(self, comparisons: Sequence[Comparison]) -> list[Orders]:
        """What the judge says of every pair of texts, order by order; it is called once."""
        if getattr(self.judge, "symmetric", False):
            return [Orders(verdict) for verdict in self.judge(comparisons)]
        verdicts, n = self.judge([*comparisons, *(c.swapped for c in comparisons)]), len(comparisons)
        return [Orders(*both) for both in zip(verdicts[:n], verdicts[n:], strict=True)]

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        return [orders.verdict for orders in self.orders(first, second)]

    def orders(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Orders]:
        """What the judge says of every pair of samples of one prompt, order by order; it is called once."""
        if getattr(self.judge, "symmetric", False):
            return [Orders(verdict) for verdict in judge_samples(self.judge, first, second)]
        verdicts, n = judge_samples(self.judge, [*first, *second], [*second, *first]), len(first)
        return [Orders(*both) for both in zip(verdicts[:n], verdicts[n:], strict=True)]


class JudgeReward:
    """A judge as a reward: the log-odds that a sample beats the completion that its row has.

        r(x, y) = log P(y beats y' | x) - log P(y' beats y | x),  y' the row's `column`, both orders together

    Where a judge follows a Bradley-Terry reward that is its reward less that of y', which is constant for a prompt: so
    nothing is lost by learning from the judge directly, without a reward model (RLAIF without one: Lee et al. 2023,
    arXiv:2309.00267, section 2.3, whose judge gives marks instead of comparing). Probabilities count as no closer to 0
    or 1 than `SURE`, so a judge that only says which wins gives 13.8, 0 or -13.8. A sample without a valid verdict has
    the reward NaN: it abstains. `logged` has the mean P(y beats y') of the last call, as `beats`.

    Raises InputError where a row lacks the column, or it holds no text.
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
        """What the row's column holds; InputError where it holds nothing to compare with."""
        if prompt.columns.get(self.column) is None:
            raise lacking("the reward by a judge", self.column, prompt.columns, row)
        with located(f"{row_named(row)}: "):
            return read_text(prompt.columns[self.column], self.column)
