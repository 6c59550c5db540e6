"""Who beats whom: the matrix of win rates, the pairs behind it, and the board that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accord.report.folder import Json
from accord.report.intervals import Interval, finite, interval_of, mapping, objects


@dataclass(frozen=True)
class Pair:
    """How often `model` beats `against`, and what else was counted."""

    model: str
    against: str
    raw: Interval
    controlled: Interval | None
    wins: int | None
    losses: int | None
    p: float | None
    ties: int
    invalid: int
    first_wins: float | None
    inconsistent: float | None


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix: the row's model against the column's; `shade` runs from −5 (loses) to 5 (wins)."""

    raw: Interval
    controlled: Interval | None
    shade: int


@dataclass(frozen=True)
class Rating:
    """A model's place on the board: log-odds over the mean of all, and the same as an Elo number."""

    name: str
    rating: Interval
    elo: Interval | None


def pairs_of(evaluation: Json) -> tuple[Pair, ...]:
    """Every pair of models whose answers were judged against each other."""
    found = []
    for row in objects(evaluation.get("pairs")):
        raw = interval_of(row)
        if raw is None:
            continue
        sign = mapping(row.get("sign_test"))
        found.append(
            Pair(
                str(row.get("model", "")),
                str(row.get("against", "")),
                raw,
                interval_of(row.get("length_controlled")),
                sign.get("wins"),
                sign.get("losses"),
                finite(sign.get("p")),
                row.get("ties") or 0,
                row.get("invalid") or 0,
                finite(row.get("first_wins")),
                finite(row.get("inconsistent")),
            )
        )
    return tuple(found)


def cells(pairs: Sequence[Pair]) -> dict[tuple[str, str], Cell]:
    """The matrix by (row, column): each pair from both sides."""
    found = {}
    for pair in pairs:
        controlled = pair.controlled
        found[pair.model, pair.against] = Cell(pair.raw, controlled, shade(pair.raw))
        mirrored = pair.raw.mirrored()
        found[pair.against, pair.model] = Cell(mirrored, controlled.mirrored() if controlled else None, shade(mirrored))
    return found


def shade(rate: Interval) -> int:
    """How strongly a cell is colored: a step for each tenth from an even match, none where the match may be even."""
    if rate.low <= 0.5 <= rate.high:
        return 0
    steps = max(1, min(5, round(abs(rate.estimate - 0.5) * 10)))
    return steps if rate.estimate > 0.5 else -steps


def board_of(evaluation: Json) -> tuple[Rating, ...]:
    """The board, best first; empty where there is none."""
    found = []
    for row in objects(evaluation.get("board")):
        rating = interval_of(row.get("rating"))
        if rating:
            found.append(Rating(str(row.get("name", "")), rating, interval_of(row.get("elo"))))
    return tuple(found)
