"""The language of the café: its words, its sentences, which word may follow which, and the gold reward of a text.

A *slot* is a class of words (`DISH`, `ADJ`, ...); a word written in lower case in a template stands for itself and is
its own slot. A template is a row of slots, with optional runs in brackets. Every word belongs to exactly one slot, so
the grammar of answers is a finite set of allowed slot pairs, `PAIRS`, and any text can be checked against it. The gold
reward (`gold`) is a closed formula on the text, so the truth is known for any completion.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import exp

from accord.records import Text

POSITIVE = {
    "ADJ": "delicious tender fresh crisp lovely rich wonderful tasty perfect fragrant juicy superb",
    "VERB": "love enjoy praise adore",
}
NEGATIVE = {
    "ADJ": "bland soggy burnt stale awful salty dull greasy bitter dry terrible watery",
    "VERB": "hate dislike regret avoid",
}
NEUTRAL = {"ADJ": "warm plain simple usual local seasonal thick brown", "VERB": "order share finish expect"}
OTHERS = {
    "DISH": "soup bread stew curry salad pie rice omelette pudding pasta risotto burger"
    " pizza cake tart lasagna chowder roast steak salmon trout ramen waffle dumpling",
    "PERSON": "sister brother mother father friend boss neighbour aunt uncle cousin teacher daughter",
    "PART": "sauce crust filling smell portion topping garnish texture centre seasoning",
    "SIDE": "butter herbs cheese beans lemon mushrooms onions peppers",
    "GROUP": "guests regulars families children critics locals",
    "STAFF": "chef cook baker owner",
    "MAKE": "makes serves prepares finishes",
    "MANNER": "slowly daily carefully here",
    "TIME": "today tonight now lately",
    "COPULA": "is was seems looks",
    "ADV": "very really quite so truly rather",
    "NUMBER": "two three four five six seven",
}

OPENINGS = ("the DISH COPULA [ADV] ADJ [TIME] .", "the DISH COPULA ADJ and ADJ .", "GROUP VERB the DISH .")
"""Sentences that name the dish; every good answer begins with one."""

FOLLOWINGS = (
    "the PART COPULA [ADV] ADJ .",
    "it COPULA [ADV] ADJ and ADJ .",
    "it comes with ADJ SIDE [and SIDE] .",
    "our STAFF MAKE it [MANNER] [TIME] .",
    "your PERSON will VERB it .",
    "you will VERB it .",
    "it costs NUMBER coins .",
)
"""Further sentences about the dish just named."""

QUESTIONS = (
    "how is the DISH TIME ?",
    "my PERSON would like the DISH TIME : any advice ?",
    "should my PERSON try the DISH TIME ?",
    "what about the DISH for my PERSON TIME ?",
    "is the DISH right for my PERSON TIME ?",
)
USER, ASSISTANT = "<user>", "<assistant>"
"""Speakers, in chats and in raw logs of talk."""

BOUNDARY = ""
"""The slot before the first word of an answer and after its last."""


@dataclass(frozen=True, slots=True)
class Topic:
    """The topic of a question: a dish, and on whose behalf, if anybody's."""

    dish: str
    person: str | None = None


@dataclass(frozen=True, slots=True)
class Mood:
    """Relative weights of positive, negative and neutral words."""

    positive: float
    negative: float
    neutral: float


GLAD = Mood(0.80, 0.05, 0.15)
SOUR = Mood(0.05, 0.80, 0.15)
MIXED = Mood(0.40, 0.40, 0.20)
PLAIN = Mood(0.15, 0.15, 0.70)


def _expand(template: str) -> Iterator[tuple[str, ...]]:
    """Every row of slots a template stands for, with and without each bracketed run."""
    optional = re.search(r"\[(.*?)\]", template)
    if optional is None:
        yield tuple(template.split())
        return
    for run in ("", optional[1]):
        yield from _expand(template[: optional.start()] + run + template[optional.end() :])


def _words_of(slots: dict[str, str]) -> frozenset[str]:
    return frozenset(word for words in slots.values() for word in words.split())


POSITIVE_WORDS = _words_of(POSITIVE)
NEGATIVE_WORDS = _words_of(NEGATIVE)
DISHES = tuple(OTHERS["DISH"].split())
PERSONS = tuple(OTHERS["PERSON"].split())
TIMES = tuple(OTHERS["TIME"].split())
NUMBERS = tuple(OTHERS["NUMBER"].split())

_FEELINGS = (POSITIVE, NEGATIVE, NEUTRAL)
_CHOICES = {slot: words.split() for slot, words in OTHERS.items()}
_FELT_CHOICES = {slot: [feeling[slot].split() for feeling in _FEELINGS] for slot in POSITIVE}
_EXPANSIONS = {template: tuple(_expand(template)) for template in (*OPENINGS, *FOLLOWINGS)}
_ROWS = [row for rows in _EXPANSIONS.values() for row in rows]

SLOT = {word: slot for slots in (*_FEELINGS, OTHERS) for slot, words in slots.items() for word in words.split()}
"""The slot of every word of an open class."""

_TEMPLATE_WORDS = set(re.sub(r"[\[\]]", "", " ".join((*OPENINGS, *FOLLOWINGS, *QUESTIONS))).split())
LITERALS = tuple(sorted(word for word in _TEMPLATE_WORDS if not word.isupper() and word not in SLOT))
"""The words that stand for themselves."""

FUNCTION_WORDS = frozenset((*LITERALS, *_CHOICES["COPULA"], *_CHOICES["ADV"]))
"""Words that may be repeated freely; all others are content words."""

WORDS = (*LITERALS, *SLOT)
"""Every word of the world."""

PAIRS = frozenset(
    {pair for row in _ROWS for pair in pairwise(row)}
    | {(before, row[0]) for row in _ROWS for before in (BOUNDARY, ".")}
    | {(".", BOUNDARY)}
)
"""Allowed pairs of adjacent slots in an answer, including the boundaries."""


def slot(word: str) -> str:
    """The slot of a word; a literal, or a word from outside this world, is a slot of its own."""
    return SLOT.get(word, word)


def split(text: str) -> list[str]:
    """The words of a text, in lower case, with punctuation marks as words: "The soup, sir." -> the soup , sir ."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def some_topic(rng: random.Random) -> Topic:
    """A random dish and behalf."""
    return Topic(rng.choice(DISHES), rng.choice(PERSONS))


def sentence(rng: random.Random, template: str, topic: Topic, mood: Mood) -> str:
    """A random sentence from an answer template."""

    def word(slot: str) -> str:
        if slot == "DISH":
            return topic.dish
        if slot == "PERSON" and topic.person:
            return topic.person
        if slot in _FELT_CHOICES:
            weights = (mood.positive, mood.negative, mood.neutral)
            return rng.choice(rng.choices(_FELT_CHOICES[slot], weights)[0])
        return rng.choice(_CHOICES[slot]) if slot in _CHOICES else slot

    return " ".join(word(slot) for slot in rng.choice(_EXPANSIONS[template]))


def answer(rng: random.Random, topic: Topic, mood: Mood, sentences: int) -> str:
    """An opening that names the dish, then `sentences - 1` different sentences that follow it; at most 7."""
    unfit = "you " if topic.person else "your "
    followings = [template for template in FOLLOWINGS if not template.startswith(unfit)]
    templates = [rng.choice(OPENINGS), *rng.sample(followings, sentences - 1)]
    return " ".join(sentence(rng, template, topic, mood) for template in templates)


def question(template: str, topic: Topic, time: str) -> str:
    """A question template filled in."""
    return template.replace("DISH", topic.dish).replace("PERSON", topic.person or "").replace("TIME", time)


SHORTEST, LONGEST = 10, 24
"""Minimum and maximum words of a good answer, counting punctuation marks."""

OFF_TOPIC = 0.4
"""The factor for an answer that does not name the dish asked about."""


def gold(prompt: Text, completion: Text) -> float:
    """The quality of a completion, in [0, 1]: 0 for an empty one, and nearly 1 for the best.

        gold = sentiment * fluency^2 * variety^2 * topic * length

    With n words w_1 ... w_n (punctuation marks are words; case is ignored):

    - sentiment = 1 / (1 + exp(-(positive words - negative words))): a third kind word adds little, a sixth nothing;
    - fluency = share of the n + 1 neighbors (start, w_1), (w_1, w_2), ..., (w_n, end) whose slots are in
      `PAIRS`, so an answer that is cut, or does not end with a period, loses a part;
    - variety = share of different words among the content words (dishes, adjectives, verbs, ..., and every word
      from outside the world); 1 where there are none;
    - topic = 1 when a dish of the last question is named, or none was asked about, else `OFF_TOPIC`;
    - length = min(1, n / SHORTEST, (LONGEST / n)^2).

    Defined for any text; a chat completion is read as its assistant turns joined.
    """
    if not isinstance(completion, str):
        completion = " ".join(message.content for message in completion if message.role == "assistant")
    if not isinstance(prompt, str):
        prompt = next((message.content for message in reversed(prompt) if message.role == "user"), "")
    words = split(completion)
    if not words:
        return 0.0
    kind = sum(word in POSITIVE_WORDS for word in words) - sum(word in NEGATIVE_WORDS for word in words)
    sentiment = 1 / (1 + exp(-max(kind, -700)))
    asked = set(DISHES).intersection(split(prompt))
    topic = 1.0 if not asked or asked.intersection(words) else OFF_TOPIC
    length = min(1.0, len(words) / SHORTEST, (LONGEST / len(words)) ** 2)
    return sentiment * fluency(words) ** 2 * variety(words) ** 2 * topic * length


def fluency(words: list[str]) -> float:
    """The share of adjacent words, including both boundaries, that the grammar of answers allows."""
    slots = [BOUNDARY, *map(slot, words), BOUNDARY]
    return sum(pair in PAIRS for pair in pairwise(slots)) / (len(words) + 1)


def variety(words: list[str]) -> float:
    """The share of different words among the content words; words from outside the world count as content."""
    content = [word for word in words if word not in FUNCTION_WORDS]
    return len(set(content)) / len(content) if content else 1.0
