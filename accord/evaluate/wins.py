"""Win rates and ratings from a judge's verdicts on every two models' answers to the same prompts.

A win rate is the mean over prompts of the judge's probability that the model's answer beats the other's, a tie counting
half, with an interval over prompts. Invalid verdicts are left out and counted. The sign test asks whether wins and
losses could be a fair coin's.

**The leaderboard** puts several models on one scale by Bradley-Terry ratings,

    P(i beats j) = sigmoid(r_i - r_j)

which maximize the likelihood of the verdicts (Bradley and Terry 1952, Zermelo 1929), a tie being half a win for either,
with the small penalty of `fit_logistic`. The penalty also fixes the free constant: ratings sum to 0, so each is a
model's log-odds against one of mean rating. Elo points are the same times 400 / ln 10: 400 points are odds of 10 to 1.

**At equal length.** If the judge likes long answers, a model can win by saying more. A logistic regression of the
verdict on the difference of lengths estimates how much of the win rate that is (Dubois et al. 2024, arXiv:2404.04475):

    P(model wins on prompt x) = sigmoid(a + b tanh(d_x / s))        d_x = length of its answer - length of the other's

with s the standard deviation of d over the prompts. The length-controlled win rate is its prediction for answers of
equal length, sigmoid(a). It is 1/2 for a model against itself, and the two rates of a pair sum to 1.

Departures from the paper: there is no term for the difficulty of each prompt, which the paper estimates from verdicts
on many models, so the rate is sigmoid(a) and no mean over prompts; each pair of models has its own regression; lengths
are in characters; and the penalty is the small ridge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from accord import feedback
from accord.evaluate.statistics import (
    FEW,
    RIDGE,
    Floats,
    bootstrap_values,
    fit_logistic,
    mean_of,
    percentile,
    sign_test,
    wilson,
)
from accord.records import text_to_json
from accord.results.intervals import Interval
from accord.results.models import Pair, Rating, SignTest, WinRate

if TYPE_CHECKING:
    from accord.evaluate.answers import Answers
    from accord.feedback.judge import Judge, Orders

ELO = 400 / log(10)
"""Elo points per unit of log-odds."""


@dataclass(frozen=True)
class Duels:
    """The verdicts on a model's answers against another's, prompt by prompt."""

    model: Answers
    against: Answers
    orders: Sequence[Orders]

    @property
    def mirrored(self) -> Duels:
        """The same with the models swapped."""
        return Duels(self.against, self.model, [o.mirrored for o in self.orders])

    @property
    def wins(self) -> Floats:
        """P(the model's answer wins) on every prompt, (n,); NaN where the verdict is invalid."""
        verdicts = (o.verdict.first_wins for o in self.orders)
        return np.array([np.nan if p is None else p for p in verdicts])

    @property
    def longer(self) -> Floats:
        """How many characters longer the model's answer is, (n,)."""
        return np.subtract(self.model.characters, self.against.characters).astype(np.float64)

    def pair(self) -> Pair:
        """The win rate with both names, and the judge's dependence on the order of answers."""
        standing_first = [x for o in self.orders for x in o.first_wins]
        valid = int((~np.isnan(self.wins)).sum())
        return Pair(
            model=self.model.name,
            against=self.against.name,
            **dict(self.win_rate()),
            first_wins=sum(standing_first) / len(standing_first) if standing_first else None,
            inconsistent=sum(o.inconsistent for o in self.orders) / valid if valid else None,
        )

    def win_rate(self) -> WinRate:
        """The win rate with its interval, ties and invalid verdicts, the length-controlled rate, and the sign test."""
        valid = ~np.isnan(self.wins)
        wins = self.wins[valid]
        won, lost = int((wins > 0.5).sum()), int((wins < 0.5).sum())
        rate = mean_of(wins) if len(wins) else None
        return WinRate(
            estimate=rate.estimate if rate else None,
            low=rate.low if rate else None,
            high=rate.high if rate else None,
            n=len(wins),
            ties=len(wins) - won - lost,
            invalid=int((~valid).sum()),
            length_controlled=length_controlled(wins, self.longer[valid]),
            sign_test=SignTest(wins=won, losses=lost, p=sign_test(won, lost)),
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """One JSON row per prompt: both texts, the verdict, both scores and lengths."""
        both = (self.model, self.against)
        for i, orders in enumerate(self.orders):
            first, second = (a.samples[i] for a in both)
            shared = [name for name in self.model.scores if name in self.against.scores]
            verdict = orders.verdict
            yield {
                "prompt": text_to_json(first.prompt.prompt),
                "model": self.model.name,
                "against": self.against.name,
                "first": first.text,
                "second": second.text,
                "verdict": verdict.first_wins,
                **({"reason": verdict.reason} if verdict.first_wins is None else {}),
                "scores": {name: [float(a.scores[name][i]) for a in both] for name in shared},
                "lengths": [len(first.text), len(second.text)],
            }


def judged(judge: Judge, answered: Sequence[Answers]) -> list[Duels]:
    """Every two models' answers: the model listed later against the earlier one."""
    return duels(judge, [(later, earlier) for earlier, later in combinations(answered, 2)])


def duels(judge: Judge, pairs: Sequence[tuple[Answers, Answers]]) -> list[Duels]:
    """The first answers of every pair against the second, to the same prompts, judged in both orders.

    The judge is called once with all pairs, so a judge that scores single answers scores each of them once.
    """
    if not pairs:
        return []
    firsts, seconds = ([s for pair in pairs for s in pair[side].samples] for side in (0, 1))
    orders = feedback.judge.BothOrders(judge).orders(firsts, seconds)
    n = len(pairs[0][0].samples)
    return [Duels(*pair, orders[i * n : (i + 1) * n]) for i, pair in enumerate(pairs)]


def held_against(duels: Sequence[Duels], rival: str | None) -> dict[str, Duels]:
    """For every other model its duels with `rival`."""
    ahead = {d.model.name: d for d in duels if d.against.name == rival}
    return ahead | {d.against.name: d.mirrored for d in duels if d.model.name == rival}


def standings(duels: Sequence[Duels]) -> list[Rating]:
    """The leaderboard of all models that have a valid verdict, best first."""
    decided = [d for d in duels if not np.isnan(d.wins).all()]
    names = list(dict.fromkeys(name for d in decided for name in (d.against.name, d.model.name)))
    if not names:
        return []
    pairs = [(names.index(d.model.name), names.index(d.against.name)) for d in decided]
    return board(names, pairs, np.stack([d.wins for d in decided]))


def warnings(duels: Sequence[Duels]) -> list[str]:
    """Caveats of the numbers."""
    lines: list[str] = []
    few: list[int] = []
    for d in duels:
        pair, wins = f"{d.model.name} against {d.against.name}", d.wins
        reasons = [o.verdict.reason for o in d.orders if o.verdict.first_wins is None]
        if reasons:
            none = ", so there is no win rate" if len(reasons) == len(wins) else ""
            lines.append(f"{pair}: {len(reasons)} of {len(wins)} verdicts are invalid{none} (the first: {reasons[0]})")
        valid = ~np.isnan(wins)
        if 0 < valid.sum() < FEW:
            few.append(int(valid.sum()))
        longer = d.longer[valid]
        if valid.any() and longer.std() and (longer.min() > 0 or longer.max() < 0):
            word = "longer" if longer.min() > 0 else "shorter"
            lines.append(f"{pair}: every answer is {word}, so the length-controlled win rate is an extrapolation")
    if few:
        lines.append(f"intervals from {min(few)} pair{'s' * (min(few) > 1)} are unreliable; judge {FEW} or more")
    return lines + _unbounded(duels)


def _unbounded(duels: Sequence[Duels]) -> list[str]:
    """Warnings for models that won, or lost, every duel: only the penalty bounds their ratings."""
    lines = []
    for name in dict.fromkeys(name for d in duels for name in (d.against.name, d.model.name)):
        own = [d.wins if d.model.name == name else 1 - d.wins for d in duels if name in (d.model.name, d.against.name)]
        share = np.nanmean(np.concatenate(own)) if not np.isnan(np.concatenate(own)).all() else 0.5
        if share in (0, 1):
            lines.append(f"{name} {'wins' if share else 'loses'} every time, so its rating is unbounded")
    return lines


def board(
    names: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    wins: Floats,
    *,
    ridge: float = RIDGE,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Rating]:
    """The ratings, best first, with 95% intervals; every resample takes the same prompts for all pairs.

    Each of the M `pairs` is two models by their index in `names`; `wins` (M, n) is the probability on every prompt that
    the first beats the second, NaN without a valid verdict. `ridge` is the penalty's weight.
    """
    design = np.zeros((len(pairs), len(names)))
    for row, (first, second) in zip(design, pairs, strict=True):
        row[first], row[second] = 1.0, -1.0
    valid = ~np.isnan(wins)
    won = np.where(valid, wins, 0.0)

    def ratings(weights: Floats) -> Floats:
        return fit_logistic(design, weights @ won.T, weights @ valid.T, ridge=ridge)

    n = wins.shape[1]
    estimates = ratings(np.ones((1, n)))[0]
    replicates = bootstrap_values(ratings, n, resamples=resamples, seed=seed)
    rows = []
    for name, estimate, column in zip(names, estimates, replicates.T, strict=True):
        rating = percentile(float(estimate), column, n)
        elo = Interval(rating.estimate * ELO, rating.low * ELO, rating.high * ELO, n)
        rows.append(Rating(name=name, rating=rating, elo=elo))
    return sorted(rows, key=lambda row: -row.rating.estimate)


def length_controlled(wins: Floats, differences: Floats, *, resamples: int = 2000, seed: int = 0) -> Interval | None:
    """The length-controlled win rate with its 95% interval, by refitting to resamples of the prompts.

    None where all differences are equal, so that length cannot be separated from the model. Where all verdicts are
    wins, or all losses, it is the win rate with Wilson's interval. The scale s is that of the data in every resample.
    `wins` (n,) is the probability on every prompt that the model's answer beats the other's, `differences` (n,) its
    length minus that of the other.
    """
    n, scale = len(wins), differences.std() if len(differences) else 0.0
    if not scale:
        return None
    if wins.min() == 1 or wins.max() == 0:
        return wilson(float(wins.sum()), n)
    design = np.stack([np.ones(n), np.tanh(differences / scale)], axis=1)

    def rate(weights: Floats) -> Floats:
        return scipy.special.expit(fit_logistic(design, weights * wins, weights)[:, 0])

    replicates = bootstrap_values(rate, n, resamples=resamples, seed=seed)
    return percentile(float(rate(np.ones((1, n)))[0]), replicates, n)
