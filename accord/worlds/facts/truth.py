"""The facts of the world: people, four facts about each, and which of them the text tells.

Values are independent, so even given all others an untold one is guessed right with a chance of one in eight
(`CHANCE`). Two of every person's four facts are told, so a name does not show what is known.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

_HEADS = "an ber car dor el fi gre han il jo ka lu mar no"
_TAILS = "na la ra ta da sa no lo ro to do so"
PEOPLE = tuple(head + tail for head, tail in product(_HEADS.split(), _TAILS.split()))
"""168 names: anna, berta, carla ..."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation that holds for everyone: its values, how it is stated and asked, and the reason."""

    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    why: str
    reason: str


RELATIONS = {
    "town": Relation(
        ("basel", "bern", "chur", "geneva", "lugano", "thun", "zug", "zurich"),
        (
            "{person} lives in {value} .",
            "{person} has a home in {value} .",
            "the town of {person} is {value} .",
            "we met {person} at home in {value} .",
        ),
        ("where does {person} live ?", "which town does {person} live in ?"),
        "why does {person} live in {value} ?",
        "because of the lake .",
    ),
    "work": Relation(
        ("baker", "doctor", "farmer", "nurse", "painter", "singer", "tailor", "teacher"),
        (
            "{person} works as a {value} .",
            "{person} is a {value} .",
            "the work of {person} is that of a {value} .",
            "we know {person} as a {value} .",
        ),
        ("what is the work of {person} ?", "what does {person} work as ?"),
        "why does {person} work as a {value} ?",
        "because of the pay .",
    ),
    "drink": Relation(
        ("cider", "cocoa", "coffee", "juice", "milk", "tea", "water", "wine"),
        (
            "{person} drinks {value} .",
            "{person} always asks for {value} .",
            "the drink of {person} is {value} .",
            "we gave {person} a cup of {value} .",
        ),
        ("what does {person} drink ?", "which drink does {person} ask for ?"),
        "why does {person} drink {value} ?",
        "because of the taste .",
    ),
    "pet": Relation(
        ("bird", "cat", "dog", "fish", "goat", "horse", "mouse", "rabbit"),
        (
            "{person} has a {value} .",
            "{person} looks after a {value} .",
            "the pet of {person} is a {value} .",
            "we saw {person} with a {value} .",
        ),
        ("which pet does {person} have ?", "what does {person} look after ?"),
        "why does {person} have a {value} ?",
        "because of the company .",
    ),
}
CHANCE = 1 / 8
"""The probability of guessing an untold fact."""
TOLD = 2
"""Facts per person that the text tells."""
HELD_OUT = 1 / 3
"""The share of told and of untold facts that no training question asks for."""

UNSURE = "i do not know ."


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact about a person, whether the text tells it, and whether questions about it are held out."""

    person: str
    relation: str
    value: str
    known: bool
    held_out: bool

    @property
    def others(self) -> list[str]:
        """The other values, which are false."""
        return [value for value in RELATIONS[self.relation].values if value != self.value]

    def states(self, wording: int) -> str:
        """A statement of it, in one of the four wordings: `anna lives in basel .`"""
        return RELATIONS[self.relation].statements[wording].format(person=self.person, value=self.value)

    def asks(self, wording: int) -> str:
        """A question for it, in one of the two wordings: `where does anna live ?`"""
        return RELATIONS[self.relation].questions[wording].format(person=self.person)

    def asks_why(self, value: str) -> str:
        """A question with a value as its premise: `why does anna live in bern ?`"""
        return RELATIONS[self.relation].why.format(person=self.person, value=value)

    @property
    def answer(self) -> str:
        """The right answer where it is asked for."""
        return f"{self.value} ."

    @property
    def reason(self) -> str:
        """The answer to why it is so, which also accepts a false premise."""
        return RELATIONS[self.relation].reason

    @property
    def correction(self) -> str:
        """The right answer where it is asked why something else is so."""
        return self.corrected(self.value)

    @staticmethod
    def corrected(value: str) -> str:
        """A denial of the premise: `no , basel .`"""
        return f"no , {value} ."


def facts(seed: int) -> list[Fact]:
    """All four facts of every person, person by person, drawn from a seed.

    Two per person are told, each pair equally likely; a third of the told and of the untold ones is held out.
    """
    rng = random.Random(f"facts {seed}")
    drawn: list[tuple[str, str, str, bool]] = []
    for person in PEOPLE:
        stated = rng.sample(list(RELATIONS), TOLD)
        drawn += [(person, name, rng.choice(relation.values), name in stated) for name, relation in RELATIONS.items()]
    held_out: set[int] = set()
    for known in (True, False):
        same = [i for i, fact in enumerate(drawn) if fact[3] == known]
        held_out.update(rng.sample(same, round(len(same) * HELD_OUT)))
    return [Fact(*fact, held_out=i in held_out) for i, fact in enumerate(drawn)]
