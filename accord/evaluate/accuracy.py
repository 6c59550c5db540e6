"""Accuracy of a preference model: how often its leads agree with held-out judgments, in all and in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy

from accord.evaluate.statistics import Floats, Indices, bootstrap, each, numbered, rate
from accord.records import Text
from accord.results.comparisons import Part
from accord.results.intervals import Interval

if TYPE_CHECKING:
    from accord.data.judgments import Judgment

MARGINS = 4
"""Number of equal parts by size of the lead."""

EQUAL = 0.1
"""Completions count as equally long where they differ by at most this share of the longer one."""


@dataclass(frozen=True)
class Predictions:
    """Judgments, and a model's lead of the first completion over the second in each, (P,), finite.

    `clusters` groups dependent judgments: those of one prompt, which share completions; those of one row where rows
    have no prompt or all have the same.
    """

    judgments: Sequence[Judgment]
    lead: Floats

    @cached_property
    def labels(self) -> Floats:
        """1 where people preferred the first, 0 the second, .5 for a tie; or P(the first is better)."""
        return np.array([j.label for j in self.judgments])

    @property
    def is_soft(self) -> bool:
        """Whether some labels are probabilities."""
        return not np.isin(self.labels, (0.0, 0.5, 1.0)).all()

    @cached_property
    def clusters(self) -> Indices:
        prompts = numbered([j.prompt or ("", j.row) for j in self.judgments])
        return prompts if len(np.unique(prompts)) > 1 else numbered([j.row for j in self.judgments])

    @cached_property
    def strict(self) -> Predictions:
        """The judgments that are not ties."""
        return self.where(self.labels != 0.5)

    @cached_property
    def margin(self) -> Floats:
        """The lead of the completion that people preferred."""
        return self.lead * np.sign(self.labels - 0.5)

    @cached_property
    def right(self) -> Floats:
        """1 where the preferred completion leads, 0 where it trails, .5 for an equal lead."""
        return 0.5 + 0.5 * np.sign(self.margin)

    @cached_property
    def lengths(self) -> Floats:
        """The lengths of both completions in characters, (P, 2)."""
        return np.array([(length(j.first), length(j.second)) for j in self.judgments], dtype=np.float64).reshape(-1, 2)

    def where(self, chosen: np.ndarray) -> Predictions:
        """The judgments selected by indices or by a boolean mask."""
        indices = np.arange(len(self.judgments))[chosen]
        return Predictions([self.judgments[i] for i in indices], self.lead[indices])

    @cached_property
    def weights(self) -> Floats:
        """Sampling weights of the judgments; 1 where the data have none."""
        return np.array([j.weight for j in self.judgments])

    def accuracy(self) -> Interval | None:
        """The share of strict judgments whose better completion leads, an equal lead counting half; None without any.

        It is the weighted mean where judgments have weights.
        """
        strict = self.strict
        if (strict.weights == 1).all():
            return rate(strict.right, strict.clusters)
        right = strict.weights * strict.right
        return bootstrap(lambda drawn: drawn @ right / (drawn @ strict.weights), strict.clusters)


def by_margin(predictions: Predictions, parts: int = MARGINS) -> list[Part]:
    """Accuracy by size of the lead, in parts of equal size, smallest lead first."""
    strict = predictions.strict
    size = np.abs(strict.lead)
    shares = [share for share in np.array_split(np.argsort(size, kind="stable"), parts) if len(share)]
    return [_part(f"{size[share[0]]:.2f} to {size[share[-1]]:.2f}", strict.where(share)) for share in shares]


def by_length(predictions: Predictions) -> list[Part]:
    """Accuracy where people preferred the longer completion, one of about equal length, or the shorter."""
    strict = predictions.strict
    longer = (strict.lengths[:, 0] - strict.lengths[:, 1]) * np.sign(strict.labels - 0.5)
    unequal = np.abs(longer) > EQUAL * strict.lengths.max(1, initial=0)
    parts = {"chosen longer": unequal & (longer > 0), "about equal": ~unequal, "chosen shorter": unequal & (longer < 0)}
    return [_part(label, strict.where(some)) for label, some in parts.items() if some.any()]


def by_source(predictions: Predictions) -> list[Part]:
    """Accuracy by source of the judgments, where rows name any, most frequent first."""
    strict = predictions.strict
    named = np.array([j.source for j in strict.judgments])
    sources, counts = np.unique(named[named != ""], return_counts=True)
    return [
        _part(str(source), strict.where(named == source))
        for source, _ in sorted(zip(sources, counts, strict=True), key=lambda s: (-s[1], s[0]))
    ]


def nearer_on_ties(predictions: Predictions) -> Interval | None:
    """The probability that the lead is smaller on a pair that people tied than on another pair; None without both.

    It is the area under the ROC curve (Mann and Whitney): 1/2 for a model that ignores ties and 1 for one that
    separates them, whatever the unit of the lead.
    """
    size, tied = np.abs(predictions.lead), predictions.labels == 0.5

    def chance(drawn: Indices) -> float:
        ties, others = size[drawn[tied[drawn]]], np.sort(size[drawn[~tied[drawn]]])
        if not len(ties) or not len(others):
            return float("nan")
        above = len(others) - np.searchsorted(others, ties, "right")
        equal = len(others) - np.searchsorted(others, ties, "left") - above
        return float((above + equal / 2).mean() / len(others))

    return bootstrap(each(chance), predictions.clusters)


def length_correlation(predictions: Predictions) -> Interval | None:
    """Spearman's correlation of the lead with the difference in length; None where either is constant.

    Both are differences within one prompt, so prompts that ask for longer answers and have higher scores add nothing.
    Every pair enters in both orders, so the order of completions in the data does not matter.
    """
    longer = predictions.lengths[:, 0] - predictions.lengths[:, 1]

    def correlation(drawn: Indices) -> float:
        lead, length = (np.concatenate([v[drawn], -v[drawn]]) for v in (predictions.lead, longer))
        if not np.ptp(lead) or not np.ptp(length):
            return float("nan")
        return float(scipy.stats.spearmanr(lead, length).statistic)

    return bootstrap(each(correlation), predictions.clusters)


def length(text: Text) -> int:
    """The characters of a completion; for a chat, those of the assistant's messages."""
    return len(text) if isinstance(text, str) else sum(len(m.words) for m in text if m.role == "assistant")


def _part(label: str, predictions: Predictions) -> Part:
    interval = predictions.accuracy()
    assert interval is not None  # no part is empty
    return Part(label=label, accuracy=interval)
