"""How users like what policies answer them, given k of their choices: win rates by k and by group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from rich.table import Table

from accord.results.base import Interval, Name, Record
from accord.results.by_choices import ByChoices
from accord.results.models import Drawing


class GroupWins(Record):
    """How users of one group like the answers."""

    label: str
    """What the group is called."""
    win_rate: Interval
    """The mean over its users of how often the answers win."""


class GivenWins(Record):
    """A policy's answers to users' questions, given k of their choices, against those of the opponent, given none."""

    k: int
    """How many choices it is given."""
    win_rate: Interval
    """The mean over users of the judge's probability that the answer wins, over their questions; the interval is over
    users."""
    groups: list[GroupWins] = []
    """The same for each group of users, the lowest first; none where users are of one group."""
    characters: float
    """The mean length of its answers in characters."""
    invalid: int = 0
    """Questions left out since the judge's verdict could not be used."""

    @property
    def worst(self) -> GroupWins | None:
        """The group with the lowest win rate."""
        return self.groups[0] if self.groups else None


class Answerer(Record):
    """Who answers."""

    name: str
    """What it is called."""
    how: Literal["policy", "best of n"]
    """A policy; or of n answers of one, the opponent given no choices and others k, that which a reward or preference
    model chooses that is given k, or that the user's own judge likes best."""
    given: list[GivenWins]
    """By the number of choices; what reads none is measured once, at 0."""


class UsersResult(ByChoices):
    """Policies that answer users whom they were not trained on."""

    measure: ClassVar[str] = "win_rate"
    called: ClassVar[tuple[str, ...]] = ("name",)

    kind: Literal["users"] = "users"
    data: str = ""
    """Where the users' choices and questions come from."""
    judge: Name = ""
    """Whose verdicts the win rates are."""
    against: str
    """Whose answers, given no choices, all others are compared with."""
    users: int
    """How many users there are."""
    questions: int
    """How many are asked, over all users; they are the same for every model and k."""
    models: list[Answerer]
    """In the order in which they were named, and then the best of n."""
    sampling: Drawing | None = None
    """How answers were drawn."""

    def tables(self) -> Iterator[Table]:
        """Win rates by k; then by group, where there are several."""
        grid = Table(f"wins over {self.against}", *(f"k = {k}" for k in self.ks), "characters")
        for model in self.models:
            found = {given.k: f"{given.win_rate}" for given in model.given}
            grid.add_row(model.name, *(found.get(k, "") for k in self.ks), f"{model.given[-1].characters:.0f}")
        yield grid
        yield from self._by_group()
