"""Whom to believe, where several people judge the same comparisons and some of them are careless.

Every annotator has a reliability r. Two models say what it is the probability of, and so which of two is how likely the
better one, given all verdicts:

    Dawid-Skene      one of the two is better;      P(says the first) = r where that is the first, else 1 - r
    Bradley-Terry    completions have scores s;     P(says the first) = r g + (1 - r) (1 - g),  g = sigmoid(s_1 - s_2)

The first is Dawid and Skene's (1979, Applied Statistics 28) with one error rate a person, since which completion is
called the first is arbitrary; the second is CrowdBT (Chen et al. 2013, WSDM, "Pairwise ranking aggregation in a
crowdsourced setting"). In the first a mistake is carelessness; in the second people also differ where two completions
are nearly as good, and what is known of other pairs of the same completions counts.

Reliabilities of a group are alike, as far as the verdicts say: r ~ Beta(k m, k (1 - m)), with the group's mean m ~
Beta(3, 1) and k, how alike, both on a grid. So who judged little is taken for one of his group, and a verdict that
stands alone for one of somebody who is right three times in four. Without groups all annotators are one.

Departures: neither is fitted to its greatest likelihood. With a few verdicts a pair and scores of its own for each,
CrowdBT's is greatest where everybody is fully reliable. Both are averaged over the posterior by Gibbs sampling (Kim and
Ghahramani 2012, AISTATS, "Bayesian classifier combination"; the scores by elliptical slices, Murray et al. 2010,
AISTATS), which gives intervals too. A tie says nothing of which is better: it is counted, and left out like a verdict
that was not given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy
from numpy.random import Generator
from numpy.typing import NDArray
from rich.table import Table

from accord.console import counting, legible
from accord.evaluate.agreement import CATEGORIES, Ratings
from accord.evaluate.statistics import Floats, Indices, numbered, wilson
from accord.records import Comparison
from accord.results.base import Interval, shown

BURN, KEPT, DRAWS = 200, (500, 4000), 10_000_000
"""Sweeps of the sampler that are thrown away, and the fewest and the most that are averaged over: as many as there are
draws for, one a verdict in each."""

MEANS = (np.arange(40) + 0.5) / 40
ALIKE = np.array([2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
"""The grid of a group's m, by Beta(3, 1), and of its k, all equally likely."""
SPREAD = 2.0
"""The standard deviation of scores: two fully reliable people agree on .76 of pairs drawn at random, about as often as
trained annotators do (Ouyang et al. 2022, arXiv:2203.02155, section 3.4)."""

_SURE = 1e-9
"""Reliabilities keep so far from 0 and 1, that logarithms are finite."""


@dataclass(frozen=True)
class Reliability:
    """How often an annotator, or the mean of a group, is right; `verdicts` are those that are no ties."""

    name: str
    group: str
    verdicts: int
    ties: int
    reliability: Interval | None


@dataclass(frozen=True)
class Beliefs:
    """The probability that the first completion is the better one, (items,), and whom that is taken from."""

    items: tuple[Comparison, ...]
    first_better: Floats
    annotators: list[Reliability]
    groups: list[Reliability]

    def tables(self) -> Iterator[Table]:
        """Annotators with their groups, where they have any; and what is known of each group."""
        named = any(one.group for one in self.annotators)
        people = Table("annotator", *["group"] * named, "verdicts", "ties", "reliability")
        for one in self.annotators:
            who = [legible(name) for name in (one.name, one.group)[: 1 + named]]
            people.add_row(*who, str(one.verdicts), str(one.ties), shown(one.reliability))
        yield people
        if self.groups:
            groups = Table("group", "verdicts", "ties", "mean reliability")
            for one in self.groups:
                groups.add_row(legible(one.name), str(one.verdicts), str(one.ties), shown(one.reliability))
            yield groups


def majority(ratings: Ratings) -> Beliefs:
    """The share of an item's verdicts that prefer the first, a tie half; .5 where there are none.

    An annotator's reliability is how often he agrees with the majority of the others, where they have one and he does
    not tie, with Wilson's interval; None where that never is so.
    """
    given = ratings.labels >= 0
    label = np.where(given, np.array(CATEGORIES)[ratings.labels], 0.5)
    lead = np.where(given, label - 0.5, 0.0)
    others = np.sign(lead.sum(1)[:, None] - lead)
    compared = (others != 0) & (lead != 0)
    agrees = compared & (np.sign(lead) == others)
    found = [wilson(int(a), int(n)) if n else None for a, n in zip(agrees.sum(0), compared.sum(0), strict=True)]
    count = np.maximum(given.sum(1), 1)
    return Beliefs(ratings.items, 0.5 + lead.sum(1) / count, _described(ratings, found), [])


def dawid_skene(ratings: Ratings, *, seed: int = 0) -> Beliefs:
    """The posterior of the model of one better completion a pair; one seed gives the same again."""
    return _averaged(ratings, lambda votes: _OneBetter(votes, len(ratings.labels)), seed)


def bradley_terry(ratings: Ratings, *, seed: int = 0) -> Beliefs:
    """The posterior of the model of scores: P(first is preferred by whoever is fully reliable), E[sigmoid(s_1 - s_2)].

    Scores are normal with mean 0 and the standard deviation `SPREAD`, which few verdicts a pair could not tell from
    carelessness. So whoever agrees with others more often than it allows is found fully reliable.
    """
    return _averaged(ratings, lambda votes: _Scores(votes, ratings.items), seed)


def warnings_of(ratings: Ratings, beliefs: Beliefs) -> list[str]:
    """What the numbers do not say by themselves: who is no better than a coin, and where nobody can be compared."""
    lines = []
    if not ((ratings.labels >= 0).sum(1) > 1).any():
        lines.append(
            "No comparison was judged by two annotators, so nothing tells them apart: reliabilities are guesses."
        )
    poor = [one.name for one in beliefs.annotators if one.reliability and one.verdicts and one.reliability.high < 0.5]
    if poor:
        lines.append(f"Wrong more often than right, as if answers had been swapped: {', '.join(map(legible, poor))}.")
    return lines


class _Truth(Protocol):
    """What the verdicts are about, in a state that is drawn anew, given how reliable annotators are.

    `informs` marks the verdicts (J,) that are not alone: one that is alone is as likely as not, however reliable.
    """

    informs: NDArray[np.bool_]

    def step(self, draw: Generator, reliability: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """P(first is better) of every item as the state has it, and which verdicts (J,) were given reliably."""


@dataclass(frozen=True)
class _Votes:
    """The verdicts that are no ties, (J,) each: of which item, by whom, 1 for the first and -1 for the second."""

    item: Indices
    who: Indices
    side: Floats


def _averaged(ratings: Ratings, model: Callable[[_Votes], _Truth], seed: int) -> Beliefs:
    """The means over the sampler's sweeps, and for reliabilities the middle 95% of them."""
    item, who = np.nonzero((ratings.labels == 0) | (ratings.labels == 2))
    votes, people = _Votes(item, who, ratings.labels[item, who].astype(np.float64) - 1), len(ratings.annotators)
    truth, draw = model(votes), np.random.default_rng(seed)
    groups = ratings.groups or ("",) * people
    group, given = numbered(groups), np.bincount(who, truth.informs, people)
    reliability = draw.uniform(0.7, 0.8, people)  # to begin with; not equal, so that no two verdicts cancel
    first_better, kept, means = np.zeros(len(ratings.labels)), [], []
    sweeps = BURN + int(np.clip(DRAWS // max(1, len(item)), *KEPT))
    with counting("aggregate: sweeps", sweeps) as done:
        for sweep in range(sweeps):
            belief, reliable = truth.step(draw, reliability)
            hits = np.bincount(who, reliable & truth.informs, people)
            a, b = _draw_groups(draw, hits, given - hits, group)
            reliability = draw.beta(a[group] + hits, b[group] + given - hits).clip(_SURE, 1 - _SURE)
            if sweep >= BURN:
                first_better += belief
                kept.append(reliability)
                means.append(a / (a + b))
            done(1)
    ties = (ratings.labels == 1).sum(0)
    strict = np.bincount(who, minlength=people)
    sums = [np.bincount(group, counts).astype(int).tolist() for counts in (strict, ties)]
    names = list(dict.fromkeys(groups))
    whole = [Reliability(*one) for one in zip(names, names, *sums, _intervals(means, sums[0]), strict=True)]
    members = _described(ratings, _intervals(kept, strict))
    return Beliefs(ratings.items, first_better / len(kept), members, whole if ratings.groups else [])


def _draw_groups(draw: Generator, hits: NDArray[Any], misses: NDArray[Any], group: Indices) -> tuple[Floats, Floats]:
    """A draw of k m and of k (1 - m) of every group, given how often each annotator in it was right, whatever r is.

    With r integrated out, h hits and f misses have the likelihood B(k m + h, k (1 - m) + f) / B(k m, k (1 - m)).
    """
    a, b = (np.outer(share, ALIKE).ravel() for share in (MEANS, 1 - MEANS))
    log_weight = np.tile(np.repeat(2 * np.log(MEANS), len(ALIKE)), (group.max() + 1, 1))  # Beta(3, 1)
    betaln = scipy.special.betaln
    np.add.at(log_weight, group, betaln(a + hits[:, None], b + misses[:, None]) - betaln(a, b))
    chosen = _draw(draw, log_weight)
    return a[chosen], b[chosen]


def _draw(draw: Generator, log_weight: Floats) -> Indices:
    """An index into the last axis, with probability proportional to exp(log_weight): the largest with Gumbel noise."""
    return np.asarray((log_weight + draw.gumbel(size=log_weight.shape)).argmax(-1))


class _OneBetter:
    """Dawid and Skene's: of every item one of the two is better, either as likely as not."""

    def __init__(self, votes: _Votes, items: int) -> None:
        self.votes, self.items = votes, items
        self.informs = np.bincount(votes.item)[votes.item] > 1

    def step(self, draw: Generator, reliability: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        votes = self.votes
        said = votes.side * scipy.special.logit(reliability)[votes.who]
        odds = np.bincount(votes.item, said, self.items)
        # Whether it is the likelier one, not which it is: so swapping all completions swaps what is drawn.
        likelier = draw.random(self.items) < scipy.special.expit(np.abs(odds))
        better = np.where(likelier == (odds >= 0), 1.0, -1.0)
        return scipy.special.expit(odds), better[votes.item] == votes.side


class _Scores:
    """CrowdBT's: a normal score of every completion, P(first is preferred) = sigmoid(s_1 - s_2)."""

    def __init__(self, votes: _Votes, items: Sequence[Comparison]) -> None:
        self.votes = votes
        completion = numbered([(c.prompt or i, text) for i, c in enumerate(items) for text in (c.first, c.second)])
        self.first, self.second = completion[0::2], completion[1::2]
        self.prompt_of_item = numbered([c.prompt or i for i, c in enumerate(items)])  # without a prompt each is alone
        self.prompt = np.zeros(completion.max() + 1, dtype=np.intp)  # of every completion
        self.prompt[completion] = np.repeat(self.prompt_of_item, 2)
        of = self.prompt_of_item[votes.item]
        self.informs, self.judged = np.bincount(of)[of] > 1, np.isin(self.prompt_of_item, of)
        self.scores = np.zeros(len(self.prompt))

    def step(self, draw: Generator, reliability: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        votes = self.votes
        trust = (2 * reliability - 1)[votes.who] * votes.side
        self._draw_scores(draw, trust)
        first = scipy.special.expit(self.scores[self.first] - self.scores[self.second])
        g, r = np.where(votes.side > 0, first[votes.item], 1 - first[votes.item]), reliability[votes.who]
        reliable = draw.random(len(g)) * (r * g + (1 - r) * (1 - g)) < r * g
        return np.where(self.judged, first, 0.5), reliable

    def _likelihood(self, scores: Floats, trust: Floats) -> Floats:
        """The log-likelihood of each prompt's verdicts but for a constant, (prompts,).

        P = (1 + trust tanh((s_1 - s_2) / 2)) / 2, where trust = 2 r - 1, or its negative for a verdict for the second.
        """
        lean = np.tanh((scores[self.first] - scores[self.second]) / 2)
        logs = np.log1p(trust * lean[self.votes.item])
        of = np.bincount(self.prompt_of_item[self.votes.item], logs, self.prompt_of_item.max() + 1)
        return np.asarray(of, dtype=np.float64)

    def _draw_scores(self, draw: Generator, trust: Floats) -> None:
        """Elliptical slice sampling of every prompt's scores: another point on an ellipse, likely enough."""
        start, other = self.scores, draw.normal(0, SPREAD, len(self.scores))
        least = self._likelihood(start, trust)
        least = least - draw.standard_exponential(len(least))
        angle = draw.uniform(0, 2 * np.pi, len(least))
        low, high = angle - 2 * np.pi, angle
        while True:
            self.scores = start * np.cos(angle)[self.prompt] + other * np.sin(angle)[self.prompt]
            likely = self._likelihood(self.scores, trust) >= least
            if likely.all():
                return
            low, high = np.where(~likely & (angle < 0), angle, low), np.where(~likely & (angle >= 0), angle, high)
            angle = np.where(likely, angle, draw.uniform(low, high))


def _intervals(draws: Sequence[Floats], verdicts: Sequence[int] | Indices) -> list[Interval]:
    """The mean of every column of draws, and the middle 95% of them."""
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    every = zip(np.mean(draws, axis=0), low, high, verdicts, strict=True)
    return [Interval(float(mean), float(one), float(other), int(n)) for mean, one, other, n in every]


def _described(ratings: Ratings, found: Sequence[Interval | None]) -> list[Reliability]:
    groups = ratings.groups or ("",) * len(ratings.annotators)
    strict = ((ratings.labels == 0) | (ratings.labels == 2)).sum(0).tolist()
    ties = (ratings.labels == 1).sum(0).tolist()
    return [Reliability(*one) for one in zip(ratings.annotators, groups, strict, ties, found, strict=True)]
