"""Grading an answer as correct, incorrect or not attempted (the answer says that it does not know), by rules of words.

    correct          it names the right answer, and no wrong one
    not attempted    it says that it does not know, or nothing at all
    incorrect        any other

These are the grades of SimpleQA (Wei et al. 2024, arXiv:2411.04368, section 2), by rules instead of a model that
grades. Rules err: tests/feedback/not_knowing.yaml has hand-labeled answers, and docs/failures.md the error rates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from accord.feedback.constraints import occurrences, words

Grade: TypeAlias = Literal["correct", "incorrect", "not attempted"]

OPENING = 200
"""Only this many characters at the beginning of an answer are searched for not knowing."""

_NOT = (
    r"(?:do not|don't|did not|didn't|can ?not|can't|could not|couldn't|would not|wouldn't|am unable to|'m unable to|"
    r"am not able to)"
)
_GUESSED = r"(?![^.!?]*\bbut (?:it|he|she|they|that|this|the|maybe|perhaps|probably|I (?:think|believe|guess))\b)"
"""Not followed by an answer nevertheless: `I don't know, but it is ...`."""
_SAYS_SO = [
    re.compile(pattern + _GUESSED, re.IGNORECASE)
    for pattern in (
        rf"\b(?:I|we)(?: really| honestly| simply| just)?(?: |(?='))(?:{_NOT}) (?:really |actually |possibly )?"
        r"(?:know|tell|say|recall|remember|guess|determine|see|hear|find out|answer (?:that|this|the question))\b",
        r"\bI(?: am|'m)(?: really| honestly)? (?:not (?:sure|certain|aware)|unsure|uncertain|unaware)\b",
        r"\bI have (?:no|not the (?:faintest|slightest)) (?:idea|clue|knowledge|information|way)\b",
        r"\bI (?:do not|don't) have (?:any |enough |the |that |this )?(?:\w+ )?"
        r"(?:information|knowledge|access|idea|data)\b",
        r"\b(?:nobody|no one|none of us) (?:knows|can (?:know|tell|say)|could (?:know|tell|say))\b(?! (?:\w+ )?better)",
        r"\b(?:that|this|it|the answer)(?:'s| is| was) (?:(?:not known|unknown)\b(?! (?:for|as|to|by)\b)|"
        r"impossible to (?:know|tell|say)|(?:beyond|more than) (?:what )?I\b)",
        r"\bthere(?:'s| is) no way (?:to|of) (?:know|tell)",
        r"\bonly you (?:can )?know\b|\byour guess is as good as mine\b|^\W*who knows\b",
        r"^\W*(?:no idea|unknown|not sure)\W*(?:$|[.!,;])",
    )
]


def does_not_know(text: str) -> bool:
    """Whether the first `OPENING` characters say that the writer does not know, or that nobody can."""
    opening = text.strip().replace("’", "'")[:OPENING]
    return any(pattern.search(opening) for pattern in _SAYS_SO)


def grade(text: str, right: str | None, wrong: Sequence[str] = ()) -> Grade:
    """The grade of an answer, from the names of the right answer and of wrong ones; `right` None means none is right.

    Names match as whole words, without regard to letter case, white space and final punctuation. A wrong name inside
    the right answer's name does not count (York in New York).
    """
    rest = text
    if right is not None:
        rest = occurrences(_named(right)).sub(" ", text)
    if any(occurrences(_named(one)).search(rest) for one in wrong):
        return "incorrect"
    if rest != text:
        return "correct"
    return "not attempted" if does_not_know(text) or not words(text) else "incorrect"


def same_words(text: str, answer: str) -> bool:
    """Whether a text has exactly the words of the answer, without regard to letter case and punctuation."""
    return [word.casefold() for word in words(text)] == [word.casefold() for word in words(answer)]


def _named(answer: str) -> str:
    return answer.strip().rstrip(".!?").strip() or answer
