"""Rows of K completions of which every pair was judged: is the best one found, and how alike are the two orders?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np

from accord.evaluate.accuracy import Trial
from accord.evaluate.statistics import Interval, bootstrap_mean
from accord.feedback.people import to_ranking
from accord.records import Comparison, Text, Verdict


@dataclass(frozen=True, slots=True)
class RankingAgreement:
    """Means over rows with intervals by bootstrap over rows.

    Attributes:
        rows: rows of three completions or more of which every pair was judged and every lead is known.
        cyclic: those whose judgments agree with no ranking.
        top: how often the leading completion is among those that people found best; None where people tied all.
        chance: how often one drawn by lot would be.
        tau: Kendall's rank correlation, the mean of tau-b; None where no row has one.
    """

    rows: int
    cyclic: int
    top: Interval | None
    chance: float | None
    tau: Interval | None


def ranking_agreement(trial: Trial) -> RankingAgreement | None:
    """The agreement on rows of several completions; None where there are none.

    Best is what has the most wins less losses (Copeland), which exists whether or not the judgments are transitive.
    Several that are best in people's eyes are all right; several that lead share the credit, as if drawn by lot.
    """
    rows = [row for row in _rows(trial) if row is not None]
    if not rows:
        return None
    cyclic = sum(to_ranking(row.pairs, [Verdict(label) for label in row.labels.tolist()]) is None for row in rows)
    tops = [(_best(row.standing(row.labels)), _best(row.standing(row.leads > 0, row.leads == 0))) for row in rows]
    told = [(people, leading, row) for (people, leading), row in zip(tops, rows, strict=True) if len(people) < row.size]
    hits = [len(people & leading) / len(leading) for people, leading, _ in told]
    taus = [tau for row in rows if (tau := _tau_b(np.sign(row.labels - 0.5), np.sign(row.leads))) is not None]
    return RankingAgreement(
        len(rows),
        cyclic,
        bootstrap_mean(hits) if hits else None,
        sum(len(people) / row.size for people, _, row in told) / len(told) if told else None,
        bootstrap_mean(taus) if taus else None,
    )


@dataclass(frozen=True)
class _Row:
    """All pairs of one row's completions."""

    pairs: list[Comparison]
    labels: np.ndarray
    leads: np.ndarray
    size: int

    def standing(self, wins: np.ndarray, ties: np.ndarray | float = 0.0) -> Mapping[Text, float]:
        """Every completion's wins, each win of the first 1, of the second 0, and a tie a half."""
        total: dict[Text, float] = defaultdict(float)
        for pair, won in zip(self.pairs, wins + 0.5 * np.asarray(ties), strict=True):
            total[pair.first] += float(won)
            total[pair.second] += 1 - float(won)
        return total


def _rows(trial: Trial) -> list[_Row | None]:
    """The rows; None where one has fewer than three completions or lacks a pair."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, judgment in enumerate(trial.judgments):
        places[judgment.row].append(place)
    return [_row(trial, some) for some in places.values()]


def _row(trial: Trial, places: Sequence[int]) -> _Row | None:
    pairs = [Comparison(j.prompt, j.first, j.second) for j in (trial.judgments[i] for i in places)]
    size = len({text for pair in pairs for text in (pair.first, pair.second)})
    whole = size > 2 and len({frozenset((p.first, p.second)) for p in pairs}) == len(pairs) == comb(size, 2)
    return _Row(pairs, trial.labels[places], trial.lead[places], size) if whole else None


def _best(standing: Mapping[Text, float]) -> set[Text]:
    most = max(standing.values())
    return {text for text, wins in standing.items() if wins == most}


def _tau_b(people: np.ndarray, leads: np.ndarray) -> float | None:
    """Kendall's tau-b of two verdicts, 1, 0 or -1 each, on every pair: agreements less disagreements, over untied."""
    untied = np.count_nonzero(people) * np.count_nonzero(leads)
    return float(people @ leads) / sqrt(untied) if untied else None
