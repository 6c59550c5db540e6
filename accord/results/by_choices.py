"""Base of results by model and number of a user's choices given: rows, and a table by group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rich.table import Table

from accord.results.base import Evaluation


class ByChoices(Evaluation):
    """Models, each measured `given` k of users' choices, for several k."""

    measure: ClassVar[str]
    """The field that holds the measurement, both overall and per group."""
    called: ClassVar[tuple[str, ...]]
    """The fields that identify a model in a table."""

    if TYPE_CHECKING:
        models: Sequence[Any]

    @property
    def ks(self) -> list[int]:
        """The numbers of choices."""
        return sorted({given.k for model in self.models for given in model.given})

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        for model in self.models:
            for given in model.given:
                yield {"name": model.name, "how": model.how, **given.model_dump(mode="json")}

    def _by_group(self) -> Iterator[Table]:
        """A table by group of users, where there are several."""
        if not any(given.groups for model in self.models for given in model.given):
            return
        grid = Table("of users", *[""] * len(self.called), *(f"k = {k}" for k in self.ks))
        for model in self.models:
            parts = [(given.k, part) for given in model.given for part in given.groups]
            estimates = {(part.label, k): getattr(part, self.measure) for k, part in parts}
            for i, group in enumerate(sorted({label for label, _ in estimates})):
                names = ("" if i else getattr(model, field) for field in self.called)
                cells = (f"{estimates[group, k]:.2f}" if (group, k) in estimates else "" for k in self.ks)
                grid.add_row(*names, group, *cells)
        yield grid
