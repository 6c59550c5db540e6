"""The gold reward of the café: a closed formula on the text, so the truth is known for any completion."""

from __future__ import annotations

from itertools import pairwise
from math import exp

from accord.records import Text
from accord.worlds.cafe.grammar import (
    BOUNDARY,
    DISHES,
    FUNCTION_WORDS,
    NEGATIVE_WORDS,
    PAIRS,
    POSITIVE_WORDS,
    slot,
    split,
)

SHORTEST, LONGEST = 10, 24
"""A good answer has between so many words, punctuation marks counted."""

OFF_TOPIC = 0.4
"""What is left of an answer that does not name the dish asked about."""

_DISHES = frozenset(DISHES)


def gold(prompt: Text, completion: Text) -> float:
    """How well a completion answers, in [0, 1]: 0 for an empty one, and nearly 1 for the best.

        gold = sentiment * fluency^2 * variety^2 * topic * length

    With n words w_1 ... w_n (punctuation marks are words; letter case does not matter):

    - sentiment = 1 / (1 + exp(-(positive words - negative words))): a third kind word adds little, a sixth nothing;
    - fluency = share of the n + 1 neighbours (start, w_1), (w_1, w_2), ..., (w_n, end) whose slots are in
      `grammar.PAIRS`, so an answer that was cut short, or does not end with a full stop, loses a part;
    - variety = share of different words among the content words (dishes, adjectives, verbs, ..., and every word
      from outside the world); 1 where there are none;
    - topic = 1 when a dish of the last question is named, or none was asked about, else `OFF_TOPIC`;
    - length = min(1, n / SHORTEST, (LONGEST / n)^2).

    Defined for any text whatever; a chat completion is read as its assistant turns joined.
    """
    words = split(_completion_text(completion))
    if not words:
        return 0.0
    kind = sum(word in POSITIVE_WORDS for word in words) - sum(word in NEGATIVE_WORDS for word in words)
    sentiment = 1 / (1 + exp(-max(kind, -700)))
    length = min(1.0, len(words) / SHORTEST, (LONGEST / len(words)) ** 2)
    return sentiment * fluency(words) ** 2 * variety(words) ** 2 * _topic(prompt, words) * length


def fluency(words: list[str]) -> float:
    """The share of neighbouring words, both boundaries included, that the grammar of answers allows."""
    slots = [BOUNDARY, *map(slot, words), BOUNDARY]
    return sum(pair in PAIRS for pair in pairwise(slots)) / (len(words) + 1)


def variety(words: list[str]) -> float:
    """The share of different words among the content words; words from outside the world count as content."""
    content = [word for word in words if word not in FUNCTION_WORDS]
    return len(set(content)) / len(content) if content else 1.0


def _topic(prompt: Text, words: list[str]) -> float:
    asked = _DISHES.intersection(split(_question_text(prompt)))
    return 1.0 if not asked or asked.intersection(words) else OFF_TOPIC


def _question_text(prompt: Text) -> str:
    if isinstance(prompt, str):
        return prompt
    return next((message.content for message in reversed(prompt) if message.role == "user"), "")


def _completion_text(completion: Text) -> str:
    if isinstance(completion, str):
        return completion
    return " ".join(message.content for message in completion if message.role == "assistant")
