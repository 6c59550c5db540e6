"""What methods earn for the distance they go, over their coefficients, and what best of n does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, Interval, MaybeInterval, Name, Record


class FrontierPoint(Record):
    """A finished model."""

    name: str
    """What it is called."""
    coefficient: float | None = None
    """What a nat of divergence cost it in training, or its method's other coefficient, where that is known."""
    kl: Interval
    """KL(model || reference) in nats a completion."""
    score: Interval
    """The judge's mean score of its answers."""


class Family(Record):
    """Models of one method that differ by a coefficient."""

    name: str
    """The method."""
    points: list[FrontierPoint] = []
    """The models, the nearest to the reference first."""


class BestOfNPoint(Record):
    """The best of n answers of the reference."""

    n: int
    """Answers of which one is chosen."""
    kl_bound: float
    """log n - (n - 1) / n, which its divergence never passes."""
    kl: MaybeInterval = None
    """That less what ties among the rewards take off it."""
    score: Interval
    """The judge's mean score of what is chosen."""


class FrontierResult(Evaluation):
    """Score and divergence of finished models on held-out prompts."""

    kind: Literal["frontier"] = "frontier"
    judge: Name = ""
    """What scored the answers."""
    reference: str = ""
    """The model that divergence is measured from."""
    prompts: int | None = None
    """Prompts that all answered."""
    families: list[Family]
    """The reference, at distance 0, and every method."""
    best_of_n: list[BestOfNPoint] = []
    """The best of 1, 2, 3, 4, 6, ... answers of the reference, where asked for."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        families = self.model_dump(mode="json")["families"]
        return [point | {"family": family["name"]} for family in families for point in family["points"]]

    def tables(self) -> Iterator[Table]:
        """The points, method after method."""
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
