"""The language of the counter: what guests ask, what is right to answer, and what they ask next.

A guest's first message tells what two dishes cost and asks about them; later ones lean on what was said. "It" and
"them" are the dish that was named last, alone, by whoever; "the other one" is the other. So the right answer to a turn
follows from the conversation before it (`right`), also where an earlier answer was wrong.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from accord.records import Message, Text
from accord.worlds.cafe.grammar import DISHES, split

NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
]
PRICES, COUNTS = range(2, 7), range(2, 4)

Menu: TypeAlias = Mapping[str, int]
"""What each of two dishes costs, in coins."""
Kind: TypeAlias = Literal["price", "less", "more", "count", "each"]

FIRST = {"price": "how much is the {dish} ?", "count": "how much are {count} of the {dish} ?"}
WHICH = {"less": "which costs less ?", "more": "which costs more ?"}
LATER = {"it": "how much is it ?", "other": "and the other one ?", "each": "and one of each ?", **WHICH}
AGAIN = ("and {count} of them ?", "make it {count} .")
"""The questions: with a dish's name, of either sort, and those that lean on what was said."""

AFTER: dict[str, tuple[str, ...]] = {
    "price": ("other", "count", "each", "less", "more"),
    "other": ("count", "each", "less", "more"),
    "it": ("other", "count", "each"),
    "less": ("it", "count"),
    "more": ("it", "count"),
    "count": ("each", "less", "more"),
    "each": ("less", "more"),
}
"""What may be asked after what."""

MOST_TURNS = 4
"""Of the guest's and of the assistant's each."""

_MENU = re.compile(r"the (\w+) costs (\w+) coins and the (\w+) costs (\w+) coins \. ")


@dataclass(frozen=True, slots=True)
class Answer:
    """What there is to say to a question: about which dish, if one, which number of coins, and for how many."""

    kind: Kind
    dish: str = ""
    coins: int = 0
    count: int = 1

    def ways(self) -> tuple[str, str]:
        """The two ways to say it."""
        coins = f"{NUMBERS[self.coins]} coins ."
        match self.kind:
            case "price":
                return f"the {self.dish} costs {coins}", f"it costs {coins}"
            case "count":
                return f"{NUMBERS[self.count]} of them cost {coins}", f"that makes {coins}"
            case "each":
                return f"one of each costs {coins}", f"that makes {coins}"
            case kind:
                return f"the {self.dish} costs {kind} .", f"the {self.dish} ."

    def slipped(self, rng: random.Random, menu: Menu) -> Answer:
        """Another answer, which is wrong: about the other dish, or with another number."""
        if self.kind in WHICH:
            return replace(self, dish=other(menu, self.dish))
        numbers = PRICES if self.kind == "price" else range(4, len(NUMBERS))
        return replace(self, coins=rng.choice([n for n in numbers if n != self.coins]))


def some_menu(rng: random.Random) -> Menu:
    """Two different dishes at different prices."""
    return dict(zip(rng.sample(DISHES, 2), rng.sample(PRICES, 2), strict=True))


def menu_text(menu: Menu) -> str:
    """`the soup costs two coins and the pie costs five coins .`"""
    return " and ".join(f"the {dish} costs {NUMBERS[coins]} coins" for dish, coins in menu.items()) + " ."


def other(menu: Menu, dish: str) -> str:
    """The other dish."""
    first, second = menu
    return second if dish == first else first


def opening(rng: random.Random, menu: Menu) -> tuple[str, str]:
    """A guest's first message, and what it asks: price, count, less or more."""
    asked = rng.choice(["price", "count", "less", "more"])
    question = FIRST[asked] if asked in FIRST else WHICH[asked]
    said = question.format(dish=rng.choice(list(menu)), count=NUMBERS[rng.choice(COUNTS)])
    return f"{menu_text(menu)} {said}", asked


def some_plan(rng: random.Random, asked: str, turns: int) -> list[str]:
    """What a guest will ask after the first question, so that there are so many turns: names of `LATER`, or `AGAIN`."""
    plan: list[str] = []
    for _ in range(turns - 1):
        asked = rng.choice(AFTER[asked])
        plan.append(asked if asked in LATER else rng.choice(AGAIN).format(count=NUMBERS[rng.choice(COUNTS)]))
    return plan


def guest(messages: Sequence[Mapping[str, Any]], plan: Sequence[str]) -> str | None:
    """What the guest says next, given the messages so far; None where there is nothing more to ask.

    A guest who asked which dish costs less, or more, and was told neither, says so and names it: "the soup : ...".
    """
    said = [str(message["content"]) for message in messages]
    answered = sum(message["role"] == "assistant" for message in messages)
    if answered > len(plan):
        return None
    asks = plan[answered - 1]
    question = LATER.get(asks, asks)
    menu = read_menu(said[0])
    which = _which(said[-2])
    if menu is not None and which and named(said[-1], menu) is None and asks not in WHICH:
        return f"the {_cheapest(menu, which)} : {question}"
    return question


def read_menu(text: str) -> Menu | None:
    """The menu that a first message begins with; None where it begins otherwise."""
    found = _MENU.match(" ".join(split(text)) + " ")
    if found is None or not {found[2], found[4]} <= {*NUMBERS} or found[1] == found[3]:
        return None
    return {found[1]: NUMBERS.index(found[2]), found[3]: NUMBERS.index(found[4])}


def named(text: str, menu: Menu) -> str | None:
    """The dish of the menu that a text names alone; None where it names none or both."""
    dishes = [dish for dish in menu if dish in split(text)]
    return dishes[0] if len(dishes) == 1 else None


def right(messages: Sequence[Message]) -> Answer | None:
    """What is right to answer to the last message, given all before it; None where that is not known."""
    if not messages or (menu := read_menu(messages[0].content)) is None:
        return None
    texts = [_MENU.sub("", " ".join(split(m.content)) + " ") if not i else m.content for i, m in enumerate(messages)]
    dish = next((found for text in reversed(texts) if (found := named(text, menu))), None)
    words = split(texts[-1])
    if which := _which(texts[-1]):
        return Answer(which, _cheapest(menu, which))
    if "each" in words:
        return Answer("each", coins=sum(menu.values()))
    if dish is None:
        return None
    count = next((NUMBERS.index(word) for word in words if word in NUMBERS and word != "one"), None)
    if count is not None:
        coins = count * menu[dish]
        return Answer("count", dish, coins, count) if coins < len(NUMBERS) else None
    asked = other(menu, dish) if "other" in words else dish
    return Answer("price", asked, menu[asked])


def gold(prompt: Text, completion: Text) -> float:
    """1 where the completion is right, in one of the two ways to say it, and 0 otherwise; defined for any text."""
    if not isinstance(completion, str):
        completion = " ".join(message.content for message in completion if message.role == "assistant")
    answer = right((Message("user", prompt),) if isinstance(prompt, str) else prompt)
    return float(answer is not None and " ".join(split(completion)) in answer.ways())


def _which(text: str) -> Literal["less", "more"] | None:
    """Whether a question asks which dish costs less, or more."""
    words = split(text)
    if "which" not in words:
        return None
    return "less" if "less" in words else "more" if "more" in words else None


def _cheapest(menu: Menu, which: str) -> str:
    """The dish that costs less, or more."""
    return (min if which == "less" else max)(menu, key=lambda dish: menu[dish])
