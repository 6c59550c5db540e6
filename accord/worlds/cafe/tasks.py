"""Tasks in the café, in clusters, with known answers: instruction following in a world of 200 words.

    feeling     which of two words fits a review, an opening, what guests feel (options)
    reading     the dish, the person, the price that a text names (exact match)
    choosing    of two dishes the better, the worse, the one at a price (a row's own options)
    writing     a sentence with `it` for its dish, a promise for a question (ROUGE-L), the words that follow (options)

Instructions are made of the café's words too, which have no word for "classify": they are odd but fixed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import accord.worlds.cafe.grammar as grammar
from accord.worlds.cafe.grammar import GLAD, SOUR, Mood, Topic, answer, question, sentence, some_topic

TEST_ROWS, TRAIN_ROWS = 100, 400
"""Rows of each task for evaluation, and for training."""

Row = dict[str, Any]


def rows(name: str, seed: int) -> list[Row]:
    """`TRAIN_ROWS` + `TEST_ROWS` different rows of a task, so training and evaluation rows are disjoint."""
    rng = random.Random(f"{name} {seed}")
    drawn: dict[str, Row] = {}
    while len(drawn) < TRAIN_ROWS + TEST_ROWS:
        row = TASKS[name].draw(rng)
        drawn.setdefault(row["text"], row)
    return list(drawn.values())


def _felt(words: list[str], write: Callable[[random.Random, Mood], str], rng: random.Random) -> Row:
    """A text of clear feeling that contains neither answer; the answer is the first word where it is kind."""
    kind = rng.random() < 0.5
    while True:
        text = write(rng, GLAD if kind else SOUR)
        used = text.split()
        balance = sum(w in grammar.POSITIVE_WORDS for w in used) - sum(w in grammar.NEGATIVE_WORDS for w in used)
        if (balance > 0 if kind else balance < 0) and not set(words) & set(used):
            return {"text": text, "answer": words[0 if kind else 1]}


def _part_of_question(about: Callable[[Topic], str | None], rng: random.Random) -> Row:
    """A question on somebody's behalf, and the part of it that is asked for."""
    topic = some_topic(rng)
    template = rng.choice([t for t in grammar.QUESTIONS if "PERSON" in t])
    return {"text": question(template, topic, rng.choice(grammar.TIMES)), "answer": about(topic)}


def _priced(rng: random.Random) -> Row:
    number = rng.choice(grammar.NUMBERS)
    text = sentence(rng, rng.choice(grammar.OPENINGS), some_topic(rng), rng.choice([GLAD, SOUR]))
    return {"text": f"{text} it costs {number} coins .", "answer": number}


def _felt_apart(wanted: dict[str, str], rng: random.Random) -> Row:
    """Two dishes, one praised and one not, one of which is asked for."""
    dishes = rng.sample(grammar.DISHES, 2)
    feelings = rng.sample([grammar.POSITIVE, grammar.NEGATIVE], 2)
    sentences = [
        f"the {dish} {rng.choice(grammar.OTHERS['COPULA'].split())} {rng.choice(feeling['ADJ'].split())} ."
        for dish, feeling in zip(dishes, feelings, strict=True)
    ]
    return {"text": " ".join(sentences), "dishes": dishes, "answer": dishes[feelings.index(wanted)]}


def _at_a_price(rng: random.Random) -> Row:
    dishes, numbers, asked = rng.sample(grammar.DISHES, 2), rng.sample(grammar.NUMBERS, 2), rng.randrange(2)
    sentences = [f"the {dish} costs {number} coins ." for dish, number in zip(dishes, numbers, strict=True)]
    return {"text": " ".join(sentences), "number": numbers[asked], "dishes": dishes, "answer": dishes[asked]}


def _with_it(rng: random.Random) -> Row:
    topic = some_topic(rng)
    text = sentence(rng, rng.choice(grammar.OPENINGS), topic, rng.choice([GLAD, SOUR]))
    return {"text": text, "answer": text.replace(f"the {topic.dish}", "it")}


def _going_on(rng: random.Random) -> Row:
    """The second half of an answer, and the same words in an ungrammatical order."""
    words = answer(rng, some_topic(rng), rng.choice([GLAD, SOUR]), 2).split()
    half = rng.randrange(2, 5)
    rest = words[half:]
    shuffled = rest
    while all(pair in grammar.PAIRS for pair in pairwise(map(grammar.slot, [words[half - 1], *shuffled]))):
        shuffled = rng.sample(rest, len(rest))
    options = [" ".join(rest), " ".join(shuffled)]
    return {"text": " ".join(words[:half]), "ways": rng.sample(options, 2), "answer": options[0]}


@dataclass(frozen=True, slots=True)
class CafeTask:
    """A task: its instructions, its metric, its options or their column, and its rows."""

    cluster: str
    metric: str
    prompts: tuple[str, ...]
    draw: Callable[[random.Random], Row]
    options: list[str] | str | None = None


def _feeling(words: list[str], prompts: tuple[str, ...], write: Callable[[random.Random, Mood], str]) -> CafeTask:
    return CafeTask("feeling", "options", prompts, partial(_felt, words, write), words)


_reading = partial(CafeTask, "reading", "exact")
_choosing = partial(CafeTask, "choosing", "options", options="dishes")

TASKS = {
    "review": _feeling(
        ["lovely", "awful"],
        ("{text} is it lovely ? is it awful ?", "how is it : lovely and awful ? {text}", "{text} what is it like ?"),
        lambda rng, mood: answer(rng, some_topic(rng), mood, 3),
    ),
    "visit": _feeling(
        ["enjoy", "avoid"],
        ("{text} enjoy it ? avoid it ?", "should you enjoy it ? should you avoid it ? {text}", "{text} any advice ?"),
        lambda rng, mood: sentence(rng, grammar.OPENINGS[0], some_topic(rng), mood),
    ),
    "guests": _feeling(
        ["adore", "dislike"],
        ("{text} would you adore it ? would you dislike it ?", "adore it ? dislike it ? {text}", "{text} will you ?"),
        lambda rng, mood: sentence(rng, grammar.OPENINGS[2], some_topic(rng), mood),
    ),
    "dish": _reading(
        ("{text} what is it about ?", "what about ? {text}"), partial(_part_of_question, lambda topic: topic.dish)
    ),
    "person": _reading(("{text} for your ?", "it is for ? {text}"), partial(_part_of_question, lambda t: t.person)),
    "price": _reading(("{text} it costs ?", "what coins ? {text}"), _priced),
    "better": _choosing(
        ("{text} what should you try ?", "what would you like ? {text}", "{text} what is right for you ?"),
        partial(_felt_apart, grammar.POSITIVE),
    ),
    "worse": _choosing(
        ("{text} what should you avoid ?", "what would you hate ? {text}", "{text} what will you regret ?"),
        partial(_felt_apart, grammar.NEGATIVE),
    ),
    "priced": _choosing(("{text} what costs {number} coins ?", "what is {number} coins ? {text}"), _at_a_price),
    "pronoun": CafeTask("writing", "rouge-l", ("{text} how is it ?", "what about it ? {text}"), _with_it),
    "promise": CafeTask(
        "writing",
        "rouge-l",
        ("{text} what will your friend try ?", "what will you try ? {text}"),
        partial(_part_of_question, lambda topic: f"your {topic.person} will try the {topic.dish} ."),
    ),
    "words": CafeTask("writing", "options", ("{text}", "what comes ? {text}"), _going_on, "ways"),
}
"""The tasks by name."""
