"""How far annotators agree beyond chance, and the ceiling that this sets for any model of their preferences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, Interval, MaybeInterval, Record, shown


class AnnotatorPair(Record):
    """Two annotators on the items that both judged."""

    a: str
    """One of them."""
    b: str
    """The other."""
    items: int
    """Items that both judged."""
    agreement: Interval
    """How often they chose the same."""
    kappa: MaybeInterval = None
    """Cohen's kappa; None where both always chose one and the same category."""


class AgreementResult(Evaluation):
    """All annotators together, over the items that two or more judged; None for what the data give no value."""

    kind: Literal["agreement"] = "agreement"
    data: str = ""
    """Where the judgments come from."""
    annotators: list[str]
    """Who judged."""
    items: int
    """Items that two or more of them judged."""
    pairs: list[AnnotatorPair] = []
    """Every two annotators who share items, those who share the most first."""
    agreement: Interval
    """The mean over items of the share of pairs of annotators who agree."""
    strict: MaybeInterval = None
    """The same without the judgments that are ties, of the items that still have two."""
    fleiss: MaybeInterval = None
    """Fleiss' kappa; None where items have different numbers of annotators, too."""
    krippendorff: MaybeInterval = None
    """Krippendorff's nominal alpha."""
    krippendorff_ordinal: MaybeInterval = None
    """Krippendorff's alpha with ties halfway between the first and the second."""
    ceiling: MaybeInterval = None
    """The most that any model can agree with one of them, by `strict`; None where that is below 1/2."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["pairs"]

    def tables(self) -> Iterator[Table]:
        """All annotators together, and every two."""
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
