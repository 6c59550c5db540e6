"""An annotation project in numbers: progress, agreement, time and cost, and the most disputed items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.results.agreement import AgreementResult
from accord.results.base import Evaluation, Intervals, MaybeInterval, Record
from accord.results.intervals import Interval

TOO_FEW = "too few to tell"


class PersonRow(Record):
    """One annotator, or all of them; None where there are too few answers to tell."""

    name: str
    """The pseudonym, or "all"."""
    answers: int
    """Answers that count, including those to gold questions."""
    others: MaybeInterval = None
    """The share of the other annotators' verdicts (or ratings) on the same pairs (or items) that were the same."""
    gold: MaybeInterval = None
    """The share of verdicts or ratings on gold questions that were correct."""
    first: MaybeInterval = None
    """The share of decided verdicts for the answer shown first; 1/2 without an order bias."""
    ties: MaybeInterval = None
    """The share of verdicts that were ties."""
    flags: MaybeInterval = None
    """The share of answers that were flags."""
    seconds: float | None = None
    """Median seconds per item."""
    hourly: float | None = None
    """Answers per hour of time on task."""

    def cells(self) -> dict[str, str]:
        """The row of a table, by column title, with shares in percent."""
        verdicts = (self.others, self.gold, self.first, self.ties)
        shares = [f"{share:.0%}" if share else TOO_FEW for share in (*verdicts, self.flags)]
        speed = [TOO_FEW if value is None else f"{value:,.0f}" for value in (self.seconds, self.hourly)]
        heads = ("", "answers", *OF_VERDICTS, "flags", "median s", "an hour")
        return dict(zip(heads, (self.name, f"{self.answers:,}", *shares, *speed), strict=True))


OF_ORDER = ("for what was first", "ties")
"""Columns that apply only where answers are compared."""

OF_VERDICTS = ("agrees with others", "right on gold", *OF_ORDER)
"""Columns that apply where answers are compared or rated."""


class Disputed(Record):
    """An item that annotators disagree on."""

    item: int
    """Its number in the project."""
    key: str
    """Its id, or another identifier."""
    agreement: float
    """The share of pairs of its verdicts that agree."""
    people: int
    """Number of annotators."""


class PeopleResult(Evaluation):
    """One task of an annotation project."""

    kind: Literal["people"] = "people"
    task: str
    """The task."""
    answers: int
    """Answers that count, without gold questions."""
    asked: int
    """Answers that all items need."""
    hours: float
    """Time on task of all answers, including gold questions."""
    hourly_cost: float | None = None
    """The cost per hour, if given."""
    agreement: AgreementResult | None = None
    """Agreement on comparisons and rankings, as pairs; None with fewer than 20 items judged by two people."""
    scales: Intervals = {}
    """Krippendorff's interval alpha by rating scale, with 20 items or more rated by two people."""
    people: list[PersonRow] = []
    """One row per annotator, and one for all where there are several."""
    disputed: list[Disputed] = []
    """The most disputed items."""

    @property
    def cost(self) -> float | None:
        """The cost of the time on task."""
        return None if self.hourly_cost is None else self.hours * self.hourly_cost

    def measures(self) -> dict[str, str]:
        """Time, cost and agreement, by title."""
        agreement = self.agreement
        pairs = agreement.pairs if agreement and len(agreement.annotators) == 2 else []
        named: dict[str, Interval | None] = {f"alpha of {scale}": alpha for scale, alpha in self.scales.items()}
        if agreement is not None:
            named["agreement"] = agreement.agreement
            named["Cohen's kappa"] = pairs[0].kappa if pairs else None
            named["Fleiss' kappa"] = agreement.fleiss
            named["Krippendorff's alpha"] = agreement.krippendorff
        shown = {name: f"{interval:.2f}" for name, interval in named.items() if interval}
        if not shown and self.task in ("compare", "rank", "rate"):
            shown = {"agreement": TOO_FEW}
        cost = {} if self.cost is None else {"cost": f"{self.cost:,.2f}"}
        return {"hours on task": f"{self.hours:,.2f}", **cost, **shown}

    @property
    def compares(self) -> bool:
        """Whether annotators say which answer is better, so that there are verdicts."""
        return self.task in ("compare", "rank")

    def rows(self) -> list[dict[str, str]]:
        """The table of annotators, without columns that do not apply to the task or lack gold questions."""
        absent = set() if self.compares else {*OF_ORDER} if self.task == "rate" else {*OF_VERDICTS}
        if sum(person.answers for person in self.people if person.name != "all") == self.answers:
            absent |= {"right on gold"}
        return [{head: cell for head, cell in person.cells().items() if head not in absent} for person in self.people]

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["people"]

    def tables(self) -> Iterator[Table]:
        """Totals, annotators, and the most disputed items."""
        together = Table(self.task, f"{self.answers:,} of {self.asked:,} answers")
        for name, value in self.measures().items():
            together.add_row(name, value)
        yield together
        rows = self.rows()
        heads = [*rows[0]][1:] if rows else []
        for some in (heads[:4], heads[4:]):  # all columns at once are too wide for a narrow terminal
            people = Table("", *some)
            for cells in rows:
                people.add_row(cells[""], *(cells[head] for head in some))
            if some:
                yield people
        if self.disputed:
            disputed = Table("most disagreed on", "people", "agreement")
            for one in self.disputed:
                disputed.add_row(one.key, str(one.people), f"{one.agreement:.0%}")
            yield disputed
