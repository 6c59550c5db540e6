"""Personalization of reward and preference models by a few of a user's choices: accuracy by k and by group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from rich.table import Table

from accord.results.base import MaybeInterval, Record
from accord.results.by_choices import ByChoices
from accord.results.comparisons import Part
from accord.results.intervals import Interval


class GivenChoices(Record):
    """A model's accuracy on users' questions, given k of their choices."""

    k: int
    """Number of choices given."""
    accuracy: Interval
    """The mean over users of the share of their questions on which the model agrees; the interval is over users."""
    log_loss: MaybeInterval = None
    """The mean over users of -log P(the user's choice), in nats; None where the model gives no probability."""
    groups: list[Part] = []
    """The accuracy by group of users, lowest first; empty where there is one group."""

    @property
    def worst(self) -> Part | None:
        """The group with the lowest accuracy."""
        return self.groups[0] if self.groups else None


class PersonalAccuracy(Record):
    """An evaluated model, or a yardstick."""

    name: str
    """Its name."""
    how: Literal["pooled", "own head", "reads choices", "Bayes", "oracle"]
    """Pooled models treat all users alike; an own head is fitted on a user's choices; Bayes knows the world's tastes
    and their frequencies, and the oracle knows the user's taste."""
    given: list[GivenChoices]
    """By number of choices; a model that does not use them is measured once, at 0."""


class PersonalResult(ByChoices):
    """Reward and preference models on choices of users they were not trained on."""

    measure: ClassVar[str] = "accuracy"
    called: ClassVar[tuple[str, ...]] = ("name", "how")

    kind: Literal["personal"] = "personal"
    reads_chats: ClassVar[bool] = True
    data: str = ""
    """The source of the choices."""
    users: int
    """Number of users."""
    questions: int
    """Number of choices asked about, over all users; the same for every k."""
    models: list[PersonalAccuracy]
    """The models in the order given, then the yardsticks."""

    def tables(self) -> Iterator[Table]:
        """Accuracy by k, then by group, where there are several."""
        grid = Table("accuracy", "", *(f"k = {k}" for k in self.ks))
        for model in self.models:
            cells = {given.k: f"{given.accuracy}" for given in model.given}
            grid.add_row(model.name, model.how, *(cells.get(k, "") for k in self.ks))
        yield grid
        yield from self._by_group()
