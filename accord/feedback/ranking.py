"""A language model as a judge of several answers at once: it sees all K answers to a prompt, in K orders.

Each order is the one before with its first answer moved to the end, so that each answer stands once in each place. From
the probabilities p_r(k) that the reply in order r begins with answer k's letter,

    score of k = mean over r of log p_r(k),      P(k before l) = sigmoid(score of k - score of l)

by Luce's choice axiom (1959), under which the probability of being named first determines the ranking. What a place
adds to the log-odds is the same sum for every answer, so it cancels exactly. Where a probability is 0, whose logarithm
is undefined, the score is the mean of p. Where the model gives no probabilities, the order it writes, such as
B > A = C, is parsed strictly, and the score is minus the mean place (Borda's count); equal scores are ties.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from accord.errors import InputError
from accord.feedback.asking import LEAST, PrincipledJudge, Question
from accord.feedback.judge import outcome
from accord.feedback.reward import excerpt, unsampled
from accord.prompting.requests import Reply
from accord.records import Comparison, Text, Verdict, show

SHOWN = """\
Below is a conversation with an assistant, and several answers that it could give next.

{principle}

[Conversation]
{prompt}

{answers}

"""
ORDER = "Reply with the letters, best first, > between them, or = where two are equally good, and nothing else."
QUESTION = f"{SHOWN}Which answers are to be preferred? {ORDER}"
"""The default template."""
REASONED = f"{SHOWN}Which answers are to be preferred? Do not say it yet: explain what speaks for and against each."
"""The default template where the judge reasons first."""
VERDICT = f"So which answers are to be preferred? {ORDER}"
PER_LETTER = 4
"""Tokens of a served reply to allow per letter."""

Group: TypeAlias = tuple[Text, Sequence[Text], Mapping[str, Any]]
"""A prompt, the answers to rank and the row's columns."""


@dataclass(frozen=True)
class Standing:
    """The scores of one prompt's answers, in order, and the unit of their differences; or why there are none."""

    scores: tuple[float, ...] = ()
    unit: Literal["log", "share", "place"] = "log"
    reason: str = ""

    @property
    def ranks(self) -> tuple[int, ...]:
        """0 for the best, equal for equal scores."""
        order = sorted(set(self.scores), reverse=True)
        return tuple(order.index(score) for score in self.scores)


class RankingJudge(PrincipledJudge):
    """A judge that asks a language model to rank the answers of a prompt by principles.

    As a judge of two answers it asks in both orders itself. One invalid reply makes the whole ranking invalid.
    """

    symmetric = True
    question, reasoned, answers = QUESTION, REASONED, ("answers",)

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        return [
            _verdict(standing)
            for standing in self.rank([(c.prompt, (c.first, c.second), c.columns) for c in comparisons])
        ]

    def rank(self, groups: Sequence[Group]) -> list[Standing]:
        """The scores of every prompt's answers.

        Raises InputError where a row lacks a column of the template, there are more answers than letters, or a server
        answers nothing.
        """
        asked = [self.questions(group) for group in groups]
        replies = iter(self.asker.replies([question for some in asked for question in some]))
        return [
            _standing([next(replies) for _ in some], len(answers))
            for some, (_, answers, _) in zip(asked, groups, strict=True)
        ]

    def questions(self, group: Group) -> list[Question]:
        """The questions about one prompt's answers: one for each principle drawn, in each order."""
        prompt, answers, columns = group
        texts, count = [unsampled(prompt, answer).text for answer in answers], len(answers)
        if not 1 < count <= len(ascii_uppercase):
            raise InputError(f"a model ranks 2 to 26 answers, and {excerpt(show(prompt))!r} has {count}.")
        letters, questions = ascii_uppercase[:count], []
        for principle in self.draw(prompt, texts):
            for turn in range(count):
                shown = zip(letters, [*texts[turn:], *texts[:turn]], strict=True)
                named = "\n\n".join(f"[Answer {letter}]\n{text}" for letter, text in shown)
                text = self.asker.filled(columns, principle=principle, prompt=show(prompt), answers=named)
                room = PER_LETTER * count if self.asker.max_tokens else 0
                questions.append(Question(text, VERDICT, tuple(letters) if self.has_options else (), room))
        return questions


def _standing(replies: Sequence[Reply], count: int) -> Standing:
    """The scores from the replies in every order, one principle after the other."""
    letters = ascii_uppercase[:count]
    silent = next((reply for reply in replies if reply.text is None), None)
    if silent is not None:
        return Standing(reason=silent.reason)
    known = [reply.choices for reply in replies if reply.choices is not None]
    has_chances = len(known) == len(replies)
    shown: list[list[float]] = []
    if has_chances:
        least = min(sum(choices.values()) for choices in known)
        if not least >= LEAST:
            return Standing(reason=f"unclear: the judge gives all letters a probability of {least:.2g} together")
        shown = [[choices[letter] / sum(choices.values()) for letter in letters] for choices in known]
    else:
        for reply in replies:
            places = places_of(str(reply.text), letters)
            if places is None:
                kind = "cut before the order" if reply.is_cut else "no order"
                return Standing(reason=f"{kind}: the judge replied {excerpt(repr(reply.text))}")
            shown.append([-position for position in places])
    of_answers: NDArray[np.float64] = np.array([np.roll(row, i % count) for i, row in enumerate(shown)])
    if not has_chances:
        return Standing(tuple(of_answers.mean(0).tolist()), "place")
    if (of_answers == 0).any():
        return Standing(tuple(of_answers.mean(0).tolist()), "share")
    return Standing(tuple(np.log(of_answers).mean(0).tolist()))


def _verdict(standing: Standing) -> Verdict:
    """P(the first of two is better)."""
    if not standing.scores:
        return Verdict(None, standing.reason)
    first, second = standing.scores
    if standing.unit == "log":
        return Verdict(float(expit(first - second)))
    return Verdict(first / (first + second) if standing.unit == "share" else outcome(first - second))


_ORDER = re.compile(
    r"[^\w=>]*(?:(?:[Rr]anking|[Oo]rder|[Aa]nswer)\W+)?([A-Z](?:\s*[>=]\s*[A-Z])*)(?:[^\w\s>=]|\n|\s*$)"
)
"""A reply that ranks: it begins with the order, as B > A = C, Ranking: B>A=C., **B > A**; but not "B is the best"."""


def places_of(text: str, letters: str) -> list[float] | None:
    """Each letter's place in a written order, 0 for the best; equal letters get the mean of their places.

    None where the text does not begin with an order of exactly these letters.
    """
    match = _ORDER.match(text)
    if match is None:
        return None
    steps = ["".join(step.split()).split("=") for step in match[1].split(">")]
    if sorted(letter for step in steps for letter in step) != sorted(letters):
        return None
    places: dict[str, float] = {}
    for step in steps:
        places |= dict.fromkeys(step, len(places) + (len(step) - 1) / 2)
    return [places[letter] for letter in letters]
