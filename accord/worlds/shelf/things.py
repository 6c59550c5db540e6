"""The things on the shelf: 16 things with five facts each, and the ways to pick one out of a row.

Each fact has four values, and every pair of values of two facts belongs to one thing (the five are mutually orthogonal
Latin squares), so no fact is informative about another.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from accord.worlds import in_held_out_fifth

Things: TypeAlias = tuple[str, ...]
Columns: TypeAlias = dict[str, str]

FACTS = {
    "kind": ("toy", "tool", "fruit", "dish"),
    "color": ("red", "blue", "green", "white"),
    "room": ("kitchen", "garden", "attic", "cellar"),
    "material": ("wood", "tin", "glass", "clay"),
    "price": ("one", "two", "three", "four"),
}
"""The facts and their values; prices increase."""


def _thing(values: str) -> Columns:
    return dict(zip(FACTS, values.split(), strict=True))


THINGS = {
    "ball": _thing("toy red kitchen wood one"),
    "doll": _thing("toy blue garden tin two"),
    "kite": _thing("toy green attic glass three"),
    "drum": _thing("toy white cellar clay four"),
    "saw": _thing("tool blue attic clay one"),
    "rake": _thing("tool red cellar glass two"),
    "axe": _thing("tool white kitchen tin three"),
    "broom": _thing("tool green garden wood four"),
    "pear": _thing("fruit green cellar tin one"),
    "plum": _thing("fruit white attic wood two"),
    "lemon": _thing("fruit red garden clay three"),
    "grape": _thing("fruit blue kitchen glass four"),
    "cup": _thing("dish white garden glass one"),
    "bowl": _thing("dish green kitchen clay two"),
    "plate": _thing("dish blue cellar wood three"),
    "jug": _thing("dish red attic tin four"),
}
"""The things with the value of each fact."""

LENGTHS = (3, 4)
"""Possible lengths of a row in a question."""


def price(thing: str) -> int:
    """A thing's price."""
    return FACTS["price"].index(THINGS[thing]["price"]) + 1


def some_things(rng: random.Random, length: int, *, held_out: bool) -> Things:
    """A row of this many different things, from the held-out fifth of all rows or from the others."""
    while True:
        things = tuple(rng.sample(list(THINGS), length))
        if in_held_out_fifth(" ".join(things)) == held_out:
            return things


@dataclass(frozen=True, slots=True)
class Selector:
    """A way to pick one thing out of a row: its wording, and every position it can pick, with the words for it."""

    phrase: str
    picks: Callable[[Things], list[tuple[int, Columns]]]


def _dearest(things: Things) -> list[tuple[int, Columns]]:
    prices = [price(thing) for thing in things]
    return [(prices.index(max(prices)), {})] if prices.count(max(prices)) == 1 else []


def _only(fact: str, things: Things) -> list[tuple[int, Columns]]:
    """Each thing that is the only one with its value of the fact."""
    values = [THINGS[thing][fact] for thing in things]
    return [(i, {fact: value}) for i, value in enumerate(values) if values.count(value) == 1]


SELECTORS = {
    "first": Selector("the first", lambda things: [(0, {})]),
    "second": Selector("the second", lambda things: [(1, {})]),
    "last": Selector("the last", lambda things: [(len(things) - 1, {})]),
    "dearest": Selector("the dearest", _dearest),
    "by-kind": Selector("the {kind}", lambda things: _only("kind", things)),
    "by-color": Selector("the {color} one", lambda things: _only("color", things)),
}
"""The ways to pick a thing, by name; the last two name a value that only one thing has."""
