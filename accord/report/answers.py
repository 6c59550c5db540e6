"""Answers to the same prompt side by side, each token shaded by how much likelier the policy made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from accord.report.folder import Json
from accord.report.intervals import finite, mapping, objects
from accord.report.text import LONGEST, number, plain, visible

BOUNDS = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Nats at which the shade of a token grows; below the first it has none."""


@dataclass(frozen=True)
class Answer:
    """What one model answered, with its scores, and (token, log pi - log ref) where a reference is known."""

    model: str
    text: str
    scores: dict[str, Any]
    tokens: tuple[tuple[str, float], ...] = ()

    @property
    def log_ratio(self) -> float | None:
        """log pi - log ref of the whole answer, one sample of the divergence; None for an answer of the reference."""
        return sum(value for _, value in self.tokens) if any(value for _, value in self.tokens) else None


@dataclass(frozen=True)
class Asked:
    """One prompt and what every model answered."""

    prompt: str
    answers: tuple[Answer, ...]


def side_by_side(evaluation: Json) -> tuple[Asked, ...]:
    """The prompts of an evaluation whose answers it kept."""
    rows = objects(evaluation.get("side_by_side"))
    return tuple(Asked(plain(row.get("prompt")), tuple(map(_answer, objects(row.get("answers"))))) for row in rows)


def shaded(tokens: Sequence[tuple[str, float]]) -> Markup:
    """The tokens as spans: class m1-m5 where the policy makes a token likelier than the reference, l1-l5 where less.

    The log-ratio stands in the title of each. Nothing of a token may hide, as in `text.visible`; spaces between tokens
    are neither shaded nor signs, those that end the text are both. Answers over `LONGEST` characters are cut, and the
    page says by how much.
    """
    parts, length = [], 0
    for place, (token, value) in enumerate(tokens):
        is_last = place == len(tokens) - 1
        kept = token[: max(0, LONGEST - length)]
        length += len(token)
        if not kept:
            continue
        begun = kept.lstrip(" ")
        body = begun if is_last else begun.rstrip(" \n")
        level = strength(value)
        style = f' class="{"m" if value > 0 else "l"}{level}"' if level else ""
        span = Markup('<span title="{} nats"{}>{}</span>').format(signed(value), Markup(style), visible(body))
        parts.append(kept[: len(kept) - len(begun)] + span + begun[len(body) :])
    if length > LONGEST:
        parts.append(Markup('<span class="sign"> … {} more characters</span>').format(f"{length - LONGEST:,}"))
    return Markup("").join(parts)


def strength(value: float) -> int:
    """How many of the bounds a log-ratio reaches, 0 to 5."""
    return sum(abs(value) >= bound for bound in BOUNDS)


def signed(value: float) -> str:
    """A number with its sign."""
    return f"+{number(value)}" if value > 0 else number(value)


def _answer(row: Json) -> Answer:
    tokens = row.get("tokens")
    return Answer(
        str(row.get("model", "")),
        plain(row.get("text")),
        mapping(row.get("scores")),
        _tokens(tokens) if isinstance(tokens, list) else (),
    )


def _tokens(rows: list[Any]) -> tuple[tuple[str, float], ...]:
    """The tokens, where each is a text with a finite number; otherwise none, and the answer's text stands for them."""
    found = []
    for row in rows:
        if not isinstance(row, list) or len(row) != 2 or not isinstance(row[0], str) or finite(row[1]) is None:
            return ()
        found.append((row[0], float(row[1])))
    return tuple(found)
