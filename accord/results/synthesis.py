"""Results of generating instructions with a model: what each filter rejected, and how novel and varied the rest is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from rich.table import Table

from accord.results.base import Evaluation, MaybeInterval, Record
from accord.results.intervals import Interval, shown, wilson


class FilterRow(Record):
    """One filter."""

    name: str
    """Its name in candidates.jsonl."""
    what: str
    """What it rejects."""
    instructions: int
    """Proposed instructions it rejected; each counts for the first filter that it fails."""
    share: MaybeInterval = None
    """Their share of all proposed instructions."""
    instances: int = 0
    """Instances it removed, from rejected or accepted instructions."""


class Lengths(Record):
    """Lengths of texts in words."""

    mean: float
    """The mean."""
    low: float
    """The 10th percentile."""
    median: float
    """The median."""
    high: float
    """The 90th percentile."""


class Opening(Record):
    """The instructions that begin with one word."""

    word: str
    """The word."""
    count: int
    """Number of instructions."""
    objects: dict[str, int] = {}
    """The most frequent following words, by the rule of `accord.synthesis.statistics.opening`."""


class Example(Record):
    """One accepted task."""

    instruction: str
    """The instruction."""
    input: str = ""
    """Its first input; empty for none."""
    output: str = ""
    """The output."""
    novelty: float
    """Its highest ROUGE-L with a seed; low means novel."""


class SynthesisResult(Evaluation):
    """Instructions that a model generated, in numbers."""

    kind: Literal["synthesis"] = "synthesis"
    reads_chats: ClassVar[bool] = True
    generator: str
    """The method of generation."""
    model: str
    """The model."""
    seeds: int
    """Number of seed tasks."""
    proposed: int
    """Proposed instructions; a reply that could not be parsed counts as one."""
    accepted: int
    """Those that passed every filter."""
    rounds: int
    """Rounds of requests."""
    instances: int
    """Demonstrations: instances of the accepted instructions."""
    without_input: int
    """Demonstrations without an input."""
    classification: int | None = None
    """Accepted tasks that the model called classification; None where it was not asked."""
    similar: float
    """The ROUGE-L at which an instruction is rejected."""
    filters: list[FilterRow]
    """The filters, in the order in which they are applied."""
    lengths: dict[str, Lengths]
    """Lengths of instruction, input (where there is one) and output, in words."""
    novelty: list[int]
    """Histogram of accepted instructions by their highest ROUGE-L with a seed: [0, .1), [.1, .2), ..., [.9, 1]."""
    novelty_mean: MaybeInterval = None
    """The mean of the highest ROUGE-L."""
    highest: float = 0.0
    """The highest ROUGE-L of an accepted instruction with a seed, or with one accepted before it."""
    openings: list[Opening] = []
    """First words, most frequent first."""
    different_openings: int = 0
    """Number of different first words."""
    examples: list[Example] = []
    """Some accepted tasks."""

    @property
    def rate(self) -> Interval | None:
        """The acceptance rate."""
        return wilson(self.accepted, self.proposed) if self.proposed else None

    def tables(self) -> Iterator[Table]:
        """Rejections by filter, lengths, novelty, and first words."""
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
        """One row per filter."""
        return self.model_dump(mode="json")["filters"]
