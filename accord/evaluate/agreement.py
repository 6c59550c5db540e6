"""`accord evaluate agreement`: how far annotators agree, and the accuracy this allows a model of their preferences.

Ratings are counts: how many of an item's raters chose each category, (items, V). A comparison of two completions has
the categories second, tie, first. As the order of completions is arbitrary, chance agreement must not depend on it:
every comparison is counted in both orders, and both count as one item in the bootstrap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from accord.errors import InputError
from accord.evaluate.kappas import (
    ceiling,
    cohen,
    fleiss,
    krippendorff,
    nominal,
    observed_agreement,
    ordinal,
    over_items,
)
from accord.evaluate.options import RowOptions, checked_by, takes
from accord.evaluate.statistics import FEW, Floats, mean
from accord.evaluate.users import groups_of
from accord.outputs import require_folder
from accord.records import Comparison, Text
from accord.results.agreement import AgreementResult, AnnotatorPair
from accord.results.base import FILE
from accord.results.intervals import Interval

if TYPE_CHECKING:
    from accord.data.judgments import Judgment

CATEGORIES = (0.0, 0.5, 1.0)
"""The labels of judgments: second, tie, first."""

PAIRS = 50
"""Maximum number of pairs of annotators in the result: crowds have thousands."""


def require_one(data: str | None, annotators: Mapping[str, str] | None) -> None:
    """Raise InputError unless there is either a file that names annotators, or a file for each of them."""
    if (data is None) == (not annotators):
        raise InputError("give --data, a file that names annotators, or --annotators.NAME, one file for each of them.")


@takes(RowOptions)
@checked_by(require_one)
def evaluate_agreement(
    out: str,
    *,
    data: str | None = None,
    annotators: dict[str, str] | None = None,
    **options: Any,
) -> AgreementResult:
    """Measure how far annotators agree beyond chance, and the accuracy that this allows a model of their preferences.

    Judgments are matched by the prompt and the two completions, in either order.

    Args:
        out: the folder to write evaluation.json to.
        data: a file or Hub name of judgments with a column that names the annotator (--columns.annotator worker), or a
            column for each annotator (--columns.label ann,bob).
        annotators: instead of --data, a file of judgments per annotator, as --annotators.ann first.jsonl.
        options: the fields of `RowOptions`.

    Raises:
        InputError: the options do not fit each other or the data, or no item was judged by two annotators.
    """
    require_folder(out, data, annotators, options, leaves=(FILE,))
    ratings = rate_items(read_judged(data, annotators or {}, RowOptions(**options)))
    if len(ratings.annotators) < 2:
        raise InputError(f"only {ratings.annotators[0]} judged; agreement needs two annotators.")
    if not len(ratings.counts):
        raise InputError("no two annotators judged the same completions of the same prompt.")
    result = agreement(ratings, data or ", ".join((annotators or {}).values()))
    return result.publish(out)


def read_judged(data: str | None, annotators: Mapping[str, str], options: RowOptions) -> list[Judgment]:
    """The judgments of a file that names annotators, or of a file per annotator; InputError unless one is given."""
    require_one(data, annotators)
    if data is None:
        files = {name: options.judgments(file) for name, file in annotators.items()}
        return [replace(j, annotator=name) for name, some in files.items() for j in some]
    judgments = options.judgments(data)
    nameless = next((j for j in judgments if not j.annotator), None)
    if nameless is not None:
        raise InputError(
            f"{data}, row {nameless.row + 1}: the annotator is missing; name the column by --columns.annotator."
        )
    return judgments


@dataclass(frozen=True)
class Ratings:
    """Every annotator's rating of every item, (items, annotators): an index into `CATEGORIES`, or -1 for none.

    `repeated` counts judgments left out because the same annotator had judged the item before. `items` are the
    comparisons, and `groups` the annotators' groups, if given.
    """

    annotators: tuple[str, ...]
    labels: NDArray[np.int64]
    repeated: int
    items: tuple[Comparison, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def counts(self) -> Floats:
        """Counts per category, (items, V), of the items with two annotators or more."""
        counts = np.stack([(self.labels == c).sum(1) for c in range(len(CATEGORIES))], 1).astype(np.float64)
        return np.asarray(counts[counts.sum(1) > 1])


def rate_items(judgments: Sequence[Judgment]) -> Ratings:
    """The judgments by item (a prompt and two completions in either order) and annotator.

    A probability counts as the nearest category. InputError where an annotator belongs to two groups.
    """
    groups = groups_of(judgments)
    column = {name: i for i, name in enumerate(groups)}
    items: dict[tuple[Text, frozenset[Text]], tuple[int, Comparison]] = {}
    labels: dict[tuple[int, int], int] = {}
    repeated = 0
    for j in judgments:
        new = len(items), Comparison(j.prompt, j.first, j.second)
        item, judged = items.setdefault((j.prompt, frozenset((j.first, j.second))), new)
        category = 1 + (j.label > 0.5) - (j.label < 0.5)
        repeated += (item, column[j.annotator]) in labels
        labels.setdefault((item, column[j.annotator]), category if j.first == judged.first else 2 - category)
    table = np.full((len(items), len(groups)), -1)
    for index, category in labels.items():
        table[index] = category
    of = tuple(groups.values()) if any(groups.values()) else ()
    return Ratings(tuple(groups), table, repeated, tuple(judged for _, judged in items.values()), of)


def between(ratings: Ratings, most: int) -> list[AnnotatorPair]:
    """Agreement of every two annotators who share items, most shared items first, at most `most` pairs."""
    judged = ratings.labels >= 0
    every = combinations(range(len(ratings.annotators)), 2)
    shared = Counter({(a, b): int((judged[:, a] & judged[:, b]).sum()) for a, b in every})
    return [_pair(ratings, a, b) for (a, b), items in shared.most_common(most) if items]


def _pair(ratings: Ratings, a: int, b: int) -> AnnotatorPair:
    both = ratings.labels[:, [a, b]]
    both = both[(both >= 0).all(1)]
    agreement = mean((both[:, 0] == both[:, 1]).astype(np.float64), np.arange(len(both)))
    assert agreement is not None  # there are items

    def kappa(patterns: NDArray[np.int64], times: Floats) -> Floats:
        tables = np.eye(len(CATEGORIES) ** 2)[patterns @ (len(CATEGORIES), 1)]
        table = (times @ tables).reshape(-1, len(CATEGORIES), len(CATEGORIES))
        return cohen(table + table[:, ::-1, ::-1])

    return AnnotatorPair(
        a=ratings.annotators[a],
        b=ratings.annotators[b],
        items=len(both),
        agreement=agreement,
        kappa=over_items(kappa, both),
    )


def agreement(ratings: Ratings, data: str = "", *, pairs: int = PAIRS) -> AgreementResult:
    """Agreement of all annotators and of every two, with intervals by bootstrap over items (one or more).

    At most `pairs` pairs of annotators are included, those that share most items.
    """
    counts = ratings.counts
    overall = mean(observed_agreement(counts), np.arange(len(counts)))
    assert overall is not None  # items exist
    decided = counts * (1.0, 0.0, 1.0)
    decided = decided[decided.sum(1) > 1]
    strict = mean(observed_agreement(decided), np.arange(len(decided)))

    def both_orders(statistic: Callable[[Floats, Floats], Floats]) -> Interval | None:
        return over_items(
            lambda some, times: statistic(np.concatenate([some, some[:, ::-1]]), np.concatenate([times, times], 1)),
            counts,
        )

    result = AgreementResult(
        data=data,
        annotators=list(ratings.annotators),
        items=len(counts),
        pairs=between(ratings, pairs),
        agreement=overall,
        strict=strict,
        fleiss=None if np.ptp(counts.sum(1)) else both_orders(fleiss),
        krippendorff=both_orders(lambda some, times: krippendorff(some, nominal, times)),
        krippendorff_ordinal=both_orders(lambda some, times: krippendorff(some, ordinal, times)),
        ceiling=_ceiling(strict),
    )
    return result.model_copy(update={"warnings": _warnings(result, ratings.repeated)})


def _ceiling(strict: Interval | None) -> Interval | None:
    """The ceiling of an agreement and of its interval's ends; an end below 1/2 counts as 1/2."""
    if strict is None or strict.estimate < 0.5:
        return None
    low, high = (ceiling(max(0.5, end)) for end in (strict.low, strict.high))
    return Interval(ceiling(strict.estimate), low, high, strict.n)


def _warnings(result: AgreementResult, repeated: int) -> list[str]:
    lines = []
    if result.items < FEW:
        lines.append(f"The intervals rest on {result.items} items: fewer than {FEW} make them unreliable.")
    if result.fleiss is None:
        lines.append(
            "Fleiss' kappa needs the same number of annotators for every item, and more than one category; "
            "Krippendorff's alpha does not."
        )
    if result.ceiling is None:
        lines.append("Annotators agree on fewer than half of the items without ties, so there is no ceiling.")
    if repeated:
        lines.append(f"{repeated} judgments are left out: the same annotator had judged the item before.")
    if len(result.pairs) == PAIRS:
        lines.append(f"Only the {PAIRS} pairs of annotators that share most items are listed.")
    return lines
