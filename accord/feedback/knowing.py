"""Whether an answer is right, wrong, or says that it does not know, and what says so.

    correct          it names the right answer, and no wrong one
    not attempted    it says that it does not know, or nothing at all
    incorrect        any other

These are the grades of SimpleQA (Wei et al. 2024, arXiv:2411.04368, section 2), by rules of words in place of a model
that grades. Rules err: tests/feedback/not_knowing.yaml has answers that were labeled by reading them, and
docs/failures.md the shares.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from accord.feedback.constraints import occurrences, words

Grade: TypeAlias = Literal["correct", "incorrect", "not attempted"]

OPENING = 200
"""Characters from the beginning of an answer in which not knowing is looked for."""

_NOT = (
    r"(?:do not|don't|did not|didn't|can ?not|can't|could not|couldn't|would not|wouldn't|am unable to|'m unable to|"
    r"am not able to)"
)
_GUESSED = r"(?![^.!?]*\bbut (?:it|he|she|they|that|this|the|maybe|perhaps|probably|I (?:think|believe|guess))\b)"
"""Not followed by an answer all the same: `I don't know, but it is ...`."""
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
    """Whether an answer says, within its first `OPENING` characters, that its writer does not, or nobody can, know."""
    opening = text.strip().replace("’", "'")[:OPENING]
    return any(pattern.search(opening) for pattern in _SAYS_SO)


def grade(text: str, right: str | None, wrong: Sequence[str] = ()) -> Grade:
    """The grade of an answer, by the words that name the right answer and wrong ones; None where nothing is right.

    Letter case, white space and punctuation at the end of what is named do not matter, and it stands there as words of
    its own. What the right answer's own words name is no wrong answer (New York is not York).
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
    """Whether a text is the answer, word for word, but for letter case and punctuation."""
    return [word.casefold() for word in words(text)] == [word.casefold() for word in words(answer)]


def _named(answer: str) -> str:
    return answer.strip().rstrip(".!?").strip() or answer
