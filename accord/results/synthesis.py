"""What came of having a model make instructions: what each filter rejected, how new and how varied the rest is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, Interval, MaybeInterval, Record, shown, wilson


class FilterRow(Record):
    """One filter."""

    name: str
    """What the filter is called in candidates.jsonl."""
    what: str
    """What it rejects."""
    instructions: int
    """Proposed instructions that it rejected: each counts for the first filter that it fails."""
    share: MaybeInterval = None
    """Their share of all that were proposed."""
    instances: int = 0
    """Instances that it took away, of instructions that were rejected or kept."""


class Lengths(Record):
    """Lengths of texts in words."""

    mean: float
    """The mean."""
    low: float
    """A tenth are shorter."""
    median: float
    """A half are shorter."""
    high: float
    """A tenth are longer."""


class Opening(Record):
    """The instructions that begin with one word."""

    word: str
    """The word."""
    count: int
    """How many begin with it."""
    objects: dict[str, int] = {}
    """The most frequent of what follows it, by the rule of `accord.synthesis.statistics.opening`."""


class Example(Record):
    """One accepted task."""

    instruction: str
    """The instruction."""
    input: str = ""
    """Its first input, empty where it has none."""
    output: str = ""
    """The output."""
    novelty: float
    """Its highest ROUGE-L to a seed."""


class SynthesisResult(Evaluation):
    """Instructions that a model made, in numbers."""

    kind: Literal["synthesis"] = "synthesis"
    generator: str
    """How they were made."""
    model: str
    """By whom."""
    seeds: int
    """Tasks it began with."""
    proposed: int
    """Instructions that were proposed; a reply that could not be read counts as one."""
    accepted: int
    """Those that passed every filter."""
    rounds: int
    """Rounds of requests."""
    instances: int
    """Demonstrations: instances of what was accepted."""
    without_input: int
    """Demonstrations without an input."""
    classification: int | None = None
    """Accepted tasks that the model called classification; None where it was not asked."""
    similar: float
    """The ROUGE-L from which on an instruction is rejected."""
    filters: list[FilterRow]
    """The filters, in the order in which they are asked."""
    lengths: dict[str, Lengths]
    """Lengths of instruction, input (where there is one) and output, in words."""
    novelty: list[int]
    """Accepted instructions by their highest ROUGE-L to a seed: in [0, .1), [.1, .2), ..., [.9, 1]."""
    novelty_mean: MaybeInterval = None
    """The mean of that."""
    highest: float = 0.0
    """The highest ROUGE-L of an accepted instruction to a seed, or to one that was accepted before it."""
    openings: list[Opening] = []
    """First words, the most frequent first."""
    different_openings: int = 0
    """Different first words."""
    examples: list[Example] = []
    """Some of what was accepted."""

    @property
    def rate(self) -> Interval | None:
        """The share that was accepted."""
        return wilson(self.accepted, self.proposed) if self.proposed else None

    def tables(self) -> Iterator[Table]:
        """What was rejected by which filter; lengths; how new the rest is, and how it begins."""
        grid = Table("rejected by", "instructions", "share of proposed", "instances")
        for row in self.filters:
            if row.instructions or row.instances:
                grid.add_row(row.name, f"{row.instructions:,}", shown(row.share, ".1%"), f"{row.instances:,}")
        grid.add_section()
        grid.add_row("accepted", f"{self.accepted:,}", shown(self.rate, ".1%"), f"{self.instances:,}")
        yield grid
        words = Table("words", "mean", "a tenth below", "half below", "a tenth above")
        for name, one in self.lengths.items():
            words.add_row(name, f"{one.mean:.1f}", f"{one.low:g}", f"{one.median:g}", f"{one.high:g}")
        yield words
        new = Table("highest ROUGE-L to a seed", *(f"{i / 10:.1f}+" for i, n in enumerate(self.novelty) if n))
        new.add_row(shown(self.novelty_mean, ".3f"), *(str(n) for n in self.novelty if n))
        yield new
        begun = Table("first word", "instructions", "followed by")
        for opening in self.openings[:10]:
            objects = ", ".join(f"{word} {n}" for word, n in opening.objects.items())
            begun.add_row(opening.word, str(opening.count), objects)
        yield begun

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        """A row a filter."""
        return self.model_dump(mode="json")["filters"]
