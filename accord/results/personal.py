"""How well reward and preference models know users by a few of their choices: by k, by group, beside the best."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from rich.table import Table

from accord.results.base import Interval, MaybeInterval, Record
from accord.results.by_choices import ByChoices
from accord.results.comparisons import Part


class GivenChoices(Record):
    """What a model makes of users' questions, given k of their choices."""

    k: int
    """How many choices it is given."""
    accuracy: Interval
    """The mean over users of the share of their questions that it answers as they did; the interval is over users."""
    log_loss: MaybeInterval = None
    """The mean over users of -log P(what the user chose), in nats; None where the model gives no probability."""
    groups: list[Part] = []
    """The accuracy on each group of users, the lowest first; none where users are of one group."""

    @property
    def worst(self) -> Part | None:
        """The group with the lowest accuracy."""
        return self.groups[0] if self.groups else None


class PersonalAccuracy(Record):
    """A model on trial, or a yardstick."""

    name: str
    """What it is called."""
    how: Literal["pooled", "own head", "reads choices", "Bayes", "oracle"]
    """Pooled models take all users to be alike; an own head is fitted on a user's choices; Bayes knows the world's
    tastes and how frequent each is, and the oracle knows the user's."""
    given: list[GivenChoices]
    """By the number of choices; what does not depend on them is measured once, at 0."""


class PersonalResult(ByChoices):
    """Reward and preference models on the choices of users whom they were not trained on."""

    measure: ClassVar[str] = "accuracy"
    called: ClassVar[tuple[str, ...]] = ("name", "how")

    kind: Literal["personal"] = "personal"
    data: str = ""
    """Where the choices come from."""
    users: int
    """How many users there are."""
    questions: int
    """Choices that are asked about, over all users; they are the same for every k."""
    models: list[PersonalAccuracy]
    """What was measured, in the order that was asked for, and then the yardsticks."""

    def tables(self) -> Iterator[Table]:
        """Accuracy by k; then by group, where there are several."""
        grid = Table("accuracy", "", *(f"k = {k}" for k in self.ks))
        for model in self.models:
            found = {given.k: f"{given.accuracy}" for given in model.given}
            grid.add_row(model.name, model.how, *(found.get(k, "") for k in self.ks))
        yield grid
        yield from self._by_group()
