"""Both orders of every pair: a judge that prefers whichever answer stands first, or last, decides nothing by that.

A verdict p on (a, b) and q on (b, a) are two measurements of one thing. Where both are strictly between 0 and 1 their
log-odds are averaged, `(logit p - logit q) / 2`, which removes a position bias that adds to the log-odds exactly
(averaging probabilities would keep the winner, but not by how much). Verdicts of 0 and 1 have no log-odds: there both
orders count for their winner, agreement is the verdict and disagreement a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from accord.data.prompts import EncodedPrompt
from accord.engine.models import Model
from accord.feedback.judge import Judge, check_prompts, judge_samples, listen
from accord.records import Comparison, Prompt, Sample, Verdict


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
