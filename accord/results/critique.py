"""Results of critique and revision by a constitution, revision by revision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from rich.markup import escape
from rich.table import Table

from accord.results.base import Evaluation, Intervals, MaybeInterval, Record, called
from accord.results.intervals import shown


class RevisionRow(Record):
    """The first answers, or all revisions of one number. After a faulty reply the previous answer stands."""

    number: int
    """The number of revisions behind these answers."""
    changed: int = 0
    """Revisions that differ from the answer they revise."""
    unchanged: int = 0
    """Revisions that repeat it."""
    faults: dict[str, int] = {}
    """Faulty replies by fault."""
    cut_critiques: int = 0
    """Critiques that were cut off, and still used."""
    words: MaybeInterval = None
    """Mean number of words per answer."""
    scores: Intervals = {}
    """The mean of each score."""
    gains: Intervals = {}
    """The mean difference of each score from the same prompt's first answer."""


class PrincipleRow(Record):
    """One principle of the constitution."""

    name: str
    """Its name."""
    drawn: int
    """The number of revisions it was drawn for."""
    gains: Intervals = {}
    """The mean difference of each score from the previous answer, over usable revisions by this principle."""


class Example(Record):
    """One prompt with all answers, critiques and faults."""

    prompt: str
    """The prompt."""
    answers: list[str]
    """The first answer and its revisions."""
    principles: list[str]
    """The principle of every revision."""
    critiques: list[str]
    """The critique before each revision."""
    faults: list[str]
    """The fault of the reply for each answer; empty for none."""


class CritiqueResult(Evaluation):
    """Answers that a model revised by a constitution, in numbers."""

    kind: Literal["critique"] = "critique"
    reads_chats: ClassVar[bool] = True
    model: str
    """The model that answered, criticized and revised."""
    constitution: str
    """The constitution."""
    principles: list[PrincipleRow]
    """The principles used."""
    is_direct: bool = False
    """Whether revisions were asked for without critiques."""
    prompts: int
    """Number of prompts."""
    demonstrations: int
    """Prompts whose last answer has no fault; each becomes a demonstration."""
    pairs: int
    """Of these, prompts whose first answer has no fault either and differs from the last, which is preferred."""
    compared: list[str] = []
    """Scores that are a judge's preference rate over the first answers."""
    revisions: list[RevisionRow]
    """The first answers, then every revision."""
    examples: list[Example] = []
    """Some of the prompts."""

    def tables(self) -> Iterator[Table]:
        """Faults, length and scores by revision; gains by principle."""
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
        """One row per revision."""
        return self.model_dump(mode="json")["revisions"]
