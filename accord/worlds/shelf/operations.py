"""The operations that are asked for on the shelf: what each one makes of a row of things, and the words for it.

A task is an operation on a thing that a selector picks, or on the whole row: 14 clusters by operation, 81 tasks. Each
selector and each fact occurs in several clusters, so that the tasks of one are new compositions of what others hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, TypeAlias

from accord.worlds.shelf.things import FACTS, SELECTORS, THINGS, Columns, Things, price

Row: TypeAlias = dict[str, Any]

TRUTH = ("true", "false")
COUNTS = ("zero", "one", "two", "three")


@dataclass(frozen=True, slots=True)
class Task:
    """A task: how it is asked (`prompts`), how text tells its answers (`said`), and its questions about a row of things.

    `answers` are the options of every question, or nothing where each question has its own.
    """

    cluster: str
    name: str
    metric: str
    prompts: tuple[str, ...]
    said: tuple[str, ...]
    questions: Callable[[Things], list[Row]]
    answers: tuple[str, ...] = ()


def _row(things: Things, columns: Columns, answer: str, options: Sequence[str], rationale: str) -> Row:
    row = {"things": " ".join(things), **columns, "answer": answer, "options": list(options)}
    return row | {"rationale": rationale}


def _picked(selector: str, things: Things) -> Iterator[tuple[int, Columns, str]]:
    """Each thing that can be picked: its place, the words said for it, and the sentence that says which it is."""
    for place, columns in SELECTORS[selector].picks(things):
        yield place, columns, f"{SELECTORS[selector].phrase.format(**columns)} is the {things[place]}"


def _known(fact: str, thing: str) -> str:
    return f"the {fact} of the {thing} is {THINGS[thing][fact]}"


def naming(selector: str) -> Task:
    """Which thing is picked."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        return [_row(things, words, things[i], things, why) for i, words, why in _picked(selector, things)]

    prompts = (
        f"{{things}} . what is {it} ?",
        f"name {it} : {{things}} .",
        f"{{things}} . tell {it} .",
        f"say what is {it} of {{things}} .",
        f"of {{things}} which is {it} ?",
    )
    said = (f"{it} is the {{answer}} .", f"the {{answer}} is {it} .", f"as {it} there is the {{answer}} .")
    return Task("name", f"name-{selector}", "options", prompts, said, questions)


def telling(fact: str, selector: str) -> Task:
    """A fact of the thing that is picked."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        return [
            _row(things, words, THINGS[things[i]][fact], FACTS[fact], f"{why} and {_known(fact, things[i])}")
            for i, words, why in _picked(selector, things)
        ]

    prompts = (
        f"{{things}} . what is the {fact} of {it} ?",
        f"name the {fact} of {it} : {{things}} .",
        f"{{things}} . tell the {fact} of {it} .",
        f"say what {fact} {it} has : {{things}} .",
        f"of {{things}} which {fact} has {it} ?",
    )
    said = (f"the {fact} of {it} is {{answer}} .", f"{it} has the {fact} {{answer}} .", f"{{answer}} is the {fact} of {it} .")
    return Task(fact, f"{fact}-{selector}", "options", prompts, said, questions, FACTS[fact])


def explaining(fact: str, selector: str) -> Task:
    """A fact of the thing that is picked, and which thing that is."""
    it = SELECTORS[selector].phrase

    def sentence(words: Columns, thing: str, value: str) -> str:
        return f"{it.format(**words)} is the {thing} and its {fact} is {value}"

    def questions(things: Things) -> list[Row]:
        return [
            _row(
                things,
                words,
                sentence(words, things[i], THINGS[things[i]][fact]),
                [sentence(words, thing, value) for thing in things for value in FACTS[fact]],
                f"{why} and {_known(fact, things[i])}",
            )
            for i, words, why in _picked(selector, things)
        ]

    prompts = (
        f"{{things}} . explain the {fact} of {it} .",
        f"explain what {fact} {it} has : {{things}} .",
        f"{{things}} . what is {it} and what is its {fact} ?",
        f"say what is {it} and what {fact} it has : {{things}} .",
        f"of {{things}} explain which {fact} has {it} .",
    )
    said = ("{answer} .", f"now the {fact} of {it} : {{answer}} .")
    return Task("explain", f"explain-{fact}-{selector}", "exact", prompts, said, questions)


def checking(fact: str, selector: str) -> Task:
    """Whether the thing that is picked has a value."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        return [
            _row(
                things,
                words | {"word": value},
                TRUTH[THINGS[things[i]][fact] != value],
                TRUTH,
                f"{why} and {_known(fact, things[i])}",
            )
            for i, words, why in _picked(selector, things)
            for value in FACTS[fact]
        ]

    prompts = (
        f"{{things}} . has {it} the {fact} {{word}} ?",
        f"is the {fact} of {it} {{word}} : {{things}} ?",
        f"{{things}} . tell if the {fact} of {it} is {{word}} .",
        f"say if {it} has the {fact} {{word}} : {{things}} .",
        f"of {{things}} has {it} the {fact} {{word}} ?",
    )
    said = (
        f"that the {fact} of {it} is {{word}} is {{answer}} .",
        f"that {it} has the {fact} {{word}} is {{answer}} .",
        f"{{word}} as the {fact} of {it} is {{answer}} .",
    )
    return Task("check", f"check-{fact}-{selector}", "options", prompts, said, questions, TRUTH)


def counting(fact: str) -> Task:
    """How many things have a value."""

    def questions(things: Things) -> list[Row]:
        rows = []
        for value in FACTS[fact]:
            having = [thing for thing in things if THINGS[thing][fact] == value]
            if len(having) < len(COUNTS):
                why = f"of the {fact} {value} : {' '.join(having) or 'no thing'}"
                rows.append(_row(things, {"word": value}, COUNTS[len(having)], COUNTS, why))
        return rows

    prompts = (
        f"{{things}} . how many have the {fact} {{word}} ?",
        f"count those of the {fact} {{word}} : {{things}} .",
        f"{{things}} . tell how many are of the {fact} {{word}} .",
        f"say how many have the {fact} {{word}} : {{things}} .",
        f"of {{things}} how many are of the {fact} {{word}} ?",
    )
    said = (
        f"{{answer}} have the {fact} {{word}} .",
        f"those of the {fact} {{word}} are {{answer}} .",
        f"of the {fact} {{word}} there are {{answer}} .",
    )
    return Task("count", f"count-{fact}", "options", prompts, said, questions, COUNTS)


def comparing(fact: str, one: str, other: str) -> Task:
    """Whether two things have the same value."""
    a, b = SELECTORS[one].phrase, SELECTORS[other].phrase

    def questions(things: Things) -> list[Row]:
        return [
            _row(
                things,
                {},
                TRUTH[THINGS[things[i]][fact] != THINGS[things[j]][fact]],
                TRUTH,
                f"{_known(fact, things[i])} and {_known(fact, things[j])}",
            )
            for i, _, _ in _picked(one, things)
            for j, _, _ in _picked(other, things)
        ]

    prompts = (
        f"{{things}} . have {a} and {b} the same {fact} ?",
        f"compare the {fact} of {a} and of {b} : {{things}} .",
        f"{{things}} . tell if the {fact} of {a} and of {b} is the same .",
        f"say if {a} and {b} have the same {fact} : {{things}} .",
        f"of {{things}} is the {fact} of {a} that of {b} ?",
    )
    said = (
        f"that {a} and {b} have the same {fact} is {{answer}} .",
        f"that the {fact} of {a} and of {b} is the same is {{answer}} .",
        f"the same {fact} of {a} and of {b} is {{answer}} .",
    )
    return Task("compare", f"compare-{fact}-{one}-{other}", "options", prompts, said, questions, TRUTH)


def choosing(fact: str, one: str, other: str) -> Task:
    """Which of two things has a value that the other has not."""
    a, b = SELECTORS[one].phrase, SELECTORS[other].phrase

    def questions(things: Things) -> list[Row]:
        (i, *_), *_ = _picked(one, things)
        (j, *_), *_ = _picked(other, things)
        pair = (things[i], things[j])
        values = [THINGS[thing][fact] for thing in pair]
        if values[0] == values[1]:
            return []
        return [
            _row(things, {"word": value}, thing, pair, _known(fact, thing))
            for thing, value in zip(pair, values, strict=True)
        ]

    prompts = (
        f"{{things}} . which of {a} and {b} has the {fact} {{word}} ?",
        f"choose by the {fact} {{word}} of {a} and {b} : {{things}} .",
        f"{{things}} . tell which of {a} and {b} has the {fact} {{word}} .",
        f"say which has the {fact} {{word}} , {a} or {b} : {{things}} .",
        f"of {{things}} which is of the {fact} {{word}} , {a} or {b} ?",
    )
    said = (
        f"of {a} and {b} the {{answer}} has the {fact} {{word}} .",
        f"the one of the {fact} {{word}} of {a} and {b} is the {{answer}} .",
        f"by the {fact} {{word}} of {a} and {b} it is the {{answer}} .",
    )
    return Task("choose", f"choose-{fact}-{one}-{other}", "options", prompts, said, questions)


def removing(selector: str) -> Task:
    """The row without the thing that is picked."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        left = [" ".join(things[:i] + things[i + 1 :]) for i in range(len(things))]
        return [_row(things, words, left[i], left, f"{why} and it goes") for i, words, why in _picked(selector, things)]

    prompts = (
        f"{{things}} . what is left without {it} ?",
        f"leave out {it} : {{things}} .",
        f"{{things}} . tell all without {it} .",
        f"say what is left when {it} goes : {{things}} .",
        f"of {{things}} which are left without {it} ?",
    )
    said = (f"without {it} there are {{answer}} .", f"when {it} goes it is {{answer}} .", f"all without {it} : {{answer}} .")
    return Task("remove", f"remove-{selector}", "exact", prompts, said, questions)


def replacing(selector: str) -> Task:
    """The row with another thing in the place of the one that is picked."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        rows = []
        for new in (thing for thing in THINGS if thing not in things):
            changed = [" ".join((*things[:i], new, *things[i + 1 :])) for i in range(len(things))]
            for i, words, why in _picked(selector, things):
                rows.append(_row(things, words | {"new": new}, changed[i], changed, f"{why} and the {new} is new"))
        return rows

    prompts = (
        f"{{things}} . what is it with the {{new}} for {it} ?",
        f"replace {it} by the {{new}} : {{things}} .",
        f"{{things}} . tell all with the {{new}} for {it} .",
        f"say what it is when the {{new}} is new for {it} : {{things}} .",
        f"of {{things}} replace {it} by the {{new}} .",
    )
    said = (
        f"with the {{new}} for {it} there are {{answer}} .",
        f"when the {{new}} is new for {it} it is {{answer}} .",
        f"all with the {{new}} for {it} : {{answer}} .",
    )
    return Task("replace", f"replace-{selector}", "exact", prompts, said, questions)


def _by_price(things: Things) -> Things | None:
    """From the cheapest to the dearest; None where two cost the same."""
    ordered = tuple(sorted(things, key=price))
    return ordered if len({price(thing) for thing in things}) == len(things) else None


ORDERS: dict[str, tuple[str, Callable[[Things], Things | None]]] = {
    "reversed": ("from last to first", lambda t: t[::-1]),
    "first-to-end": ("with the first at the end", lambda t: (*t[1:], t[0])),
    "last-to-start": ("with the last at the start", lambda t: (t[-1], *t[:-1])),
    "ends-changed": ("with the first and the last changed", lambda t: (t[-1], *t[1:-1], t[0])),
    "start-changed": ("with the first and the second changed", lambda t: (t[1], t[0], *t[2:])),
    "by-price": ("by price", _by_price),
}
"""Ways to put a row in another order: how they are said, and the row that they make, if they make one."""


def ordering(name: str) -> Task:
    """The row in another order."""
    said_so, order = ORDERS[name]

    def questions(things: Things) -> list[Row]:
        ordered = order(things)
        if ordered is None:
            return []
        orders = [" ".join(some) for some in permutations(things)]
        return [_row(things, {}, " ".join(ordered), orders, f"the first is the {ordered[0]} and it goes on")]

    prompts = (
        f"{{things}} . what is it {said_so} ?",
        f"order {said_so} : {{things}} .",
        f"{{things}} . tell all {said_so} .",
        f"say what it is {said_so} : {{things}} .",
        f"of {{things}} what is the order {said_so} ?",
    )
    said = (f"{said_so} there are {{answer}} .", f"{said_so} it is {{answer}} .", f"all {said_so} : {{answer}} .")
    return Task("order", f"order-{name}", "exact", prompts, said, questions)


def _all() -> Iterator[Task]:
    yield from map(naming, SELECTORS)
    for fact in FACTS:
        # What picks a thing by a fact gives that fact away.
        given_away = {"kind": "by-kind", "color": "by-color", "price": "dearest"}.get(fact)
        yield from (telling(fact, selector) for selector in SELECTORS if selector != given_away)
    pairs = [("color", "first"), ("kind", "last"), ("room", "second"), ("material", "dearest"), ("price", "by-kind")]
    yield from (explaining(*pair) for pair in [*pairs, ("room", "by-color")])
    yield from (checking(*pair) for pair in [*pairs, ("material", "by-color")])
    yield from map(counting, FACTS)
    ends = ("first", "last")
    yield from (comparing(fact, *ends) for fact in FACTS)
    yield comparing("kind", "first", "second")
    yield from (choosing(fact, *ends) for fact in FACTS)
    yield choosing("color", "second", "last")
    yield from map(removing, SELECTORS)
    yield from map(replacing, SELECTORS)
    yield from map(ordering, ORDERS)


TASKS = {task.name: task for task in _all()}
"""The tasks by name, cluster after cluster."""
