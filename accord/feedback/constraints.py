"""Constraints on an answer that a program can check, as in IFEval (Zhou et al. 2023, arXiv:2311.07911).

    words, sentences, lines, paragraphs     how many: 3 for exactly three, or {at_least: 2, at_most: 5}
    bullets, numbered, placeholders         bulleted or numbered list items, [places to fill in]: how many, as above
    times: {WORD: 2}                        how often a word occurs, as above
    include: [WORD, ...]                    all of these words or phrases occur
    avoid: [WORD, ...]                      none of them occurs
    without: [TEXT, ...]                    none of these strings occurs, not even inside words
    case: lower | upper                     no letter of the other case
    begins: TEXT, ends: TEXT                how the answer begins and ends
    json: true, or [KEY, ...]               the whole answer is JSON, or an object with these keys
    matches: PATTERN                        the whole answer matches a regular expression

Constraints are a mapping of these, all of which must hold. White space around an answer never counts, nor does letter
case in words and phrases. Words are runs of letters, digits and what joins them (`don't`, `well-known`); sentences end
with a full stop, question or exclamation mark before white space, so `Dr. Who` is two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import regex as timed

from accord.errors import InputError, located, nearest

PATTERN_SECONDS = 1
"""The most seconds for a pattern on an answer; beyond it the answer does not match."""

BULLET = re.compile(r"^\s*[-*•+]\s+\S", re.MULTILINE)
"""A line of a bulleted list."""
NUMBERED = re.compile(r"^\s*\d+[.)]\s+\S", re.MULTILINE)
"""A line of a numbered list."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL | re.IGNORECASE)
_BOUNDS = ("exactly", "at_least", "at_most")


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint: the name of its check, and whether it holds for an answer."""

    name: str
    holds: Callable[[str], bool]


def words(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(text)


def parse(entry: Any) -> tuple[Constraint, ...]:
    """The constraints in a mapping; InputError where there is no such check, or its value does not fit."""
    filled = _filled(entry)
    if not isinstance(filled, Mapping) or not filled:
        raise InputError(f"constraints are a mapping with some of {', '.join(CHECKS)}, not {entry!r}")
    constraints = []
    for name, value in filled.items():
        if name not in CHECKS:
            raise InputError(
                f"there is no check {name!r}{nearest(str(name), CHECKS)}; the checks are {', '.join(CHECKS)}"
            )
        with located(f"{name}: "):
            constraints.append(Constraint(name, CHECKS[name](value)))
    return tuple(constraints)


def _filled(value: Any) -> Any:
    """A mapping without None values, which Parquet adds for keys that only other rows have."""
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else value


def _count(of: Callable[[str], int]) -> Callable[[Any], Callable[[str], bool]]:
    """A check that a count is within given bounds."""

    def check(value: Any) -> Callable[[str], bool]:
        within = _bounds(value)
        return lambda text: within(of(text))

    return check


def _bounds(value: Any) -> Callable[[int], bool]:
    bounds = {"exactly": value} if isinstance(value, int) else _filled(value)
    is_known = isinstance(bounds, Mapping) and bounds and set(bounds) <= set(_BOUNDS)
    if not is_known or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in bounds.values()):
        raise InputError(f"give a whole number, or some of {', '.join(_BOUNDS)} with one, not {value!r}")
    low, high = bounds.get("at_least", 0), bounds.get("at_most", float("inf"))
    exactly = bounds.get("exactly")
    if low > high or (exactly is not None and not low <= exactly <= high):
        raise InputError(f"no number can be within {value!r}")
    return lambda n: low <= n <= high and exactly in (None, n)


def _paragraphs(text: str) -> int:
    return len([part for part in re.split(r"\n\s*\n", text) if part.strip()])


def _sentences(text: str) -> int:
    return len([part for part in _SENTENCE_END.split(text) if words(part)])


def occurrences(phrase: str) -> re.Pattern[str]:
    """A pattern for a word or phrase that is not part of other words, with any white space inside."""
    inner = r"\s+".join(map(re.escape, phrase.split()))
    begin, end = (r"\b" if sign.isalnum() else "" for sign in (phrase.strip()[0], phrase.strip()[-1]))
    return re.compile(f"{begin}{inner}{end}", re.IGNORECASE)


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise InputError(f"give a text, or a list of texts, in quotes where YAML reads them otherwise, not {value!r}")
    return texts


def _times(value: Any) -> Callable[[str], bool]:
    filled = _filled(value)
    if not isinstance(filled, Mapping) or not filled:
        raise InputError(f"give words, each with how often it must occur, not {value!r}")
    wanted = [(occurrences(_texts(word)[0]), _bounds(bounds)) for word, bounds in filled.items()]
    return lambda text: all(within(len(pattern.findall(text))) for pattern, within in wanted)


def _include(value: Any) -> Callable[[str], bool]:
    patterns = [occurrences(phrase) for phrase in _texts(value)]
    return lambda text: all(pattern.search(text) for pattern in patterns)


def _avoid(value: Any) -> Callable[[str], bool]:
    patterns = [occurrences(phrase) for phrase in _texts(value)]
    return lambda text: not any(pattern.search(text) for pattern in patterns)


def _without(value: Any) -> Callable[[str], bool]:
    parts = [part.casefold() for part in _texts(value)]
    return lambda text: not any(part in text.casefold() for part in parts)


def _case(value: Any) -> Callable[[str], bool]:
    if value not in ("lower", "upper"):
        raise InputError(f"it is lower or upper, not {value!r}")
    return str.islower if value == "lower" else str.isupper  # both are false without a letter


def _begins(value: Any) -> Callable[[str], bool]:
    (begin,) = _texts(value)[:1]
    return lambda text: text.casefold().startswith(begin.strip().casefold())


def _ends(value: Any) -> Callable[[str], bool]:
    (end,) = _texts(value)[:1]
    return lambda text: text.casefold().endswith(end.strip().casefold())


def _json(value: Any) -> Callable[[str], bool]:
    keys = None if value is True else set(_texts(value))

    def holds(text: str) -> bool:
        fenced = _FENCE.fullmatch(text)
        try:
            value = json.loads(fenced[1] if fenced else text)
        except (ValueError, RecursionError):
            return False
        return keys is None or (isinstance(value, dict) and keys <= set(value))

    return holds


def _matches(value: Any) -> Callable[[str], bool]:
    try:
        pattern = timed.compile(_texts(value)[0])
    except timed.error as error:
        raise InputError(f"the pattern {value!r} is not a regular expression ({error})") from None

    def holds(text: str) -> bool:
        try:
            return pattern.fullmatch(text, timeout=PATTERN_SECONDS) is not None
        except TimeoutError:
            return False

    return holds


def _stripped(check: Callable[[Any], Callable[[str], bool]]) -> Callable[[Any], Callable[[str], bool]]:
    def made(value: Any) -> Callable[[str], bool]:
        holds = check(value)
        return lambda text: holds(text.strip())

    return made


CHECKS: dict[str, Callable[[Any], Callable[[str], bool]]] = {
    name: _stripped(check)
    for name, check in {
        "words": _count(lambda text: len(words(text))),
        "sentences": _count(_sentences),
        "lines": _count(lambda text: sum(bool(line.strip()) for line in text.splitlines())),
        "paragraphs": _count(_paragraphs),
        "bullets": _count(lambda text: len(BULLET.findall(text))),
        "numbered": _count(lambda text: len(NUMBERED.findall(text))),
        "placeholders": _count(lambda text: len(re.findall(r"\[[^\[\]\n]+\]", text))),
        "times": _times,
        "include": _include,
        "avoid": _avoid,
        "without": _without,
        "case": _case,
        "begins": _begins,
        "ends": _ends,
        "json": _json,
        "matches": _matches,
    }.items()
}
"""The checks by name: from a constraint's value to a function that says whether an answer meets it."""
