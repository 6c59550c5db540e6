"""The language of the counter: guests' questions, the right answers, and the next questions.

A guest's first message gives the prices of two dishes and asks about them; later ones refer back. "It" and "them" are
the dish last named alone, by either side; "the other one" is the other. So the right answer to a turn follows from the
conversation before it (`right`), even where an earlier answer was wrong.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from accord.records import Message, Text
from accord.worlds.cafe.grammar import split

DISHES = ("soup", "bread", "stew", "curry", "salad", "pie", "pizza", "cake")
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
NUMBERS = (*_UNITS.split(), "sixteen", "seventeen", "eighteen")
PRICES, COUNTS = range(2, 7), range(2, 4)

Menu: TypeAlias = Mapping[str, int]
"""The price of each of two dishes, in coins."""
Kind: TypeAlias = Literal["price", "advice", "count", "each"]

FIRST = {
    "price": "how much is the {dish} ?",
    "count": "how much for {count} {dish} ?",
    "advice": "what is good today ?",
}
LATER = {
    "it": "how much is it ?",
    "other": "and the other one ?",
    "each": "and one of each ?",
    "advice": FIRST["advice"],
}
AGAIN = ("and {count} of them ?", "make it {count} .")
"""The questions: first ones, and those that refer back."""

AFTER: dict[str, tuple[str, ...]] = {
    "price": ("other", "count", "each", "advice"),
    "other": ("count", "each", "advice"),
    "it": ("other", "count", "each"),
    "advice": ("it", "count"),
    "count": ("each", "advice"),
    "each": ("advice",),
}
"""Which questions may follow which."""

MOST_TURNS = 4
"""Maximum turns of each side."""

_MENU = re.compile(r"(\w+) (\w+) coins and (\w+) (\w+) coins \. ")


@dataclass(frozen=True, slots=True)
class Answer:
    """The content of an answer: the dish, if one, the number of coins, and for how many."""

    kind: Kind
    dish: str = ""
    coins: int = 0
    count: int = 1

    def ways(self) -> tuple[str, str]:
        """Its two wordings."""
        coins = f"{NUMBERS[self.coins]} coins ."
        match self.kind:
            case "price":
                return f"{self.dish} {coins}", f"that is {coins}"
            case "count":
                return f"{NUMBERS[self.count]} {self.dish} {coins}", f"that is {coins}"
            case "each":
                return f"one of each {coins}", f"that is {coins}"
            case "advice":
                return f"take the {self.dish} .", f"the {self.dish} ."

    def slipped(self, rng: random.Random, menu: Menu) -> Answer:
        """A wrong answer: about a dish that is not on the menu, or with another number."""
        if self.kind == "advice":
            return replace(self, dish=rng.choice([dish for dish in DISHES if dish not in menu]))
        numbers = PRICES if self.kind == "price" else range(4, len(NUMBERS))
        return replace(self, coins=rng.choice([n for n in numbers if n != self.coins]))


def some_menu(rng: random.Random) -> Menu:
    """Two different dishes at different prices."""
    return dict(zip(rng.sample(DISHES, 2), rng.sample(PRICES, 2), strict=True))


def menu_text(menu: Menu) -> str:
    """`soup two coins and pie five coins .`"""
    return " and ".join(f"{dish} {NUMBERS[coins]} coins" for dish, coins in menu.items()) + " ."


def other(menu: Menu, dish: str) -> str:
    """The other dish."""
    first, second = menu
    return second if dish == first else first


def opening(rng: random.Random, menu: Menu) -> tuple[str, str]:
    """A guest's first message, and the name of its question in `FIRST`."""
    asked = rng.choice(list(FIRST))
    question = FIRST[asked].format(dish=rng.choice(list(menu)), count=NUMBERS[rng.choice(COUNTS)])
    return f"{menu_text(menu)} {question}", asked


def some_plan(rng: random.Random, asked: str, turns: int) -> list[str]:
    """A guest's questions after the first, for this many turns: names of `LATER`, or `AGAIN`."""
    plan: list[str] = []
    for _ in range(turns - 1):
        asked = rng.choice(AFTER[asked])
        plan.append(asked if asked in LATER else rng.choice(AGAIN).format(count=NUMBERS[rng.choice(COUNTS)]))
    return plan


def guest(messages: Sequence[Mapping[str, Any]], plan: Sequence[str]) -> str | None:
    """The guest's next message, given the messages so far; None at the end.

    A guest who asked what is good, and was given no dish of the menu, or both, chooses one: "the soup : ...".
    """
    texts = [str(message["content"]) for message in messages]
    answered = sum(message["role"] == "assistant" for message in messages)
    if answered > len(plan):
        return None
    question, menu = LATER.get(plan[answered - 1], plan[answered - 1]), read_menu(texts[0])
    if menu is not None and "good" in split(texts[-2]) and named(texts[-1], menu) is None:
        return f"the {next(iter(menu))} : {question}"
    return question


def read_menu(text: str) -> Menu | None:
    """The menu at the beginning of a first message; None without one."""
    match = _MENU.match(" ".join(split(text)) + " ")
    if match is None or not {match[2], match[4]} <= {*NUMBERS} or match[1] == match[3]:
        return None
    return {match[1]: NUMBERS.index(match[2]), match[3]: NUMBERS.index(match[4])}


def named(text: str, menu: Menu) -> str | None:
    """The only dish of the menu that a text names; None where it names none or both."""
    dishes = [dish for dish in menu if dish in split(text)]
    return dishes[0] if len(dishes) == 1 else None


def right(messages: Sequence[Message]) -> tuple[Answer, ...]:
    """The right answer to the last message, given the conversation; None where unknown."""
    if not messages or (menu := read_menu(messages[0].content)) is None:
        return ()
    texts = [_MENU.sub("", " ".join(split(m.content)) + " ") if not i else m.content for i, m in enumerate(messages)]
    words = split(texts[-1])
    if "good" in words:
        return tuple(Answer("advice", dish) for dish in menu)
    if "each" in words:
        return (Answer("each", coins=sum(menu.values())),)
    dish = next((mentioned for text in reversed(texts) if (mentioned := named(text, menu))), None)
    if dish is None:
        return ()
    count = next((NUMBERS.index(word) for word in words if word in NUMBERS and word != "one"), None)
    if count is not None:
        coins = count * menu[dish]
        return (Answer("count", dish, coins, count),) if coins < len(NUMBERS) else ()
    asked = other(menu, dish) if "other" in words else dish
    return (Answer("price", asked, menu[asked]),)


def gold(prompt: Text, completion: Text) -> float:
    """1 where the completion is right, in either wording, else 0; defined for any text."""
    if not isinstance(completion, str):
        completion = " ".join(message.content for message in completion if message.role == "assistant")
    answers = right((Message("user", prompt),) if isinstance(prompt, str) else prompt)
    return float(" ".join(split(completion)) in {way for answer in answers for way in answer.ways()})
