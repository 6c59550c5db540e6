"""Operations that make another row from a row of things: their results, and their wording."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import permutations

from accord.worlds.shelf.operations import Row, Task, picked, row_of
from accord.worlds.shelf.things import SELECTORS, THINGS, Columns, Things, price


def _with(
    selector: str, things: Things, replacement: Callable[[str], Things], reason: str, columns: Columns | None = None
) -> list[Row]:
    """Questions whose answer is the row with its `replacement` in place of the picked thing."""
    places = [" ".join((*things[:i], *replacement(thing), *things[i + 1 :])) for i, thing in enumerate(things)]
    return [
        row_of(things, {**words, **(columns or {})}, places[i], places, f"{why} and {reason}")
        for i, words, why in picked(selector, things)
    ]


def _with_another(selector: str, things: Things, replacement: Callable[[str, str], Things], reason: str) -> list[Row]:
    """The same, with each thing that is not in the row: `replacement` has it first."""
    return [
        row
        for new in THINGS
        if new not in things
        for row in _with(selector, things, partial(replacement, new), f"the {new} {reason}", {"new": new})
    ]


def removing(selector: str) -> Task:
    """The row without the picked thing."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        return _with(selector, things, lambda thing: (), "it goes")

    prompts = (
        f"{{things}} . what is left without {it} ?",
        f"{{things}} . leave out {it} .",
        f"{{things}} . tell all without {it} .",
        f"{{things}} . say what is left when {it} goes .",
        f"of {{things}} which are left without {it} ?",
    )
    wordings = (
        f"without {it} there are {{answer}} .",
        f"when {it} goes it is {{answer}} .",
        f"leave out {it} and there are {{answer}} .",
    )
    return Task("remove", f"remove-{selector}", "exact", prompts, wordings, questions)


def repeating(selector: str) -> Task:
    """The row with the picked thing twice."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        return _with(selector, things, lambda thing: (thing, thing), "it comes twice")

    prompts = (
        f"{{things}} . what is it with {it} twice ?",
        f"{{things}} . repeat {it} .",
        f"{{things}} . tell all with {it} twice .",
        f"{{things}} . say what it is when {it} comes twice .",
        f"of {{things}} repeat {it} .",
    )
    wordings = (
        f"with {it} twice there are {{answer}} .",
        f"when {it} comes twice it is {{answer}} .",
        f"repeat {it} and there are {{answer}} .",
    )
    return Task("repeat", f"repeat-{selector}", "exact", prompts, wordings, questions)


def replacing(selector: str) -> Task:
    """The row with another thing in place of the picked one."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        return _with_another(selector, things, lambda new, thing: (new,), "is new")

    prompts = (
        f"{{things}} . what is it with the {{new}} for {it} ?",
        f"{{things}} . replace {it} by the {{new}} .",
        f"{{things}} . tell all with the {{new}} for {it} .",
        f"{{things}} . say what it is when the {{new}} is new for {it} .",
        f"of {{things}} replace {it} by the {{new}} .",
    )
    wordings = (
        f"with the {{new}} for {it} there are {{answer}} .",
        f"when the {{new}} is new for {it} it is {{answer}} .",
        f"replace {it} by the {{new}} and there are {{answer}} .",
    )
    return Task("replace", f"replace-{selector}", "exact", prompts, wordings, questions)


def adding(selector: str) -> Task:
    """The row with another thing after the picked one."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        return _with_another(selector, things, lambda new, thing: (thing, new), "comes after it")

    prompts = (
        f"{{things}} . what is it with the {{new}} after {it} ?",
        f"{{things}} . put the {{new}} after {it} .",
        f"{{things}} . tell all with the {{new}} after {it} .",
        f"{{things}} . say what it is when the {{new}} comes after {it} .",
        f"of {{things}} put the {{new}} after {it} .",
    )
    wordings = (
        f"with the {{new}} after {it} there are {{answer}} .",
        f"when the {{new}} comes after {it} it is {{answer}} .",
        f"put the {{new}} after {it} and there are {{answer}} .",
    )
    return Task("add", f"add-{selector}", "exact", prompts, wordings, questions)


def _by_price(things: Things) -> Things | None:
    """From the cheapest to the most expensive; None where two cost the same."""
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
"""Ways to reorder a row: their wording, and the resulting row, if any."""


def ordering(name: str) -> Task:
    """The row in another order."""
    said_so, order = ORDERS[name]

    def questions(things: Things) -> list[Row]:
        ordered = order(things)
        if ordered is None:
            return []
        orders = [" ".join(some) for some in permutations(things)]
        return [row_of(things, {}, " ".join(ordered), orders, f"the first is the {ordered[0]} and it goes on")]

    prompts = (
        f"{{things}} . what is it {said_so} ?",
        f"{{things}} . order {said_so} .",
        f"{{things}} . tell all {said_so} .",
        f"{{things}} . say what it is {said_so} .",
        f"of {{things}} what is the order {said_so} ?",
    )
    wordings = (
        f"{said_so} there are {{answer}} .",
        f"{said_so} it is {{answer}} .",
        f"order {said_so} and there are {{answer}} .",
    )
    return Task("order", f"order-{name}", "exact", prompts, wordings, questions)
