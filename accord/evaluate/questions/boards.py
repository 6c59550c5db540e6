"""What `accord evaluate models` prints: the models, the board, and who beats whom."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress
from typing import Any

from rich.table import Table


def tables(result: dict[str, Any]) -> Iterator[Table]:
    """The models and their win rates; the board and the matrix too of three or more, or where none is held against."""
    yield models_table(result)
    if result["against"]:
        yield wins_table(result)
    if result["board"] and (len(result["models"]) > 2 or result["against"] is None):
        yield board_table(result)
        yield matrix_table(result)


def models_table(result: dict[str, Any]) -> Table:
    """A row a model: scores, divergence and length; what is known of none has no column."""
    names = list(result["models"][0]["scores"])
    titles = ["model", *names, "KL", "tokens", "characters", "ended"]
    rows = [
        [
            m["name"],
            *(f"{m['scores'][n]['estimate']:.3f}" for n in names),
            f"{'<= ' if m['kl']['bound'] else ''}{m['kl']['estimate']:.2f}" if m["kl"] else "",
            "" if m["length"] is None else f"{m['length']:.1f}",
            f"{m['characters']:.0f}",
            "" if m["ended"] is None else f"{m['ended']:.0%}",
        ]
        for m in result["models"]
    ]
    known = [any(column) for column in zip(*rows, strict=True)]
    grid = Table(*compress(titles, known))
    for row in rows:
        grid.add_row(*compress(row, known))
    return grid


def wins_table(result: dict[str, Any]) -> Table:
    """A row a model: its win rate over the one it is held against, what it counts, and what is left at equal length."""
    grid = Table("model", f"wins over {result['against']}", "won, tied, lost", "p", "at equal length")
    for m in result["models"]:
        won = m["win_rate"]
        if won is None:
            continue
        controlled, sign = won["length_controlled"], won["sign_test"]
        counts = f"{sign['wins']}, {won['ties']}, {sign['losses']}"
        grid.add_row(
            m["name"],
            "no valid verdict" if won["estimate"] is None else _share(won),
            counts + (f"; {won['invalid']} invalid" if won["invalid"] else ""),
            "< .0001" if sign["p"] < 0.0001 else f"{sign['p']:.2g}",
            _share(controlled) if controlled else "",
        )
    return grid


def board_table(result: dict[str, Any]) -> Table:
    """The board, the best first."""
    grid = Table("", "model", "rating (log-odds)", "Elo points over the mean", title="Bradley-Terry board")
    for place, row in enumerate(result["board"], start=1):
        grid.add_row(str(place), row["name"], _interval(row["rating"], "+.2f"), _interval(row["elo"], "+.0f"))
    return grid


def matrix_table(result: dict[str, Any]) -> Table:
    """How often the row's model beats the column's, models in the order of the board."""
    rates = {(p["model"], p["against"]): p["estimate"] for p in result["pairs"]}
    rates |= {(b, a): None if rate is None else 1 - rate for (a, b), rate in rates.items()}
    names = [row["name"] for row in result["board"]]
    grid = Table("beats", *names, title="win rates")
    for name in names:
        found = (rates.get((name, other)) for other in names)
        grid.add_row(name, *("" if rate is None else f"{rate:.1%}" for rate in found))
    return grid


def _interval(interval: dict[str, Any], form: str) -> str:
    low, high = (format(interval[end], form) for end in ("low", "high"))
    return f"{interval['estimate']:{form}} [{low}, {high}]"


def _share(interval: dict[str, Any]) -> str:
    low, high = (f"{100 * interval[end]:.1f}" for end in ("low", "high"))
    return f"{interval['estimate']:.1%} [{low}, {high}]"
