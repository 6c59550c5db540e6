"""How often whatever is on trial agrees with held-out judgments: in all, and where it does better or worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from accord.data.judgments import Judgment
from accord.evaluate.statistics import Floats, Interval, Places, bootstrap, each, numbered, rate
from accord.records import Text

MARGINS = 4
"""Parts of equal size by how far one completion leads the other."""

EQUAL = 0.1
"""Completions whose lengths differ by no more than this share of the longer one's are about equally long."""


@dataclass(frozen=True)
class Trial:
    """Judgments, and the lead of the first completion over the second in each, (P,), finite.

    `clusters` says which judgments hang together: those of one prompt, as they share its completions; of rows without
    a prompt, or where there is only one, those of one row.
    """

    judgments: Sequence[Judgment]
    lead: Floats

    @cached_property
    def labels(self) -> Floats:
        """1 where people preferred the first, 0 where the second, .5 where neither."""
        return np.array([j.label for j in self.judgments])

    @cached_property
    def clusters(self) -> Places:
        prompts = numbered([j.prompt or ("", j.row) for j in self.judgments])
        return prompts if len(np.unique(prompts)) > 1 else numbered([j.row for j in self.judgments])

    @cached_property
    def strict(self) -> Trial:
        """The judgments that are no ties."""
        return self.where(self.labels != 0.5)

    @cached_property
    def margin(self) -> Floats:
        """The lead of the completion that people preferred."""
        return self.lead * np.sign(self.labels - 0.5)

    @cached_property
    def right(self) -> Floats:
        """1 where that completion leads, 0 where it trails, .5 where neither leads."""
        return 0.5 + 0.5 * np.sign(self.margin)

    @cached_property
    def lengths(self) -> Floats:
        """The characters of the first completion and of the second, (P, 2)."""
        return np.array([(length(j.first), length(j.second)) for j in self.judgments], dtype=np.float64).reshape(-1, 2)

    def where(self, chosen: np.ndarray) -> Trial:
        """The judgments at these places, or where this is true."""
        places = np.arange(len(self.judgments))[chosen]
        return Trial([self.judgments[i] for i in places], self.lead[places])

    def accuracy(self) -> Interval | None:
        """The share of strict judgments whose better completion leads, an equal lead counted half; None without any."""
        return rate(self.strict.right, self.strict.clusters)


@dataclass(frozen=True, slots=True)
class Part:
    """The accuracy on some of the judgments."""

    label: str
    accuracy: Interval


def by_margin(trial: Trial, parts: int = MARGINS) -> list[Part]:
    """The accuracy by how far one completion leads, in parts of equal size, from the closest to the clearest."""
    strict = trial.strict
    size = np.abs(strict.lead)
    shares = [share for share in np.array_split(np.argsort(size, kind="stable"), parts) if len(share)]
    return [_part(f"{size[share[0]]:.2f} to {size[share[-1]]:.2f}", strict.where(share)) for share in shares]


def by_length(trial: Trial) -> list[Part]:
    """The accuracy where people preferred the longer completion, one about as long as the other, and the shorter."""
    strict = trial.strict
    longer = (strict.lengths[:, 0] - strict.lengths[:, 1]) * np.sign(strict.labels - 0.5)
    unequal = np.abs(longer) > EQUAL * strict.lengths.max(1, initial=0)
    parts = {
        "chosen longer": unequal & (longer > 0),
        "about equal": ~unequal,
        "chosen shorter": unequal & (longer < 0),
    }
    return [_part(label, strict.where(some)) for label, some in parts.items() if some.any()]


def by_source(trial: Trial) -> list[Part]:
    """The accuracy on the judgments of every source, where rows name any, the most frequent first."""
    strict = trial.strict
    named = np.array([j.source for j in strict.judgments])
    sources, counts = np.unique(named[named != ""], return_counts=True)
    return [
        _part(str(source), strict.where(named == source))
        for source, _ in sorted(zip(sources, counts, strict=True), key=lambda s: (-s[1], s[0]))
    ]


def nearer_on_ties(trial: Trial) -> Interval | None:
    """The chance that the lead is smaller on a pair that people tied than on one they did not; None without both.

    It is 1/2 for whatever knows nothing of ties and 1 for what sets them all apart (the area under the curve of Mann
    and Whitney), whatever the unit of the lead.
    """
    size, tied = np.abs(trial.lead), trial.labels == 0.5

    def chance(places: Places) -> float:
        ties, others = size[places[tied[places]]], np.sort(size[places[~tied[places]]])
        if not len(ties) or not len(others):
            return float("nan")
        above = len(others) - np.searchsorted(others, ties, "right")
        equal = len(others) - np.searchsorted(others, ties, "left") - above
        return float((above + equal / 2).mean() / len(others))

    return bootstrap(each(chance), trial.clusters)


def length_correlation(trial: Trial) -> Interval | None:
    """Spearman's correlation of the lead with the difference in length; None where either never varies.

    Both are differences within one prompt, so prompts that ask for longer answers and have higher scores add nothing.
    Every pair enters in both orders, so that it does not matter which completion the data put first.
    """
    longer = trial.lengths[:, 0] - trial.lengths[:, 1]

    def correlation(places: Places) -> float:
        ranks = [_ranks(np.concatenate([v[places], -v[places]])) for v in (trial.lead, longer)]
        spread = np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1]))
        return float(ranks[0] @ ranks[1] / spread) if spread else float("nan")

    return bootstrap(each(correlation), trial.clusters)


def length(text: Text) -> int:
    """The characters of a completion; of a chat, of what the assistant says in it."""
    return len(text) if isinstance(text, str) else sum(len(m.content) for m in text if m.role == "assistant")


def _part(label: str, trial: Trial) -> Part:
    interval = trial.accuracy()
    assert interval is not None  # no part is empty
    return Part(label, interval)


def _ranks(values: Floats) -> Floats:
    """The values' ranks, their mean taken off; equal values share theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return np.asarray(ranks - ranks.mean(), dtype=np.float64)
