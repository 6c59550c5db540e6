"""Evaluation of a judge against people: agreement, and its biases by order and length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from rich.table import Table

from accord.console import legible
from accord.results.base import Evaluation, MaybeInterval, Name
from accord.results.comparisons import Part
from accord.results.intervals import Interval, shown


class JudgeResult(Evaluation):
    """A judge on comparisons that people judged; None where the data or the judge give no value."""

    kind: Literal["judge"] = "judge"
    reads_chats: ClassVar[bool] = True
    name: Name
    """The judge."""
    data: str = ""
    """The source of people's judgments."""
    pairs: int
    """Comparisons put to the judge."""
    agreement: Interval
    """How often it prefers what people preferred; its own ties count half, people's ties are left out."""
    by_source: list[Part] = []
    """Agreement by source of the judgment."""
    by_length: list[Part] = []
    """Agreement by how many characters longer the preferred answer is."""
    ties: int = 0
    """The judge's ties."""
    labeled_ties: int = 0
    """People's ties."""
    invalid: Interval
    """The share of comparisons without a valid verdict."""
    faults: dict[str, int] = {}
    """Invalid verdicts by fault, most frequent first."""
    first_wins: MaybeInterval = None
    """How often the answer shown first wins, over both orders; None for a judge that is not shown an order."""
    order_bias: MaybeInterval = None
    """The mean log-odds that being shown first adds, over pairs with finite log-odds in both orders."""
    inconsistent: MaybeInterval = None
    """How often the two orders have different winners."""
    longer: MaybeInterval = None
    """How often it prefers the longer answer."""
    people_longer: MaybeInterval = None
    """How often people do, on the same comparisons."""
    longer_more: MaybeInterval = None
    """The difference between the two."""
    length_slope: MaybeInterval = None
    """The log-odds added by doubling an answer's length, given what people preferred."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        parts = [Part(label="all", accuracy=self.agreement), *self.by_source, *self.by_length]
        return [part.model_dump(mode="json") for part in parts]

    def measures(self) -> dict[str, tuple[Interval | None, float]]:
        """Bias measures by title, each with its value for an unbiased judge."""
        neutral = self.people_longer.estimate if self.people_longer else 0.5
        return {
            "first answer wins": (self.first_wins, 0.5),
            "log-odds of being first": (self.order_bias, 0.0),
            "winner depends on order": (self.inconsistent, 0.0),
            "longer answer wins": (self.longer, neutral),
            "the same for people": (self.people_longer, neutral),
            "judge minus people": (self.longer_more, 0.0),
            "log-odds of twice the length": (self.length_slope, 0.0),
            "no valid verdict": (self.invalid, 0.0),
        }

    def tables(self) -> Iterator[Table]:
        """The agreement, overall and in parts, and the biases."""
        agreement = Table(legible(self.name), "", "agrees with people", "pairs")
        agreement.add_row("all", "", f"{self.agreement}", str(self.agreement.n))
        for title, parts in (("by source", self.by_source), ("preferred is longer by", self.by_length)):
            for i, part in enumerate(parts):
                label = legible(part.label)
                agreement.add_row("" if i else title, label, f"{part.accuracy}", str(part.accuracy.n))
        yield agreement
        biases = Table("biases", "", "unbiased")
        for title, (interval, neutral) in self.measures().items():
            if interval:
                biases.add_row(title, shown(interval), f"{neutral:.3g}")
        for kind, count in self.faults.items():
            biases.add_row(f"invalid: {legible(kind)}", str(count), "0")
        yield biases
