"""A judge beside people: how often it agrees with them, and what else than the answers decides its verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.console import legible
from accord.results.base import Evaluation, Interval, MaybeInterval, Name, shown
from accord.results.comparisons import Part


class JudgeResult(Evaluation):
    """A judge on comparisons that people judged; None for what the data or the judge give no value."""

    kind: Literal["judge"] = "judge"
    name: Name
    """Who judges."""
    data: str = ""
    """Where people's judgments come from."""
    pairs: int
    """Comparisons that the judge was asked."""
    agreement: Interval
    """How often it prefers what people preferred, a tie of its own counted half; without people's ties."""
    by_source: list[Part] = []
    """The agreement by where judgments come from."""
    by_length: list[Part] = []
    """The agreement by how many characters longer the answer is that people preferred."""
    ties: int = 0
    """Its own ties."""
    labeled_ties: int = 0
    """People's ties."""
    invalid: Interval
    """The share of comparisons without a valid verdict."""
    faults: dict[str, int] = {}
    """How many those are by what is wrong, the most frequent first."""
    first_wins: MaybeInterval = None
    """How often whichever answer stands first wins, of both orders; None for who cannot tell them apart."""
    order_bias: MaybeInterval = None
    """What standing first adds to the log-odds, on average, where they are finite in both orders."""
    inconsistent: MaybeInterval = None
    """How often the two orders have different winners."""
    longer: MaybeInterval = None
    """How often it prefers the longer answer."""
    people_longer: MaybeInterval = None
    """How often people do, on the same comparisons."""
    longer_more: MaybeInterval = None
    """By how much it does more often than they."""
    length_slope: MaybeInterval = None
    """What an answer twice as long has added to its log-odds, given what people preferred."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        parts = [Part(label="all", accuracy=self.agreement), *self.by_source, *self.by_length]
        return [part.model_dump(mode="json") for part in parts]

    def measures(self) -> dict[str, tuple[Interval | None, float]]:
        """What besides the answers decides, by what it is called, and what each would be if nothing did."""
        neutral = self.people_longer.estimate if self.people_longer else 0.5
        return {
            "the answer that stands first wins": (self.first_wins, 0.5),
            "log-odds that standing first adds": (self.order_bias, 0.0),
            "other winner in the other order": (self.inconsistent, 0.0),
            "the longer answer wins": (self.longer, neutral),
            "of people it does": (self.people_longer, neutral),
            "the difference": (self.longer_more, 0.0),
            "log-odds that twice the length adds": (self.length_slope, 0.0),
            "no valid verdict": (self.invalid, 0.0),
        }

    def tables(self) -> Iterator[Table]:
        """The agreement, all together and in parts; and what else decides."""
        agreement = Table(legible(self.name), "", "agrees with people", "pairs")
        agreement.add_row("all", "", f"{self.agreement}", str(self.agreement.n))
        for title, parts in (("by source", self.by_source), ("preferred is longer by", self.by_length)):
            for i, part in enumerate(parts):
                label = legible(part.label)
                agreement.add_row("" if i else title, label, f"{part.accuracy}", str(part.accuracy.n))
        yield agreement
        biases = Table("what else decides", "", "without it")
        for title, (interval, neutral) in self.measures().items():
            if interval:
                biases.add_row(title, shown(interval), f"{neutral:.3g}")
        for kind, count in self.faults.items():
            biases.add_row(f"invalid: {legible(kind)}", str(count), "0")
        yield biases
