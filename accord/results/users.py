"""Personalization of policies by a few of a user's choices: win rates of their answers by k and by group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from rich.table import Table

from accord.results.base import Name, Record
from accord.results.by_choices import ByChoices
from accord.results.intervals import Interval
from accord.results.models import Drawing


class GroupWins(Record):
    """The win rate among users of one group."""

    label: str
    """The group."""
    win_rate: Interval
    """The mean of its users' win rates."""


class GivenWins(Record):
    """A policy's answers given k of the user's choices, against the opponent's, given none."""

    k: int
    """Number of choices given."""
    win_rate: Interval
    """The mean over users of the judge's probability that the answer wins, over their questions; the interval is over
    users."""
    groups: list[GroupWins] = []
    """The same by group of users, lowest first; empty where there is one group."""
    characters: float
    """The mean length of its answers in characters."""
    invalid: int = 0
    """Questions left out for lack of a valid verdict."""

    @property
    def worst(self) -> GroupWins | None:
        """The group with the lowest win rate."""
        return self.groups[0] if self.groups else None


class Answerer(Record):
    """A model that answers."""

    name: str
    """Its name."""
    how: Literal["policy", "best of n"]
    """A policy; or best of n from a policy given no choices (the opponent) or k (others), chosen by a reward or
    preference model that is given k, or by the user's own judge."""
    given: list[GivenWins]
    """By number of choices; a model that does not use them is measured once, at 0."""


class UsersResult(ByChoices):
    """Policies that answer users they were not trained on."""

    measure: ClassVar[str] = "win_rate"
    called: ClassVar[tuple[str, ...]] = ("name",)

    kind: Literal["users"] = "users"
    reads_chats: ClassVar[bool] = True
    data: str = ""
    """The source of the users' choices and questions."""
    judge: Name = ""
    """The judge of the win rates."""
    against: str
    """The opponent, given no choices, that all others are compared with."""
    users: int
    """Number of users."""
    questions: int
    """Number of questions, over all users; the same for every model and k."""
    models: list[Answerer]
    """In the order given, then best of n."""
    sampling: Drawing | None = None
    """How answers were sampled."""

    def tables(self) -> Iterator[Table]:
        """Win rates by k, then by group, where there are several."""
        grid = Table(f"wins over {self.against}", *(f"k = {k}" for k in self.ks), "characters")
        for model in self.models:
            cells = {given.k: f"{given.win_rate}" for given in model.given}
            grid.add_row(model.name, *(cells.get(k, "") for k in self.ks), f"{model.given[-1].characters:.0f}")
        yield grid
        yield from self._by_group()
