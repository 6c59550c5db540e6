"""Agreement of annotators beyond chance, and the ceiling that it sets for any model of their preferences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, MaybeInterval, Record
from accord.results.intervals import Interval, shown


class AnnotatorPair(Record):
    """Two annotators on the items that both judged."""

    a: str
    """The first annotator."""
    b: str
    """The second annotator."""
    items: int
    """Items that both judged."""
    agreement: Interval
    """The share of items on which they chose the same."""
    kappa: MaybeInterval = None
    """Cohen's kappa; None where both always chose the same single category."""


class AgreementResult(Evaluation):
    """Agreement over the items that two or more annotators judged; None where the data give no value."""

    kind: Literal["agreement"] = "agreement"
    data: str = ""
    """Where the judgments come from."""
    annotators: list[str]
    """The annotators."""
    items: int
    """Items that two or more of them judged."""
    pairs: list[AnnotatorPair] = []
    """Every two annotators who share items, most shared items first."""
    agreement: Interval
    """The mean over items of the share of pairs of annotators who agree."""
    strict: MaybeInterval = None
    """The same without ties, over the items that still have two judgments."""
    fleiss: MaybeInterval = None
    """Fleiss' kappa; None also where items have different numbers of annotators."""
    krippendorff: MaybeInterval = None
    """Krippendorff's nominal alpha."""
    krippendorff_ordinal: MaybeInterval = None
    """Krippendorff's alpha with ties halfway between first and second."""
    ceiling: MaybeInterval = None
    """The highest agreement with one annotator that a model can reach, from `strict`; None where that is below 1/2."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["pairs"]

    def tables(self) -> Iterator[Table]:
        """Agreement of all annotators, and of every two."""
        measures = {
            "agreement": self.agreement,
            "agreement without ties": self.strict,
            "Fleiss' kappa": self.fleiss,
            "Krippendorff's alpha": self.krippendorff,
            "the same, ties in the middle": self.krippendorff_ordinal,
            "ceiling": self.ceiling,
        }
        together = Table("annotators", f"{len(self.annotators)} on {self.items} items")
        for title, interval in measures.items():
            if interval:
                together.add_row(title, f"{interval}")
        yield together
        pairs = Table("annotators", "items", "agreement", "Cohen's kappa")
        for pair in self.pairs:
            pairs.add_row(f"{pair.a}, {pair.b}", str(pair.items), f"{pair.agreement}", shown(pair.kappa))
        yield pairs
