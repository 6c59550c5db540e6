"""Operations that ask about a row of things: their answers, and their wording."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from accord.worlds.shelf.things import FACTS, SELECTORS, THINGS, Columns, Things

Row: TypeAlias = dict[str, Any]

TRUTH = ("true", "false")
COUNTS = ("zero", "one", "two", "three")


@dataclass(frozen=True, slots=True)
class Task:
    """A task: its instructions (`prompts`), its `wordings` in text, and its questions about given things.

    `answers` are the options of every question; empty where each question has its own.
    """

    cluster: str
    name: str
    metric: str
    prompts: tuple[str, ...]
    wordings: tuple[str, ...]
    questions: Callable[[Things], list[Row]]
    answers: tuple[str, ...] = ()

    @property
    def options(self) -> list[str] | str | None:
        """The options of every question, or the column with each one's; None where answers are written."""
        return (list(self.answers) or "options") if self.metric == "options" else None


def row_of(things: Things, columns: Columns, answer: str, options: Sequence[str], rationale: str) -> Row:
    """A question about the things, with the columns of its wording, every answer of its form, and the reasons."""
    row = {"things": " ".join(things), **columns, "answer": answer, "options": list(options)}
    return row | {"rationale": rationale}


def picked(selector: str, things: Things) -> Iterator[tuple[int, Columns, str]]:
    """Each thing that can be picked: its position, the words for it, and the sentence that identifies it."""
    for index, columns in SELECTORS[selector].picks(things):
        yield index, columns, f"{SELECTORS[selector].phrase.format(**columns)} is the {things[index]}"


def known(fact: str, thing: str) -> str:
    """The sentence that states a thing's fact."""
    return f"the {fact} of the {thing} is {THINGS[thing][fact]}"


def naming(selector: str) -> Task:
    """Which thing is picked."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        return [row_of(things, words, things[i], things, why) for i, words, why in picked(selector, things)]

    prompts = (
        f"{{things}} . what is {it} ?",
        f"{{things}} . name {it} .",
        f"{{things}} . tell {it} .",
        f"{{things}} . say what is {it} .",
        f"of {{things}} which is {it} ?",
    )
    wordings = (f"{it} is the {{answer}} .", f"the {{answer}} is {it} .", f"name {it} and it is the {{answer}} .")
    return Task("name", f"name-{selector}", "options", prompts, wordings, questions)


def telling(fact: str, selector: str) -> Task:
    """A fact of the picked thing."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        return [
            row_of(things, words, THINGS[things[i]][fact], FACTS[fact], f"{why} and {known(fact, things[i])}")
            for i, words, why in picked(selector, things)
        ]

    prompts = (
        f"{{things}} . what is the {fact} of {it} ?",
        f"{{things}} . name the {fact} of {it} .",
        f"{{things}} . tell the {fact} of {it} .",
        f"{{things}} . say what {fact} {it} has .",
        f"of {{things}} which {fact} has {it} ?",
    )
    wordings = (
        f"the {fact} of {it} is {{answer}} .",
        f"{it} has the {fact} {{answer}} .",
        f"name the {fact} of {it} and it is {{answer}} .",
    )
    return Task(fact, f"{fact}-{selector}", "options", prompts, wordings, questions, FACTS[fact])


def explaining(fact: str, selector: str) -> Task:
    """A fact of the picked thing, and which thing it is."""
    it = SELECTORS[selector].phrase

    def sentence(words: Columns, thing: str, value: str) -> str:
        return f"{it.format(**words)} is the {thing} and its {fact} is {value}"

    def questions(things: Things) -> list[Row]:
        return [
            row_of(
                things,
                words,
                sentence(words, things[i], THINGS[things[i]][fact]),
                [sentence(words, thing, value) for thing in things for value in FACTS[fact]],
                f"{why} and {known(fact, things[i])}",
            )
            for i, words, why in picked(selector, things)
        ]

    prompts = (
        f"{{things}} . explain the {fact} of {it} .",
        f"{{things}} . explain what {fact} {it} has .",
        f"{{things}} . what is {it} and what is its {fact} ?",
        f"{{things}} . say what is {it} and what {fact} it has .",
        f"of {{things}} explain which {fact} has {it} .",
    )
    wordings = ("{answer} .", f"explain the {fact} of {it} and {{answer}} .")
    return Task("explain", f"explain-{fact}-{selector}", "exact", prompts, wordings, questions)


def checking(fact: str, selector: str) -> Task:
    """Whether the picked thing has a value."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        return [
            row_of(
                things,
                words | {"word": value},
                TRUTH[THINGS[things[i]][fact] != value],
                TRUTH,
                f"{why} and {known(fact, things[i])}",
            )
            for i, words, why in picked(selector, things)
            for value in FACTS[fact]
        ]

    prompts = (
        f"{{things}} . has {it} the {fact} {{word}} ?",
        f"{{things}} . is the {fact} of {it} {{word}} ?",
        f"{{things}} . tell if the {fact} of {it} is {{word}} .",
        f"{{things}} . say if {it} has the {fact} {{word}} .",
        f"of {{things}} has {it} the {fact} {{word}} ?",
    )
    wordings = (
        f"that the {fact} of {it} is {{word}} is {{answer}} .",
        f"that {it} has the {fact} {{word}} is {{answer}} .",
        f"of {it} the {fact} {{word}} is {{answer}} .",
    )
    return Task("check", f"check-{fact}-{selector}", "options", prompts, wordings, questions, TRUTH)


def counting(fact: str) -> Task:
    """How many things have a value."""

    def questions(things: Things) -> list[Row]:
        rows = []
        for value in FACTS[fact]:
            having = [thing for thing in things if THINGS[thing][fact] == value]
            if len(having) < len(COUNTS):
                why = f"of the {fact} {value} : {' '.join(having) or 'no thing'}"
                rows.append(row_of(things, {"word": value}, COUNTS[len(having)], COUNTS, why))
        return rows

    prompts = (
        f"{{things}} . how many have the {fact} {{word}} ?",
        f"{{things}} . count those of the {fact} {{word}} .",
        f"{{things}} . tell how many are of the {fact} {{word}} .",
        f"{{things}} . say how many have the {fact} {{word}} .",
        f"of {{things}} how many are of the {fact} {{word}} ?",
    )
    wordings = (
        f"{{answer}} have the {fact} {{word}} .",
        f"count those of the {fact} {{word}} and there are {{answer}} .",
        f"of the {fact} {{word}} there are {{answer}} .",
    )
    return Task("count", f"count-{fact}", "options", prompts, wordings, questions, COUNTS)


def comparing(fact: str, one: str, other: str) -> Task:
    """Whether two things have the same value."""
    a, b = SELECTORS[one].phrase, SELECTORS[other].phrase

    def questions(things: Things) -> list[Row]:
        return [
            row_of(
                things,
                {},
                TRUTH[THINGS[things[i]][fact] != THINGS[things[j]][fact]],
                TRUTH,
                f"{known(fact, things[i])} and {known(fact, things[j])}",
            )
            for i, _, _ in picked(one, things)
            for j, _, _ in picked(other, things)
        ]

    prompts = (
        f"{{things}} . have {a} and {b} the same {fact} ?",
        f"{{things}} . compare the {fact} of {a} and of {b} .",
        f"{{things}} . tell if the {fact} of {a} and of {b} is the same .",
        f"{{things}} . say if {a} and {b} have the same {fact} .",
        f"of {{things}} is the {fact} of {a} that of {b} ?",
    )
    wordings = (
        f"that {a} and {b} have the same {fact} is {{answer}} .",
        f"that the {fact} of {a} and of {b} is the same is {{answer}} .",
        f"compare the {fact} of {a} and of {b} and the same is {{answer}} .",
    )
    return Task("compare", f"compare-{fact}-{one}-{other}", "options", prompts, wordings, questions, TRUTH)


def choosing(fact: str, one: str, other: str) -> Task:
    """Which of two things has a value that the other lacks."""
    a, b = SELECTORS[one].phrase, SELECTORS[other].phrase

    def questions(things: Things) -> list[Row]:
        (i, *_), *_ = picked(one, things)
        (j, *_), *_ = picked(other, things)
        pair = (things[i], things[j])
        values = [THINGS[thing][fact] for thing in pair]
        if values[0] == values[1]:
            return []
        return [
            row_of(things, {"word": value}, thing, pair, known(fact, thing))
            for thing, value in zip(pair, values, strict=True)
        ]

    prompts = (
        f"{{things}} . which of {a} and {b} has the {fact} {{word}} ?",
        f"{{things}} . choose by the {fact} {{word}} of {a} and {b} .",
        f"{{things}} . tell which of {a} and {b} has the {fact} {{word}} .",
        f"{{things}} . say which has the {fact} {{word}} , {a} or {b} .",
        f"of {{things}} which is of the {fact} {{word}} , {a} or {b} ?",
    )
    wordings = (
        f"of {a} and {b} the {{answer}} has the {fact} {{word}} .",
        f"the one of the {fact} {{word}} of {a} and {b} is the {{answer}} .",
        f"choose by the {fact} {{word}} of {a} and {b} and it is the {{answer}} .",
    )
    return Task("choose", f"choose-{fact}-{one}-{other}", "options", prompts, wordings, questions)
