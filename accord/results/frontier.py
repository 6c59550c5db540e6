"""Score against divergence of finished models across their coefficients, and of best-of-n sampling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from rich.table import Table

from accord.results.base import Evaluation, MaybeInterval, Name, Record
from accord.results.intervals import Interval


class FrontierPoint(Record):
    """A finished model."""

    name: str
    """Its name."""
    coefficient: float | None = None
    """The KL coefficient it was trained with, or its method's other coefficient, where known."""
    kl: Interval
    """KL(model || reference) in nats per completion."""
    score: Interval
    """The judge's mean score of its answers."""


class Family(Record):
    """Models of one method that differ in a coefficient."""

    name: str
    """The method."""
    points: list[FrontierPoint] = []
    """The models, nearest to the reference first."""


class BestOfNPoint(Record):
    """Best-of-n sampling from the reference."""

    n: int
    """Answers drawn per prompt."""
    kl_bound: float
    """log n - (n - 1) / n, an upper bound of its divergence."""
    kl: MaybeInterval = None
    """The bound minus the effect of ties among the rewards."""
    score: Interval
    """The judge's mean score of the chosen answers."""


class FrontierResult(Evaluation):
    """Score and divergence of finished models on held-out prompts."""

    kind: Literal["frontier"] = "frontier"
    reads_chats: ClassVar[bool] = True
    judge: Name = ""
    """The reward that scored the answers."""
    reference: str = ""
    """The model from which divergence is measured."""
    prompts: int | None = None
    """Prompts answered by all models."""
    families: list[Family]
    """The reference, at distance 0, and every method."""
    best_of_n: list[BestOfNPoint] = []
    """Best of 1, 2, 3, 4, 6, ... answers of the reference, if asked for."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        families = self.model_dump(mode="json")["families"]
        return [point | {"family": family["name"]} for family in families for point in family["points"]]

    def tables(self) -> Iterator[Table]:
        """The points, method by method."""
        title = f"score by {self.judge}, divergence from {self.reference}"
        grid = Table("method", "coefficient", "d", "KL", "score", title=title)
        for family in self.families:
            for p in family.points:
                coefficient = "" if p.coefficient is None else f"{p.coefficient:g}"
                distance = max(p.kl.estimate, 0.0) ** 0.5
                grid.add_row(family.name, coefficient, f"{distance:.2f}", f"{p.kl}", f"{p.score}")
        for b in self.best_of_n:
            kl = b.kl.estimate if b.kl else b.kl_bound
            grid.add_row(f"best of {b.n}", "", f"{kl**0.5:.2f}", f"{kl:.2f} <= {b.kl_bound:.2f}", f"{b.score}")
        yield grid
