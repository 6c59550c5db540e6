"""`accord aggregate`: which of two completions is better, from several annotators who are not equally reliable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from accord import feedback
from accord.console import show, status
from accord.errors import InputError
from accord.evaluate.options import RowOptions, checked_by, takes
from accord.outputs import require_file, save_rows
from accord.records import Comparison, Verdict

if TYPE_CHECKING:
    from accord.evaluate.agreement import Ratings
    from accord.evaluate.annotators import Beliefs

By: TypeAlias = Literal["mean", "dawid-skene", "bradley-terry", "majority"]


def _check(data: str | None, annotators: Mapping[str, str] | None) -> None:
    from accord.evaluate.agreement import require_one

    require_one(data, annotators)


@takes(RowOptions)
@checked_by(_check)
def aggregate(
    out: str,
    *,
    data: str | None = None,
    annotators: dict[str, str] | None = None,
    by: Literal["dawid-skene", "bradley-terry", "majority"] = "dawid-skene",
    hard: bool = False,
    seed: int = 0,
    **options: Any,
) -> Beliefs:
    """Combine several annotators' judgments of the same comparisons into one preference each, with its probability.

    A row has chosen, the likelier of the two, rejected, and chosen_probability. Each annotator's reliability, estimated
    from how far annotators agree with each other, is printed with a 95% interval. Ties count half for majority; the
    other two models leave them out.

    Args:
        out: the JSONL file of preferences to write.
        data: a file or Hub name of judgments with a column that names the annotator (--columns.annotator worker), or a
            column for each annotator (--columns.label ann,bob). --columns.group names the column to group by.
        annotators: instead of --data, a file of judgments per annotator, as --annotators.ann first.jsonl.
        by: how to weigh annotators: dawid-skene (one completion is better, and each annotator has an error rate),
            bradley-terry (completions have scores, and each annotator follows them to some degree: CrowdBT), or
            majority (all count alike).
        hard: write the likelier side as certain, without chosen_probability, and leave out ties.
        seed: seed of the posterior samples that dawid-skene and bradley-terry average over.
        options: the fields of `RowOptions`.

    Raises:
        InputError: the options do not fit each other or the data, or nobody preferred any completion to another.
    """
    from accord.evaluate.agreement import rate_items, read_judged

    require_file(out, data, annotators, options)
    judged = read_judged(data, annotators or {}, RowOptions(**options))
    ratings = rate_items(judged)
    if (ratings.labels % 2 != 0).all():  # no label is 2 (the first is better) or 0 (the second is)
        raise InputError("every judgment is a tie, so nothing says which completion is better.")
    aggregated = _aggregated(ratings, by, seed)
    verdicts = [Verdict(p) for p in aggregated.beliefs.first_better.tolist()]
    rows, counts = feedback.people.labeled(ratings.items, verdicts, soft=not hard)
    if not rows:
        raise InputError("every comparison is even, so --hard leaves no row; leave it out.")
    save_rows(out, rows)
    even = "left out" if hard else "kept"
    status(
        f"aggregate: {len(rows)} preferences from {len(judged)} judgments by {len(ratings.annotators)} annotators; "
        f"{counts.ties} even, and {even}; {ratings.repeated} repeat an annotator's own, and are left out"
    )
    aggregated.show()
    return aggregated.beliefs


def combined(
    by_judge: Mapping[str, Sequence[Verdict]], comparisons: Sequence[Comparison], by: By, seed: int
) -> tuple[list[Verdict], Aggregation | None]:
    """Several judges' verdicts combined, and the fitted model if any; invalid where no judge's verdict is valid."""
    if len(by_judge) == 1:
        return list(next(iter(by_judge.values()))), None
    every = list(zip(*by_judge.values(), strict=True))
    mean = [feedback.judge.pooled(verdicts) for verdicts in every]
    if by == "mean":
        return mean, None
    import numpy as np

    from accord.evaluate.agreement import Ratings

    sides = [[-1 if v.first_wins is None else _side(v.first_wins) for v in verdicts] for verdicts in every]
    aggregated = _aggregated(Ratings(tuple(by_judge), np.array(sides), 0, tuple(comparisons)), by, seed)
    beliefs_of = zip(mean, aggregated.beliefs.first_better.tolist(), strict=True)
    return [one if one.first_wins is None else Verdict(p) for one, p in beliefs_of], aggregated


def _side(first_wins: float) -> int:
    """The index of the verdict's category in `accord.evaluate.agreement.CATEGORIES`."""
    return 1 + (first_wins > 0.5) - (first_wins < 0.5)


@dataclass(frozen=True)
class Aggregation:
    """The ratings of several annotators or judges, and the model fitted to them."""

    ratings: Ratings
    beliefs: Beliefs

    def show(self) -> None:
        """Print how reliable each annotator is."""
        from accord.evaluate.annotators import warnings_of

        show(*self.beliefs.tables())
        for line in warnings_of(self.ratings, self.beliefs):
            status(line)


def _aggregated(ratings: Ratings, by: By, seed: int) -> Aggregation:
    from accord.evaluate import annotators as models

    if by == "majority":
        return Aggregation(ratings, models.majority(ratings))
    rated = models.dawid_skene if by == "dawid-skene" else models.bradley_terry
    return Aggregation(ratings, rated(ratings, seed=seed))
