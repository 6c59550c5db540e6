"""What came of having a model criticize and revise its answers by a constitution, revision by revision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from accord.results.base import Evaluation, Intervals, MaybeInterval, Record, called, shown


class RevisionRow(Record):
    """The first answers, or all revisions of one number. Where a reply had a fault, the answer before it stands."""

    number: int
    """How many revisions lie behind them."""
    changed: int = 0
    """Revisions that differ from what they revise."""
    unchanged: int = 0
    """Revisions that say the same again."""
    faults: dict[str, int] = {}
    """Replies by what was wrong with them."""
    cut_critiques: int = 0
    """Critiques that were cut off, and used all the same."""
    words: MaybeInterval = None
    """Words of an answer on average."""
    scores: Intervals = {}
    """The mean of each score."""
    gains: Intervals = {}
    """The mean difference of each score to that of the same prompt's first answer."""


class PrincipleRow(Record):
    """One principle of the constitution."""

    name: str
    """What it is called."""
    drawn: int
    """For how many revisions it was drawn."""
    gains: Intervals = {}
    """The mean difference of each score to that of the answer before, over revisions by it that could be used."""


class Example(Record):
    """One prompt with all that was said."""

    prompt: str
    """The prompt."""
    answers: list[str]
    """The first answer and its revisions."""
    principles: list[str]
    """The principle of every revision."""
    critiques: list[str]
    """What was said before it."""
    faults: list[str]
    """What was wrong with the reply for each answer, empty where nothing was."""


class CritiqueResult(Evaluation):
    """Answers that a model revised by a constitution, in numbers."""

    kind: Literal["critique"] = "critique"
    model: str
    """Who answered, criticized and revised."""
    constitution: str
    """The constitution."""
    principles: list[PrincipleRow]
    """Its principles, as many as were used."""
    is_direct: bool = False
    """Whether revisions were asked for without critiques."""
    prompts: int
    """Prompts."""
    demonstrations: int
    """Prompts whose last answer had no fault, and is a demonstration."""
    pairs: int
    """Of these, those whose first answer had none either and differs from the last, which is preferred to it."""
    compared: list[str] = []
    """The scores that are the share of answers that a judge prefers to the first."""
    revisions: list[RevisionRow]
    """The first answers, then every revision."""
    examples: list[Example] = []
    """Some of the prompts."""

    def tables(self) -> Iterator[Table]:
        """Every revision's faults, length and scores; what revisions by each principle gained."""
        names = list(self.revisions[0].scores)
        heads = [head for name in names for head in (escape(called(name)), "over the first")]
        grid = Table("revision", "changed", "unchanged", "with a fault", "words", *heads)
        for row in self.revisions:
            faults = ", ".join(f"{count:,} {fault}" for fault, count in row.faults.items())
            cells = [shown(of.get(name)) for name in names for of in (row.scores, row.gains)]
            counts = (f"{row.changed:,}", f"{row.unchanged:,}") if row.number else ("", "")
            grid.add_row(str(row.number), *counts, faults, shown(row.words, ".1f"), *cells)
        yield grid
        drawn = Table("principle", "revisions", *(f"{escape(called(name))}, a revision" for name in names))
        for one in self.principles:
            drawn.add_row(escape(one.name), f"{one.drawn:,}", *(shown(one.gains.get(name), "+.3f") for name in names))
        yield drawn

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        """A row a revision."""
        return self.model_dump(mode="json")["revisions"]
