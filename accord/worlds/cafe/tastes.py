"""Guests with known individual tastes, to measure whose preferences a model follows.

A taste is a weight w on each of three features f of an answer: length, kindness and emphasis. A guest prefers the first
of two answers with probability sigmoid(w . (f(first) - f(second))). A population is a few tastes with their
frequencies. The best prediction without knowing a guest's taste, but given k of the guest's choices, is a sum over the
tastes:

    P(first | choices) = sum over w of P(w | choices) sigmoid(w . (f(first) - f(second)))
    P(w | choices)  proportional to  P(w) * product over the choices of sigmoid(w . (f(chosen) - f(rejected)))
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, logit

import accord.worlds.cafe.grammar as grammar
from accord.errors import InputError
from accord.records import Preference, row_to_json
from accord.worlds.cafe.texts import HELD_OUT, TRAINING, chat

Population = Literal["opposite", "overlapping", "groups", "directions"]
Floats = NDArray[np.float64]

EMPHATIC = frozenset(grammar.OTHERS["ADV"].split())
STRENGTH = 4.0
"""The norm of w, in units of the features: guests go against their tastes in 3 to 12 of a hundred choices."""


@dataclass(frozen=True, slots=True)
class Taste:
    """A taste: weights on length, kindness and emphasis, and the share of guests who have it."""

    name: str
    share: float
    weights: tuple[float, float, float]
    group: str = ""
    """The guests' group; by default the taste's name."""


def _directions() -> tuple[Taste, ...]:
    """All 26 directions of -1, 0 and 1; those that like kind answers are three times as frequent."""
    every = [np.array(signs) for signs in product((-1, 0, 1), repeat=3) if any(signs)]
    frequency = [3.0 if kind > 0 else 1.0 for _, kind, _ in every]
    names = ({-1: "brief", 1: "long"}, {-1: "stern", 1: "kind"}, {-1: "calm", 1: "emphatic"})
    return tuple(
        Taste(
            " and ".join(words[sign] for words, sign in zip(names, signs.tolist(), strict=True) if sign),
            often / sum(frequency),
            tuple((STRENGTH * signs / np.linalg.norm(signs)).tolist()),  # type: ignore[arg-type]
            {1: "like kind answers", 0: "do not mind", -1: "like stern answers"}[int(signs[1])],
        )
        for signs, often in zip(every, frequency, strict=True)
    )


POPULATIONS: dict[Population, tuple[Taste, ...]] = {
    "opposite": (Taste("kind", 0.5, (0, STRENGTH, 0)), Taste("stern", 0.5, (0, -STRENGTH, 0))),
    "overlapping": (
        Taste("kind and brief", 0.5, (-STRENGTH / 2**0.5, STRENGTH / 2**0.5, 0)),
        Taste("kind and long", 0.5, (STRENGTH / 2**0.5, STRENGTH / 2**0.5, 0)),
    ),
    "groups": (
        Taste("kind", 0.5, (0, STRENGTH, 0)),
        Taste("stern", 0.2, (0, -STRENGTH, 0)),
        Taste("brief", 0.2, (-STRENGTH, 0, 0)),
        Taste("emphatic", 0.1, (0, 0, STRENGTH)),
    ),
    "directions": _directions(),
}
"""Two opposite tastes; two that share half; four groups, half of the guests in one; all directions."""


def features(text: str) -> Floats:
    """Length, kindness and emphasis of an answer, (3,), scaled so that answers differ by about 1."""
    words = text.split()
    kind = sum(w in grammar.POSITIVE_WORDS for w in words) - sum(w in grammar.NEGATIVE_WORDS for w in words)
    return np.array([len(words) / 3.5, kind / 1.5, sum(w in EMPHATIC for w in words) / 0.45])


def comparisons(seed: int, population: Population, users: int, each: int, *, unseen: bool) -> list[dict[str, Any]]:
    """Choices of guests, guest by guest, each with its `user`, and the user's `group` and `taste`.

    Unseen guests are different ones and ask different questions. Both answers of a choice are about the dish asked for,
    have one or two sentences, and differ in something that a taste of the population weighs.
    """
    kind = "unseen" if unseen else "seen"
    rng = random.Random(f"tastes {population} {kind} {seed}")
    tastes = POPULATIONS[population]
    drawn = rng.choices(tastes, [taste.share for taste in tastes], k=users)
    return [
        _choice(rng, taste, tastes, HELD_OUT if unseen else TRAINING) | {"user": f"{kind} {number}"}
        for number, taste in enumerate(drawn, start=1)
        for _ in range(each)
    ]


def _choice(
    rng: random.Random, taste: Taste, tastes: Sequence[Taste], questions: Sequence[tuple[str, grammar.Topic]]
) -> dict[str, Any]:
    minded = np.any([other.weights for other in tastes], axis=0)
    asked, topic = rng.choice(questions)
    while True:
        first, second = (grammar.answer(rng, topic, _mood(rng), rng.randint(1, 2)) for _ in range(2))
        apart = features(first) - features(second)
        if apart[minded].any():
            break
    if rng.random() >= expit(apart @ taste.weights):
        first, second = second, first
    return row_to_json(Preference(chat(asked), first, second)) | {
        "group": taste.group or taste.name,
        "taste": taste.name,
    }


def _mood(rng: random.Random) -> grammar.Mood:
    return rng.choice((grammar.GLAD, grammar.MIXED, grammar.SOUR))


def gaps(pairs: Sequence[tuple[str, str]]) -> Floats:
    """f(first) - f(second) of every pair of answers, (P, 3)."""
    return np.array([features(first) - features(second) for first, second in pairs]).reshape(-1, 3)


def bayes(population: Population, chosen: Floats, asked: Floats) -> Floats:
    """The log-odds that a guest prefers the first answer given earlier choices: the optimal prediction, (Q,).

    `chosen` (k, 3) is f(chosen) - f(rejected) of each choice, `asked` (Q, 3) f(first) - f(second) of each question.
    """
    tastes = POPULATIONS[population]
    weights = np.array([taste.weights for taste in tastes], dtype=np.float64)  # (W, 3)
    log_posterior = np.log([taste.share for taste in tastes]) + log_expit(weights @ chosen.T).sum(1)
    posterior = np.exp(log_posterior - np.logaddexp.reduce(log_posterior))
    chance = (posterior @ expit(weights @ asked.T)).clip(1e-12, 1 - 1e-12)
    return np.asarray(logit(chance.round(12)))  # a half is even, however its sum was rounded


def oracle(population: Population, name: str, asked: Floats) -> Floats:
    """The same given the guest's taste by name. Raises InputError where the population has no such taste."""
    taste = next((taste for taste in POPULATIONS[population] if taste.name == name), None)
    if taste is None:
        names = ", ".join(taste.name for taste in POPULATIONS[population])
        raise InputError(f"the guests of {population} have the tastes {names}, and none is {name!r}")
    return asked @ np.array(taste.weights)


def prefers(prompts: Sequence[Any], firsts: Sequence[Any], seconds: Sequence[Any], taste: Sequence[str]) -> list[float]:
    """The probability that a guest of each row's `taste` prefers the first answer: a judge of `module:function`.

    Raises InputError where no population has the taste.
    """
    known = {one.name: one.weights for tastes in POPULATIONS.values() for one in tastes}
    absent = next((name for name in taste if name not in known), None)
    if absent is not None:
        raise InputError(f"no guest of the café has the taste {absent!r}; the tastes are {', '.join(known)}")
    texts = [[a if isinstance(a, str) else a[-1]["content"] for a in answers] for answers in (firsts, seconds)]
    apart = gaps(list(zip(*texts, strict=True)))
    return [float(expit(gap @ known[name])) for gap, name in zip(apart, taste, strict=True)]
