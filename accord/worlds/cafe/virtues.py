"""A constitution for answers in the café, and simulated people who criticize, revise and judge by it.

    <user> how is the soup now ?        <assistant> the pie is bland and fresh .
    <user> what is awful about it ?     <assistant> bland .
    <user> what would you love ?        <assistant> the pie is superb and fresh .

A virtue knows which words of an answer violate it. A critic names each of them with probability `SKILL`; a reviser
replaces each named word, or, without a critique, each word it finds itself, again with probability `SKILL`; one
revision in `SLIPS` changes another word by mistake. A model trained on such rows criticizes and revises as imperfectly.
The virtues are three factors of the gold reward (`grammar.gold`): sentiment, topic, variety.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import accord.worlds.cafe.grammar as grammar
from accord.records import Demonstration, Message
from accord.worlds.cafe.grammar import Topic, answer, some_topic
from accord.worlds.cafe.texts import TRAINING, some_mood

SKILL, SLIPS = 0.8, 10
"""The probability of finding a word that violates a virtue; one in this many revisions has a slip."""

GOOD, BAD = "lovely", "awful"
"""Verdicts on a single answer."""

NOTHING = "it is right ."
"""The critique where nothing is found."""

OFF_TOPIC, REPEATS = 0.2, 0.3
"""Shares of answers to criticize that are about another dish, and that repeat a word."""

Words = Sequence[str]


def _unkind(words: Words, topic: Topic) -> list[int]:
    return [i for i, w in enumerate(words) if grammar.slot(w) in grammar.POSITIVE and w not in grammar.POSITIVE_WORDS]


def _other_dishes(words: Words, topic: Topic) -> list[int]:
    return [i for i, word in enumerate(words) if grammar.slot(word) == "DISH" and word != topic.dish]


def _again(words: Words, topic: Topic) -> list[int]:
    return [i for i, word in enumerate(words) if word not in {*grammar.FUNCTION_WORDS, "."} and word in words[:i]]


@dataclass(frozen=True, slots=True)
class Virtue:
    """One principle, in the few words of the café: odd but fixed.

    `faults` returns the positions of the words that violate it.
    """

    name: str
    prefer: str
    critique: str
    revision: str
    faults: Callable[[Words, Topic], list[int]]

    def principle(self) -> dict[str, str]:
        """The principle as in a constitution's file."""
        return {name: getattr(self, name) for name in ("name", "prefer", "critique", "revision")}

    def goodness(self, words: Words, topic: Topic) -> float:
        """P(a person calls the answer good): the logistic function of kind minus unkind words, or of faults."""
        count = 3.0 - 6.0 * len(self.faults(words, topic))
        if self.name == "kind":
            count = sum(w in grammar.POSITIVE_WORDS for w in words) - sum(w in grammar.NEGATIVE_WORDS for w in words)
        return 1 / (1 + exp(-count))


VIRTUES = (
    Virtue("kind", "is it lovely ?", "what is awful about it ?", "what would you love ?", _unkind),
    Virtue("on topic", "is it about it ?", "what is it about ?", "what about it ?", _other_dishes),
    Virtue("varied", "is it fresh ?", "what comes two and three ?", "what comes fresh ?", _again),
)


def critiques(seed: int, n: int) -> list[Demonstration]:
    """`n` rows: for each virtue in turn a critique, a revision after it, one without it, and a verdict."""
    rng = random.Random(f"critiques {seed}")
    kinds = (_critique, _revision, _direct, _verdict)
    return [kinds[i // len(VIRTUES) % len(kinds)](rng, VIRTUES[i % len(VIRTUES)]) for i in range(n)]


def constitution() -> dict[str, Any]:
    """The virtues as `accord.feedback.constitution` reads them."""
    return {"principles": [virtue.principle() for virtue in VIRTUES]}


def _question_and_answer(rng: random.Random) -> tuple[str, Topic, list[str]]:
    """A question, its topic, and the words of an answer to criticize."""
    text, topic = rng.choice(TRAINING)
    about = some_topic(rng) if rng.random() < OFF_TOPIC else topic
    words = answer(rng, about, some_mood(rng), rng.randint(2, 4)).split()
    if rng.random() < REPEATS:
        index = rng.randrange(len(words))
        same = [w for w in words[:index] if grammar.slot(w) == grammar.slot(words[index])]
        words[index] = rng.choice(same or [words[index]])
    return text, topic, words[:36]


def _noticed(rng: random.Random, faults: Sequence[int]) -> list[int]:
    return [index for index in faults if rng.random() < SKILL]


def _criticism(words: Words, indices: Sequence[int]) -> str:
    named = list(dict.fromkeys(words[index] for index in indices))
    return f"{' and '.join(named)} ." if named else NOTHING


def _revised(rng: random.Random, words: list[str], places: Sequence[int], topic: Topic) -> str:
    """The words with those at these positions replaced by kind, new words of the same slot; or with a slip."""
    words = list(words)
    for index in places:
        slot = grammar.slot(words[index])
        choices = (grammar.POSITIVE if slot in grammar.POSITIVE else grammar.OTHERS).get(slot, words[index]).split()
        left = [word for word in choices if word not in words]
        words[index] = topic.dish if slot == "DISH" and words[index] != topic.dish else rng.choice(left or choices)
    if rng.random() < 1 / SLIPS:
        index = rng.randrange(len(words))
        same = [word for word in grammar.SLOT if grammar.slot(word) == grammar.slot(words[index])]
        words[index] = rng.choice(same or [words[index]])
    return " ".join(words)


def _chat(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


def _critique(rng: random.Random, virtue: Virtue) -> Demonstration:
    text, topic, words = _question_and_answer(rng)
    critique = _criticism(words, _noticed(rng, virtue.faults(words, topic)))
    return Demonstration(_chat(text, " ".join(words), virtue.critique), critique)


def _revision(rng: random.Random, virtue: Virtue) -> Demonstration:
    text, topic, words = _question_and_answer(rng)
    noticed = _noticed(rng, virtue.faults(words, topic))
    turns = (text, " ".join(words), virtue.critique, _criticism(words, noticed), virtue.revision)
    return Demonstration(_chat(*turns), _revised(rng, words, noticed, topic))


def _direct(rng: random.Random, virtue: Virtue) -> Demonstration:
    text, topic, words = _question_and_answer(rng)
    noticed = _noticed(rng, virtue.faults(words, topic))
    return Demonstration(_chat(text, " ".join(words), virtue.revision), _revised(rng, words, noticed, topic))


def _verdict(rng: random.Random, virtue: Virtue) -> Demonstration:
    text, topic, words = _question_and_answer(rng)
    verdict = GOOD if rng.random() < virtue.goodness(words, topic) else BAD
    return Demonstration(_chat(text, " ".join(words), virtue.prefer), verdict)
