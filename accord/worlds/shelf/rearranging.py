"""The operations that make another row of a row of things: what each one writes, and the words for it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

from accord.worlds.shelf.operations import Row, Task, picked, row_of
from accord.worlds.shelf.things import SELECTORS, THINGS, Things, price


def removing(selector: str) -> Task:
    """The row without the thing that is picked."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        left = [" ".join(things[:i] + things[i + 1 :]) for i in range(len(things))]
        return [
            row_of(things, words, left[i], left, f"{why} and it goes") for i, words, why in picked(selector, things)
        ]

    prompts = (
        f"{{things}} . what is left without {it} ?",
        f"leave out {it} : {{things}} .",
        f"{{things}} . tell all without {it} .",
        f"say what is left when {it} goes : {{things}} .",
        f"of {{things}} which are left without {it} ?",
    )
    said = (
        f"without {it} there are {{answer}} .",
        f"when {it} goes it is {{answer}} .",
        f"leave out {it} and there are {{answer}} .",
    )
    return Task("remove", f"remove-{selector}", "exact", prompts, said, questions)


def replacing(selector: str) -> Task:
    """The row with another thing in the place of the one that is picked."""
    it = SELECTORS[selector].phrase

    def questions(things: Things) -> list[Row]:
        rows = []
        for new in (thing for thing in THINGS if thing not in things):
            changed = [" ".join((*things[:i], new, *things[i + 1 :])) for i in range(len(things))]
            for i, words, why in picked(selector, things):
                rows.append(row_of(things, words | {"new": new}, changed[i], changed, f"{why} and the {new} is new"))
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
        f"replace {it} by the {{new}} and there are {{answer}} .",
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
        return [row_of(things, {}, " ".join(ordered), orders, f"the first is the {ordered[0]} and it goes on")]

    prompts = (
        f"{{things}} . what is it {said_so} ?",
        f"order {said_so} : {{things}} .",
        f"{{things}} . tell all {said_so} .",
        f"say what it is {said_so} : {{things}} .",
        f"of {{things}} what is the order {said_so} ?",
    )
    said = (
        f"{said_so} there are {{answer}} .",
        f"{said_so} it is {{answer}} .",
        f"order {said_so} and there are {{answer}} .",
    )
    return Task("order", f"order-{name}", "exact", prompts, said, questions)
