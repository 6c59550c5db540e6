"""Aggregation of judgments by several annotators of different reliability.

Every annotator has a reliability r. Two models say how verdicts depend on it, and hence how likely each completion is
the better one, given all verdicts:

    Dawid-Skene      one of the two is better;     P(votes for the first) = r if the first is better, else 1 - r
    Bradley-Terry    completions have scores s;    P(votes for the first) = r g + (1 - r) (1 - g)

with g = sigmoid(s_1 - s_2).

The first is Dawid and Skene's (1979, Applied Statistics 28) with one error rate per annotator, since the order of
completions is arbitrary; the second is CrowdBT (Chen et al. 2013, WSDM, "Pairwise ranking aggregation in a crowdsourced
setting"). In the first, every mistake is carelessness; in the second, people also differ where two completions are
nearly as good, and verdicts on other pairs of the same completions count.

Reliabilities within a group are similar, to a degree learned from the verdicts: r ~ Beta(k m, k (1 - m)), with the
group's mean m ~ Beta(3, 1) and concentration k, both on a grid. So an annotator with few verdicts is close to the
group's mean, and a single verdict has the prior mean reliability of 3/4. Without groups all annotators form one.

Departures: neither is fitted by maximum likelihood. With a few verdicts per pair and free scores, CrowdBT's likelihood
is maximal where everybody is fully reliable. Both are averaged over the posterior by Gibbs sampling (Kim and Ghahramani
2012, AISTATS, "Bayesian classifier combination"; the scores by elliptical slice sampling, Murray et al. 2010, AISTATS),
which also gives intervals. Ties carry no information on which is better: they are counted, and otherwise treated as
missing.
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

from accord.console import legible, progress_bar
from accord.evaluate.agreement import CATEGORIES, Ratings
from accord.evaluate.statistics import Floats, Indices, numbered, wilson
from accord.records import Comparison
from accord.results.intervals import Interval, shown

BURN, KEPT, DRAWS = 200, (500, 4000), 10_000_000
"""Sweeps of the sampler that are discarded, and the minimum and maximum kept: as many as fit the budget of draws, one
per verdict and sweep."""

MEANS = (np.arange(40) + 0.5) / 40
ALIKE = np.array([2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
"""The grids of a group's m, with prior Beta(3, 1), and of its k, uniform."""
SPREAD = 2.0
"""The standard deviation of scores: two fully reliable people agree on .76 of random pairs, about as often as trained
annotators do (Ouyang et al. 2022, arXiv:2203.02155, section 3.4)."""

_SURE = 1e-9
"""Reliabilities are kept this far from 0 and 1, so that logarithms are finite."""


@dataclass(frozen=True)
class Reliability:
    """The reliability of an annotator, or a group's mean; `verdicts` does not count ties."""

    name: str
    group: str
    verdicts: int
    ties: int
    reliability: Interval | None


@dataclass(frozen=True)
class Beliefs:
    """P(the first completion is better), (items,), and the reliabilities it is based on."""

    items: tuple[Comparison, ...]
    first_better: Floats
    annotators: list[Reliability]
    groups: list[Reliability]

    def tables(self) -> Iterator[Table]:
        """A table of annotators, and of groups, if any."""
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
    """The share of an item's verdicts that prefer the first, a tie counting half; .5 without verdicts.

    An annotator's reliability is the agreement with the majority of the others, where there is one and the annotator
    does not tie, with Wilson's interval; None where that never happens.
    """
    has_label = ratings.labels >= 0
    label = np.where(has_label, np.array(CATEGORIES)[ratings.labels], 0.5)
    lead = np.where(has_label, label - 0.5, 0.0)
    others = np.sign(lead.sum(1)[:, None] - lead)
    compared = (others != 0) & (lead != 0)
    agrees = compared & (np.sign(lead) == others)
    intervals = [wilson(int(a), int(n)) if n else None for a, n in zip(agrees.sum(0), compared.sum(0), strict=True)]
    count = np.maximum(has_label.sum(1), 1)
    return Beliefs(ratings.items, 0.5 + lead.sum(1) / count, _described(ratings, intervals), [])


def dawid_skene(ratings: Ratings, *, seed: int = 0) -> Beliefs:
    """The posterior of the model in which one completion of each pair is better; reproducible by seed."""
    return _averaged(ratings, lambda votes: _OneBetter(votes, len(ratings.labels)), seed)


def bradley_terry(ratings: Ratings, *, seed: int = 0) -> Beliefs:
    """The posterior of the model of scores: P(a fully reliable annotator prefers the first), E[sigmoid(s_1 - s_2)].

    Scores are normal with mean 0 and standard deviation `SPREAD`, which a few verdicts per pair could not separate from
    carelessness. So an annotator who agrees with others more often than it allows is found fully reliable.
    """
    return _averaged(ratings, lambda votes: _Scores(votes, ratings.items), seed)


def warnings_of(ratings: Ratings, beliefs: Beliefs) -> list[str]:
    """Warnings about annotators no better than chance, and about data in which no annotators can be compared."""
    lines = []
    if not ((ratings.labels >= 0).sum(1) > 1).any():
        lines.append(
            "No comparison was judged by two annotators, so they cannot be compared: reliabilities are guesses."
        )
    poor = [one.name for one in beliefs.annotators if one.reliability and one.verdicts and one.reliability.high < 0.5]
    if poor:
        lines.append(f"Wrong more often than right, as if answers were swapped: {', '.join(map(legible, poor))}.")
    return lines


class _Truth(Protocol):
    """The latent truth behind the verdicts, a state sampled given the annotators' reliabilities.

    `informs` marks the verdicts (J,) that can be compared with others; a lone verdict says nothing about reliability.
    """

    informs: NDArray[np.bool_]

    def step(self, draw: Generator, reliability: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """P(first is better) of every item in the current state, and which verdicts (J,) were given reliably."""


@dataclass(frozen=True)
class _Votes:
    """Verdicts without ties, (J,) each: the item, the annotator, and the side (1: the first, -1: the second)."""

    item: Indices
    who: Indices
    side: Floats


def _averaged(ratings: Ratings, model: Callable[[_Votes], _Truth], seed: int) -> Beliefs:
    """Means over the sampler's sweeps, and the central 95% of the reliabilities."""
    item, who = np.nonzero((ratings.labels == 0) | (ratings.labels == 2))
    votes, people = _Votes(item, who, ratings.labels[item, who].astype(np.float64) - 1), len(ratings.annotators)
    truth, draw = model(votes), np.random.default_rng(seed)
    groups = ratings.groups or ("",) * people
    group, given = numbered(groups), np.bincount(who, truth.informs, people)
    reliability = draw.uniform(0.7, 0.8, people)  # initial values; unequal, so that no two verdicts cancel
    first_better, kept, means = np.zeros(len(ratings.labels)), [], []
    sweeps = BURN + int(np.clip(DRAWS // max(1, len(item)), *KEPT))
    with progress_bar("aggregate: sweeps", sweeps) as done:
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
    """A draw of k m and of k (1 - m) for every group, given how often each of its annotators was right.

    With r integrated out, h hits and f misses have the likelihood B(k m + h, k (1 - m) + f) / B(k m, k (1 - m)).
    """
    a, b = (np.outer(share, ALIKE).ravel() for share in (MEANS, 1 - MEANS))
    log_weight = np.tile(np.repeat(2 * np.log(MEANS), len(ALIKE)), (group.max() + 1, 1))  # Beta(3, 1)
    betaln = scipy.special.betaln
    np.add.at(log_weight, group, betaln(a + hits[:, None], b + misses[:, None]) - betaln(a, b))
    chosen = _draw(draw, log_weight)
    return a[chosen], b[chosen]


def _draw(draw: Generator, log_weight: Floats) -> Indices:
    """An index into the last axis, drawn with probability proportional to exp(log_weight) by the Gumbel-max trick."""
    return np.asarray((log_weight + draw.gumbel(size=log_weight.shape)).argmax(-1))


class _OneBetter:
    """Dawid and Skene's model: one completion of each pair is better, with prior probability 1/2 each."""

    def __init__(self, votes: _Votes, items: int) -> None:
        self.votes, self.items = votes, items
        self.informs = np.bincount(votes.item)[votes.item] > 1

    def step(self, draw: Generator, reliability: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        votes = self.votes
        log_odds = votes.side * scipy.special.logit(reliability)[votes.who]
        odds = np.bincount(votes.item, log_odds, self.items)
        # Draw whether it is the likelier one, not which: so swapping all completions mirrors the draws.
        likelier = draw.random(self.items) < scipy.special.expit(np.abs(odds))
        better = np.where(likelier == (odds >= 0), 1.0, -1.0)
        return scipy.special.expit(odds), better[votes.item] == votes.side


class _Scores:
    """CrowdBT's model: a normal score for every completion, P(first is preferred) = sigmoid(s_1 - s_2)."""

    def __init__(self, votes: _Votes, items: Sequence[Comparison]) -> None:
        self.votes = votes
        completion = numbered([(c.prompt or i, text) for i, c in enumerate(items) for text in (c.first, c.second)])
        self.first, self.second = completion[0::2], completion[1::2]
        self.prompt_of_item = numbered([c.prompt or i for i, c in enumerate(items)])  # items without prompt stay apart
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
        """The log-likelihood of each prompt's verdicts up to a constant, (prompts,).

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
    """The mean of every column of draws, and its central 95%."""
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    every = zip(np.mean(draws, axis=0), low, high, verdicts, strict=True)
    return [Interval(float(mean), float(one), float(other), int(n)) for mean, one, other, n in every]


def _described(ratings: Ratings, intervals: Sequence[Interval | None]) -> list[Reliability]:
    groups = ratings.groups or ("",) * len(ratings.annotators)
    strict = ((ratings.labels == 0) | (ratings.labels == 2)).sum(0).tolist()
    ties = (ratings.labels == 1).sum(0).tolist()
    return [Reliability(*one) for one in zip(ratings.annotators, groups, strict, ties, intervals, strict=True)]
