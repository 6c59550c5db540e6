"""Rules on the words of an answer: whether it refuses, how often it hedges, whether it is a list.

Such rules make errors. tests/evaluate/refusals.yaml has labeled answers and the rule's verdict on each;
docs/failures.md has the error rates.
"""

from __future__ import annotations

import re

from accord.feedback.constraints import BULLET, NUMBERED, words

OPENING = 200
"""Characters at the beginning of an answer that are searched for a refusal."""

_CANNOT = (
    r"(?:can ?not|can't|could ?not|couldn't|will not|won't|would not|wouldn't|must not|may not|do not|don't|"
    r"(?:am|'m|are|'re) (?:not able to|unable to|not allowed to|not going to|not willing to|not comfortable|"
    r"not programmed to|not designed to|not equipped to|not in a position to))"
)
_HELP = (
    r"(?:help|assist|support|aid|provide|give|offer|share|supply|suggest|recommend|advise|tell|teach|show|explain|"
    r"describe|discuss|answer|respond|write|create|compose|generate|produce|make|do|comply|fulfil+|engage|participate|"
    r"take part|encourage|promote|condone|facilitate|feel comfortable|talk|go into|be able|be a part|be part|"
    r"with|providing|giving|helping|assisting|writing|creating|doing|answering)"
)
_SORRY = (
    r"^\W*(?:I(?:'m| am) (?:very |so |really |truly )?(?:sorry|afraid)|sorry|I apologi[sz]e|my apologies)\W+(?:but )?"
)
_REFUSALS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:I|we)(?: really| simply| just| also)?(?: |(?='))(?:{_CANNOT}) (?:\w+ ){{0,3}}?{_HELP}\b"
        r"(?! you more)(?![^.!?\n]{0,40}\benough\b)",
        r"\bI (?:must|have to|will have to|am going to|'m going to)? ?(?:respectfully |politely )?(?:decline|refuse)\b",
        r"\bI(?: would|'d) (?:rather|prefer to) not\b",
        r"\badvise (?:\w+ )?against\b",
        rf"{_SORRY}(?:(?:as|since) [^.,]{{0,60}}, )?(?:I|that|this|it|we)\b[^.!?\n]{{0,60}}"
        r"(?:\bnot\b|n't\b|\bunable\b|\bagainst\b|\bdecline\b|\billegal\b)",
        rf"{_SORRY}no\b",
        r"\bI (?:do not|don't) have the (?:ability|capability|means|permission) to\b",
        r"\b(?:that|this|it)(?:'s| is) not something (?:that )?I\b",
        r"\b(?:against|violates?|contrary to) (?:my|our) \w+",
        r"\bmy (?:guidelines|principles|rules|programming) (?:do not|don't|does not|doesn't|forbid)",
        r"^\W*no\W+I (?:will not|won't|can ?not|can't)\b",
    )
]
_QUOTED = re.compile(r'"[^"\n]*"')

_HEDGES = re.compile(
    r"\b(?:may|might|perhaps|maybe|possibly|probably|likely|generally|typically|usually|often|sometimes|roughly|"
    r"approximately|in general|in some cases|it depends|depends on|depending on|tends? to|seems?|appears? to|"
    r"not (?:entirely |quite |completely )?(?:sure|certain)|I (?:think|believe|guess)|"
    r"it(?:'s| is) (?:important|worth|essential) (?:to note|noting|to remember|to consider))\b",
    re.IGNORECASE,
)


def refuses(text: str) -> bool:
    """Whether an answer refuses: its first `OPENING` characters say that the writer does not comply.

    That is: it cannot, will not or may not help, answer, write and the like; it declines; it is sorry and something is
    not possible or not right; it advises against it; or its rules forbid it. Text in quotation marks does not count. An
    answer that only says that something is wrong is no refusal.
    """
    plain = text.strip().strip('"').replace("’", "'").replace("“", '"').replace("”", '"')
    opening = _QUOTED.sub("", plain)[:OPENING]
    return any(pattern.search(opening) for pattern in _REFUSALS)


def hedges(text: str) -> int:
    """The number of hedges: words and phrases such as `perhaps`, `usually`, `it depends`, `it is important to note`."""
    return len(_HEDGES.findall(text.replace("’", "'")))


def is_list(text: str) -> bool:
    """Whether a text has a list: two or more lines with a bullet, or with a number and a period or parenthesis."""
    return len(BULLET.findall(text)) > 1 or len(NUMBERED.findall(text)) > 1


def length(text: str) -> int:
    """The number of words."""
    return len(words(text))
