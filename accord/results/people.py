"""What people have answered: how far they are, how far they agree, how long it took, and what they disagree on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.results.agreement import AgreementResult
from accord.results.base import Evaluation, Interval, Intervals, MaybeInterval, Record

TOO_FEW = "too few to tell"


class PersonRow(Record):
    """One annotator, or all of them; None for what too few answers tell."""

    name: str
    """The pseudonym, or "all"."""
    answers: int
    """Answers that count, those to gold questions among them."""
    others: MaybeInterval = None
    """The share of the others' verdicts on the same pairs, or of their numbers on a scale, that were the same."""
    gold: MaybeInterval = None
    """The share of verdicts on gold questions, or of numbers, that were right."""
    first: MaybeInterval = None
    """The share of decided verdicts that were for what was shown first; 1/2 without a bias of order."""
    ties: MaybeInterval = None
    """The share of verdicts that were ties."""
    flags: MaybeInterval = None
    """The share of answers that were flags."""
    seconds: float | None = None
    """The median on an item."""
    hourly: float | None = None
    """Answers in an hour of time on task."""

    def cells(self) -> dict[str, str]:
        """As a row of a table, by the heads of its columns, shares in percent."""
        verdicts = (self.others, self.gold, self.first, self.ties)
        shares = [f"{share:.0%}" if share else TOO_FEW for share in (*verdicts, self.flags)]
        speed = [TOO_FEW if value is None else f"{value:,.0f}" for value in (self.seconds, self.hourly)]
        heads = ("", "answers", *OF_VERDICTS, "flags", "median s", "an hour")
        return dict(zip(heads, (self.name, f"{self.answers:,}", *shares, *speed), strict=True))


OF_ORDER = ("for what was first", "ties")
"""What means something where answers are compared alone."""

OF_VERDICTS = ("agrees with others", "right on gold", *OF_ORDER)
"""What means something where answers are compared or rated."""


class Disputed(Record):
    """An item that people disagree on."""

    item: int
    """Its number in the project."""
    key: str
    """Its id, or what it is known by."""
    agreement: float
    """The share of pairs of its verdicts that are the same."""
    people: int
    """How many answered."""


class PeopleResult(Evaluation):
    """One task of a project of annotation."""

    kind: Literal["people"] = "people"
    task: str
    """What was asked."""
    answers: int
    """Answers that count, gold questions aside."""
    asked: int
    """Answers that all items take."""
    hours: float
    """The time on task of all answers, those to gold questions among them."""
    hourly_cost: float | None = None
    """What an hour costs, where that is said."""
    agreement: AgreementResult | None = None
    """Of comparisons and rankings, as pairs; None with fewer than 20 items that two judged."""
    scales: Intervals = {}
    """Of ratings, Krippendorff's interval alpha by scale, of 20 items or more that two rated."""
    people: list[PersonRow] = []
    """Each of them, and all together last where there are several."""
    disputed: list[Disputed] = []
    """What they disagree on most."""

    @property
    def cost(self) -> float | None:
        """What the time on task costs."""
        return None if self.hourly_cost is None else self.hours * self.hourly_cost

    def measures(self) -> dict[str, str]:
        """The time, and the agreement of all, by what it is called."""
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
        """Whether people say which answer is better, so that there are verdicts."""
        return self.task in ("compare", "rank")

    def rows(self) -> list[dict[str, str]]:
        """The table of people: what means something for the task, and of gold where somebody was asked such."""
        absent = set() if self.compares else {*OF_ORDER} if self.task == "rate" else {*OF_VERDICTS}
        if sum(person.answers for person in self.people if person.name != "all") == self.answers:
            absent |= {"right on gold"}
        return [{head: cell for head, cell in person.cells().items() if head not in absent} for person in self.people]

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["people"]

    def tables(self) -> Iterator[Table]:
        """All together, each of them, and what they disagree on."""
        together = Table(self.task, f"{self.answers:,} of {self.asked:,} answers")
        for name, value in self.measures().items():
            together.add_row(name, value)
        yield together
        rows = self.rows()
        heads = [*rows[0]][1:] if rows else []
        for some in (heads[:4], heads[4:]):  # all at once are too many for a narrow terminal
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
